import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { link, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it, mock } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { renderUnit } from '../../src/cli/shared/systemd-unit.ts';
import { createClient } from '../../src/client/client.ts';
import { EXIT_START_REFUSED } from '../../src/client/daemon-start.ts';
import { createIdleEnd, type IdleHost, isBusy, neededFor } from '../../src/daemon/idle.ts';
import { takeDaemonLock } from '../../src/daemon/lock.ts';
import { isProgramReplaced } from '../../src/daemon/replaced.ts';
import { lockHolder, takeLockOver } from '../../src/daemon/take-over.ts';
import type { BangerError } from '../../src/errors.ts';
import { takeActivationSocket } from '../../src/system/activation.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('the socket that systemd hands over', () => {
  it('is taken by the process it is meant for, and by none that this starts', () => {
    const env = { LISTEN_PID: '42', LISTEN_FDS: '1', LISTEN_FDNAMES: 'x', HOME: '/h' };
    assert.equal(takeActivationSocket(env, 42), 3);
    assert.deepEqual(env, { HOME: '/h' });
    assert.equal(takeActivationSocket({ LISTEN_PID: '41', LISTEN_FDS: '1' }, 42), undefined);
    assert.equal(takeActivationSocket({ LISTEN_PID: '42', LISTEN_FDS: '0' }, 42), undefined);
    assert.equal(takeActivationSocket({}, 42), undefined);
    assert.throws(() => takeActivationSocket({ LISTEN_PID: '42', LISTEN_FDS: '2' }, 42), {
      code: 'invalid_input',
      message: /handed 2 sockets/,
    });
  });

  it('answers with the reason when the daemon cannot start', async (t) => {
    const dir = await tempDir(t);
    const socketPath = join(dir, 'd.sock');
    const listening = createServer().listen(join(dir, 'first.sock'));
    await once(listening, 'listening');
    const script = `
      const { refuseClients } = await import(${JSON.stringify(import.meta.resolve('../../src/daemon/activation.ts'))});
      const { BangerError } = await import(${JSON.stringify(import.meta.resolve('../../src/errors.ts'))});
      await refuseClients(3, new BangerError('invalid_input', 'no such pool', { hint: 'set one' }));`;
    // biome-ignore lint/suspicious/noExplicitAny: its handle is what a child inherits, and Node has no other name for it
    const handle = (listening as any)._handle;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'inherit', 'inherit', handle],
    });
    const exited = once(child, 'exit');
    // the one that handed it over accepts nothing itself; closing takes the name away that it was made under
    await link(join(dir, 'first.sock'), socketPath);
    listening.close();
    let error: unknown;
    for (let tries = 0; tries < 200 && !error; tries++) {
      error = await createClient({ socketPath })
        .call('listVms', {})
        .catch((reason) => (reason.message.includes('pool') ? reason : undefined));
      await sleep(20);
    }
    assert.partialDeepStrictEqual(
      { ...(error as BangerError), message: (error as BangerError).message },
      {
        code: 'daemon_unreachable',
        message: 'The daemon cannot start: no such pool',
        hint: 'set one',
      },
    );
    assert.deepEqual((await exited)[0], 0, 'it ends by itself');
  });
});

