import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { duplexPair } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerChannel } from 'ssh2';
import { createFrameDecoder, encodeFrame, FRAME } from '../../../src/api/exec-frames.ts';
import type { Host } from '../../../src/control/host.ts';
import { execInVm } from '../../../src/control/vm/exec.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import { connectSsh, type SshConnection } from '../../../src/guest/ssh.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createVmStore } from '../../../src/state/vms.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { NO_AGENTS } from '../../support/no-agents.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { socketPair } from '../../support/socket-pair.ts';

const life = { resume: () => assert.fail('nobody resumes') };

describe('a command in a guest', () => {
  it('has its exit status passed on when the guest answers with everything at once', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm } = hostWith(connection);
    for (let round = 0; round < 5; round++) {
      const [client, daemon] = duplexPair();
      const received = buffer(client);
      await execInVm(host, life, vm, { argv: ['true'] }, daemon);
      const frames = [...createFrameDecoder()(await received)];
      const exit = frames.find(({ type }) => type === FRAME.exit);
      assert.deepEqual(JSON.parse(exit?.payload.toString() ?? '{}'), { code: 0, signal: null });
    }
  });

  it('delivers all of its output to a client that takes it long after the command has ended', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm } = hostWith(connection);
    const [client, daemon] = duplexPair();
    const run = execInVm(
      host,
      life,
      vm,
      { argv: ['sh', '-c', 'head -c 1500000 /dev/zero >&2; head -c 700000 /dev/zero'] },
      daemon,
    );
    await sleep(300); // the guest has closed the channel, the client has read nothing
    const received = await buffer(client);
    await run;
    const frames = [...createFrameDecoder()(received)];
    const bytes = (type: number) =>
      frames.reduce((sum, frame) => sum + (frame.type === type ? frame.payload.length : 0), 0);
    assert.deepEqual([bytes(FRAME.stderr), bytes(FRAME.stdout)], [1_500_000, 700_000]);
    assert.equal(frames.at(-1)?.type, FRAME.exit);
  });

  it('is not reported as done when the login shell ended before it', async (t) => {
    const { target } = await sshGuest(
      t,
      () => true,
      (_command, channel) => {
        channel.write('This account is not available.\n');
        channel.exit(0);
        channel.end();
      },
    );
    await using connection = await connectSsh(target, 5000);
    const { host, vm } = hostWith(connection);
    const [client, daemon] = duplexPair();
    const received = buffer(client);
    await execInVm(host, life, vm, { argv: ['echo', 'hi'] }, daemon);
    const frames = [...createFrameDecoder()(await received)];
    assert.deepEqual(
      frames.map(({ type }) => type),
      [FRAME.stdout, FRAME.error],
    );
    assert.match(frames[1]?.payload.toString() ?? '', /did not run the command: the login shell ended with 0/);
  });

  it('waits until the guest is ready, unless it is told not to', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm, vms } = hostWith(connection, { ready: null });
    const exec = (until?: 'reachable') => {
      const [client, daemon] = duplexPair();
      const run = execInVm(host, life, vm, { argv: ['true'], ...(until ? { until } : {}) }, daemon);
      return { run, received: buffer(client) };
    };
    const eager = exec('reachable');
    await eager.run;
    assert.deepEqual(await framesOf(eager.received), [FRAME.exit]);
    const patient = exec();
    let ended = false;
    void patient.run.then(() => {
      ended = true;
    });
    await exec('reachable').run;
    assert.equal(ended, false);
    vms.update(vm.id, { ready: READY });
    assert.deepEqual(await framesOf(patient.received), [FRAME.exit]);
  });

  it('is sent little input before the guest is ready, and gets all of it then', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm, vms } = hostWith(connection, { ready: null });
    const [client, daemon] = await socketPair(t);
    const received = buffer(client);
    const run = execInVm(host, life, vm, { argv: ['wc', '-c'] }, daemon);
    const blocks = 500;
    let written = 0;
    const chunk = encodeFrame(FRAME.stdin, Buffer.alloc(65_536));
    for (let block = 0; block < blocks; block++) client.write(chunk, () => written++);
    client.write(encodeFrame(FRAME.stdinEnd));
    await sleep(300);
    assert.ok(written < 50, `${written} blocks of 64 KiB were taken while nobody was there to have them`);
    vms.update(vm.id, { ready: READY });
    await run;
    const frames = [...createFrameDecoder()(await received)];
    const said = frames.filter(({ type }) => type === FRAME.stdout).map(({ payload }) => payload.toString());
    assert.equal(said.join('').trim(), `${blocks * 65_536}`);
  });

  it('waits through a start that is under way, and says so when a guest has had its time', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm, vms, active } = hostWith(connection, { phase: 'starting', ready: null });
    active.current = { id: 'op1', kind: 'vm.start' };
    const [client, daemon] = duplexPair();
    const received = buffer(client);
    const run = execInVm(host, life, vm, { argv: ['true'] }, daemon);
    vms.update(vm.id, { phase: 'running', startedAt: new Date(Date.now() - 59_500).toISOString(), bootMs: 0 });
    await run;
    assert.deepEqual(await framesOf(received), [FRAME.notice, FRAME.exit]);
    assert.match((await received).toString(), /web is not ready after 1 m;.*all the same/);
  });

  it('goes over to the next run of a guest that goes down while its connection is opened', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm, vms, active } = hostWith(connection);
    const asked = Promise.withResolvers<void>();
    let gone = true;
    host.guests.get = async () => {
      if (!gone) return connection;
      asked.resolve();
      return await new Promise<SshConnection>(() => {});
    };
    const [client, daemon] = duplexPair();
    const received = buffer(client);
    const run = execInVm(host, life, vm, { argv: ['true'] }, daemon);
    await asked.promise;
    active.current = { id: 'op1', kind: 'vm.start' };
    vms.update(vm.id, { phase: 'starting', ready: null });
    gone = false;
    vms.update(vm.id, { phase: 'running', startedAt: new Date(Date.now() + 1).toISOString(), ready: READY });
    await run;
    assert.deepEqual(await framesOf(received), [FRAME.exit]);
  });

  it('is begun once in a guest that is held for a moment while its connection is opened', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm, vms } = hostWith(connection);
    const [asked, opened] = [Promise.withResolvers<void>(), Promise.withResolvers<SshConnection>()];
    let times = 0;
    host.guests.get = async () => {
      times += 1;
      asked.resolve();
      return await opened.promise;
    };
    const [client, daemon] = duplexPair();
    const received = buffer(client);
    const run = execInVm(host, life, vm, { argv: ['true'] }, daemon);
    await asked.promise;
    vms.update(vm.id, { phase: 'suspending' });
    await sleep(20);
    vms.update(vm.id, { phase: 'running' });
    opened.resolve(connection);
    await run;
    assert.deepEqual(await framesOf(received), [FRAME.exit]);
    assert.equal(times, 1);
  });

  it('is refused by a VM that neither runs nor is being started', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const { host, vm } = hostWith(connection, { phase: 'stopped' });
    const [client, daemon] = duplexPair();
    const received = buffer(client);
    await execInVm(host, life, vm, { argv: ['true'] }, daemon);
    assert.match((await received).toString(), /web is not running \(stopped\)/);
  });
});

