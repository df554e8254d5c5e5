import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { duplexPair } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerChannel } from 'ssh2';
import { createFrameDecoder, FRAME } from '../../../src/api/exec-frames.ts';
import type { Host } from '../../../src/control/host.ts';
import { execInVm } from '../../../src/control/vm/exec.ts';
import { connectSsh } from '../../../src/guest/ssh.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { sampleVm } from '../../support/sample-vm.ts';

describe('a command in a guest', () => {
  it('has its exit status passed on when the guest answers with everything at once', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const guests = { get: async () => connection };
    // of the host, nothing else is looked at
    const host = { guests } as unknown as Host;
    for (let round = 0; round < 5; round++) {
      const [client, daemon] = duplexPair();
      const received = buffer(client);
      await execInVm(host, sampleVm({ phase: 'running' }), { argv: ['true'] }, daemon);
      const frames = [...createFrameDecoder()(await received)];
      const exit = frames.find(({ type }) => type === FRAME.exit);
      assert.deepEqual(JSON.parse(exit?.payload.toString() ?? '{}'), { code: 0, signal: null });
    }
  });

  it('delivers all of its output to a client that takes it long after the command has ended', async (t) => {
    const { target } = await sshGuest(t, () => true, inShell);
    await using connection = await connectSsh(target, 5000);
    const host = { guests: { get: async () => connection } } as unknown as Host;
    const [client, daemon] = duplexPair();
    const run = execInVm(
      host,
      sampleVm({ phase: 'running' }),
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
    const host = { guests: { get: async () => connection } } as unknown as Host;
    const [client, daemon] = duplexPair();
    const received = buffer(client);
    await execInVm(host, sampleVm({ phase: 'running' }), { argv: ['echo', 'hi'] }, daemon);
    const frames = [...createFrameDecoder()(await received)];
    assert.deepEqual(
      frames.map(({ type }) => type),
      [FRAME.stdout, FRAME.error],
    );
    assert.match(frames[1]?.payload.toString() ?? '', /did not run the command: the login shell ended with 0/);
  });
});

/** Runs the command as the guest's login shell would. */
function inShell(command: string, channel: ServerChannel): void {
  const child = spawn('sh', ['-c', command], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.pipe(channel, { end: false });
  child.stderr.pipe(channel.stderr, { end: false });
  child.once('close', (code) => {
    channel.exit(code ?? 255);
    channel.end();
  });
}