describe('a daemon that systemd starts and that cannot start', () => {
  const PROGRAM = join(import.meta.dirname, '../../bin/banger.ts');

  /** Runs the daemon as systemd does: what it listens on is its third descriptor, and variables name its process. */
  async function runAs(home: string, variables: string): Promise<{ status: number | null; said: string }> {
    const listening = createServer().listen(join(home, 'd.sock'));
    await once(listening, 'listening');
    // biome-ignore lint/suspicious/noExplicitAny: its handle is what a child inherits, and Node has no other name for it
    const handle = (listening as any)._handle;
    const script = `${variables} exec "$0" "$1" daemon run`;
    const child = spawn('sh', ['-c', script, process.execPath, PROGRAM], {
      stdio: ['ignore', 'ignore', 'pipe', handle],
      env: { PATH: process.env.PATH, HOME: home, BANGER_HOME: home },
    });
    let said = '';
    child.stderr?.on('data', (chunk) => (said += chunk));
    const [status] = await once(child, 'close');
    listening.close();
    return { status, said };
  }

  it('ends with a status of its own, whoever started it says which', async (t) => {
    const home = await tempDir(t);
    await writeFile(join(home, 'config.toml'), 'no such thing\n');
    const byHand = await runAs(home, '');
    assert.equal(byHand.status, 2, byHand.said);
    for (const variables of [
      'LISTEN_PID=$$ LISTEN_FDS=1',
      'LISTEN_PID=$$ LISTEN_FDS=2', // a unit with a socket too many
      'SYSTEMD_EXEC_PID=$$', // a unit without one
    ]) {
      const { status, said } = await runAs(home, variables);
      assert.equal(status, EXIT_START_REFUSED, said);
      assert.match(said, variables.endsWith('2') ? /handed 2 sockets/ : /config\.toml/, 'the reason is in the journal');
    }
    const below = await runAs(home, 'SYSTEMD_EXEC_PID=1');
    assert.equal(below.status, 2, 'the variable is of a service that this was started from');
  });

  it('is not started again for that, and is for everything else', async () => {
    const packaged = ['user', 'system'].map((kind) =>
      readFile(join(import.meta.dirname, `../../packaging/systemd/bangerd-${kind}.service`), 'utf8'),
    );
    for (const unit of [
      ...(await Promise.all(packaged)),
      renderUnit(['/b'], {}, true),
      renderUnit(['/b'], {}, false),
    ]) {
      assert.match(unit, /^Restart=on-failure$/m);
      assert.match(unit, new RegExp(`^RestartPreventExitStatus=${EXIT_START_REFUSED}$`, 'm'));
    }
    // a service that was started too often takes its socket with it
    for (const unit of await Promise.all(packaged)) assert.match(unit, /^StartLimitIntervalSec=0$/m);
  });
});

describe('a daemon that systemd starts again', () => {
  const host = (change: Partial<{ vms: object[]; builds: object[]; operations: number; metrics: boolean }> = {}) =>
    ({
      config: { metrics: { listen: change.metrics ?? false, port: 1 } },
      stores: { vms: { list: () => change.vms ?? [] }, buildVms: { busy: () => change.builds ?? [] } },
      operations: { runningCount: () => change.operations ?? 0 },
    }) as unknown as IdleHost;
  const vm = sampleVm({ phase: 'stopped' });

  it('is needed by clients, operations, VMs that run or shall, and by whoever scrapes it', () => {
    assert.equal(neededFor(host(), 0), undefined);
    assert.equal(neededFor(host({ vms: [vm, { ...vm, phase: 'failed' }] }), 0), undefined);
    assert.match(neededFor(host(), 1) ?? '', /clients/);
    assert.match(neededFor(host({ operations: 1 }), 0) ?? '', /operations/);
    for (const phase of ['creating', 'starting', 'running', 'stopping', 'suspending', 'suspended', 'resuming'])
      assert.match(neededFor(host({ vms: [{ ...vm, phase }] }), 0) ?? '', /VMs that run/, phase);
    const restarts = { attempts: 1, nextAt: '2026-01-02T03:04:05Z' };
    assert.match(neededFor(host({ vms: [{ ...vm, restarts }] }), 0) ?? '', /started again/);
    assert.match(neededFor(host({ builds: [vm] }), 0) ?? '', /image build/);
    assert.match(neededFor(host({ metrics: true }), 0) ?? '', /metrics/);
  });

  it('ends once nothing has needed it for its time, counted from the last need', (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] });
    let now = 0;
    t.mock.method(performance, 'now', () => now);
    const pass = (ms: number) => {
      for (let left = ms; left > 0; left -= 100) {
        now += 100;
        t.mock.timers.tick(100);
      }
    };
    let need: string | undefined = 'clients';
    const end = mock.fn();
    using idle = createIdleEnd(1000, () => need, end);
    pass(5000);
    need = undefined;
    pass(900);
    idle.used();
    pass(900);
    assert.equal(end.mock.callCount(), 0);
    pass(200);
    assert.equal(end.mock.callCount(), 1);
    pass(5000);
    assert.equal(end.mock.callCount(), 1, 'it ends once');
  });

  it('stays for ever where it is told to', (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] });
    const end = mock.fn();
    using _idle = createIdleEnd(0, () => undefined, end);
    t.mock.timers.tick(1_000_000);
    assert.equal(end.mock.callCount(), 0);
  });
});