const READY = { ms: 9000, failedUnits: [] };

/** A host with one VM whose guest is reached by `connection`; of a host, nothing else is looked at. */
function hostWith(connection: SshConnection, changes: Partial<VmRecord> = {}) {
  const vms = createVmStore(openDatabase(':memory:'));
  const vm = sampleVm({ phase: 'running', startedAt: new Date().toISOString(), ready: READY, ...changes });
  vms.insert(vm);
  const active: { current?: { id: string; kind: string } } = {};
  const host = {
    stores: { vms, sessions: { begin: () => ({ [Symbol.dispose]: () => {} }) } },
    guests: { get: async () => connection },
    agents: NO_AGENTS,
    operations: { activeOn: () => active.current, finished: () => new Promise(() => {}) },
    config: { limits: { readyTimeoutMs: 60_000 } },
    now: () => new Date(),
  } as unknown as Host;
  return { host, vm, vms, active };
}

async function framesOf(received: Promise<Buffer>): Promise<number[]> {
  return [...createFrameDecoder()(await received)].map(({ type }) => type);
}

/** Runs the command as the guest's login shell would. */
function inShell(command: string, channel: ServerChannel): void {
  const child = spawn('sh', ['-c', command], { stdio: ['pipe', 'pipe', 'pipe'] });
  child.stdin.on('error', () => {});
  channel.pipe(child.stdin);
  child.stdout.pipe(channel, { end: false });
  child.stderr.pipe(channel.stderr, { end: false });
  child.once('close', (code) => {
    channel.exit(code ?? 255);
    channel.end();
  });
}