describe('a daemon whose program was replaced', () => {
  it('is known by the name that its file has lost, and only where there is another one', async (t) => {
    const dir = await tempDir(t);
    const [program, link] = [join(dir, 'banger'), join(dir, 'exe')];
    await writeFile(program, '');
    await symlink(program, link);
    assert.equal(isProgramReplaced([program], link), false);
    await rm(link);
    await symlink(`${program} (deleted)`, link);
    assert.equal(isProgramReplaced([program], link), true);
    assert.equal(isProgramReplaced([program, 'bin/banger.ts'], link), false, 'it runs from source');
    assert.equal(isProgramReplaced([join(dir, 'removed')], link), false);
    assert.equal(isProgramReplaced([program], join(dir, 'nowhere')), false);
  });

  it('waits for clients, operations and builds, not for VMs', () => {
    const host = (operations: number, builds: object[]) =>
      ({
        stores: { vms: { list: () => [sampleVm({ phase: 'running' })] }, buildVms: { busy: () => builds } },
        operations: { runningCount: () => operations },
      }) as unknown as IdleHost;
    assert.equal(isBusy(host(0, []), 0), false);
    for (const busy of [isBusy(host(0, []), 1), isBusy(host(1, []), 0), isBusy(host(0, [{}]), 0)]) assert.ok(busy);
  });
});

describe('the lock of a daemon that lost its socket', () => {
  it('is taken over: the other one ends first, and only a daemon is ended', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'daemon.lock');
    const holder = (name: string) =>
      `import { rmSync, writeFileSync } from 'node:fs';
       writeFileSync('/proc/self/comm', '${name}');
       const { takeDaemonLock } = await import(${JSON.stringify(import.meta.resolve('../../src/daemon/lock.ts'))});
       const lock = takeDaemonLock(${JSON.stringify(path)});
       process.on('SIGTERM', () => { rmSync(${JSON.stringify(join(dir, 'd.sock'))}); lock[Symbol.dispose](); process.exit(0); });
       setInterval(() => {}, 1000);
       writeFileSync(${JSON.stringify(join(dir, 'ready'))}, '${name}');`;
    const begin = async (name: string) => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', holder(name)], {
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      t.after(() => child.kill('SIGKILL'));
      while ((await readFile(join(dir, 'ready'), 'utf8').catch(() => '')) !== name) await sleep(10);
      return child;
    };
    const socket = join(dir, 'd.sock');
    await writeFile(socket, 'of systemd');
    const told: object[] = [];
    const log = { info: (facts: object) => void told.push(facts) };

    const stranger = await begin('editor');
    assert.equal(await lockHolder(path), undefined);
    await assert.rejects(takeLockOver(path, socket, log), { code: 'conflict' });
    assert.equal(stranger.exitCode, null);
    stranger.kill('SIGKILL');
    await once(stranger, 'exit');

    const daemon = await begin('bangerd');
    assert.equal(await lockHolder(path), daemon.pid);
    const exited = once(daemon, 'exit');
    const lock = await takeLockOver(path, socket, log);
    assert.deepEqual(await exited, [0, null]);
    assert.deepEqual(told, [{ pid: daemon.pid }]);
    assert.equal(await readFile(socket, 'utf8'), 'of systemd', 'what the other one took for its own is back');
    assert.deepEqual(
      (await readdir(dir)).filter((name) => name.includes('kept')),
      [],
    );
    assert.throws(() => takeDaemonLock(path), { code: 'conflict' });
    lock[Symbol.dispose]();
    await writeFile(join(dir, 'ready'), '');
  });
});
