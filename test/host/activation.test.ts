/** The daemon behind a socket that systemd holds: it comes with the first command, and goes when nothing needs it. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { lacking } from '../bundle/sample-bundle.ts';
import { daemonSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';

const LIMIT = { timeout: paced(60_000) };
const BANGER = join(import.meta.dirname, '../../dist/banger');
const skip = daemonSkip() || lacking('systemd-socket-activate');

/** Does what the unit of the socket does, once: listens, leaves the mark, and becomes the daemon at the first connection. */
async function activate(
  t: TestContext,
  host: TestHost,
  env: Record<string, string> = {},
  program = BANGER,
): Promise<ChildProcess> {
  await mkdir(join(host.home, 'run'), { recursive: true, mode: 0o700 });
  const mark = join(host.home, 'run/bangerd.activated');
  if (!existsSync(mark)) await symlink('bangerd.sock', mark);
  const variables = Object.entries({ ...host.env, ...env }).filter(([name]) => /^BANGER_/.test(name));
  const argv = [
    ...['-l', host.socket],
    ...variables.flatMap(([name, value]) => ['-E', `${name}=${value}`]),
    ...[program, 'daemon', 'run'],
  ];
  const child = spawn('systemd-socket-activate', argv, { env: { ...host.env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stderr?.on('data', (chunk) => (said += chunk));
  child.stdout?.resume();
  t.after(() => child.kill('SIGTERM'));
  await until('it listens', () => said.includes('Listening on'));
  return child;
}

describe('a daemon behind a socket of systemd', { skip }, () => {
  it('comes with the first command that needs it, goes when idle, and leaves the socket', LIMIT, async (t) => {
    await using host = await TestHost.create();
    // longer than the command that asks for its status takes to come
    const systemd = await activate(t, host, { BANGER_DAEMON_IDLE_TIMEOUT: `${paced(2000)}ms` });
    const exited = once(systemd, 'exit');
    // these start none
    await host.fails(3, ['daemon', 'status'], [/No daemon answers/]);
    assert.equal(await host.ok('ls', '--names'), '');
    assert.match(await host.ok('daemon', 'stop'), /No daemon runs/);
    assert.match(await host.ok('version'), /daemon +not running/);

    assert.equal(await host.ok('ls'), '');
    assert.match(await host.ok('daemon', 'status'), new RegExp(`process +${systemd.pid}\\b`));
    // what the daemon starts must not hold the socket
    const flags = await readFile(`/proc/${systemd.pid}/fdinfo/3`, 'utf8');
    assert.ok(Number.parseInt(/flags:\s+(\d+)/.exec(flags)?.[1] ?? '0', 8) & 0o2000000, flags);
    assert.deepEqual(await exited, [0, null]);
    assert.equal(existsSync(host.socket), true, 'it is not the daemon’s to remove');
    assert.equal(existsSync(join(host.home, 'run/bangerd.pid')), false);
    await host.fails(3, ['daemon', 'status'], [/No daemon answers/]);
  });

  it('stays while a client follows something', LIMIT, async (t) => {
    await using host = await TestHost.create();
    const systemd = await activate(t, host, { BANGER_DAEMON_IDLE_TIMEOUT: '500ms' });
    const follower = host.begin(['events', '--follow']);
    await until('the daemon runs', () => existsSync(join(host.home, 'run/bangerd.pid')), paced(20_000));
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.equal(systemd.exitCode, null);
    const exited = once(systemd, 'exit');
    follower.child.kill('SIGINT');
    await exited;
  });

  it('says to the command that started it why it cannot start', LIMIT, async (t) => {
    await using host = await TestHost.create();
    const systemd = await activate(t, host, { BANGER_NETWORK_POOL: 'somewhere' });
    const exited = once(systemd, 'exit');
    await host.fails(3, ['ls'], [/The daemon cannot start: .*somewhere/s, /banger config check/]);
    // what systemd does not start it again for
    assert.deepEqual(await exited, [78, null]);
  });

  it('makes room for the program that replaced its own', LIMIT, async (t) => {
    await using host = await TestHost.create();
    const program = join(await tempDir(t), 'banger');
    await copyFile(BANGER, program);
    const systemd = await activate(t, host, {}, program);
    const exited = once(systemd, 'exit');
    await host.ok('ls');
    await copyFile(BANGER, `${program}.new`);
    await rename(`${program}.new`, program);
    // what systemd starts it again for
    assert.deepEqual(await exited, [5, null]);
  });

  it('takes over from a daemon that a command had started there', LIMIT, async (t) => {
    await using host = await TestHost.create();
    const { pid } = await host.daemon();
    const systemd = await activate(t, host);
    await host.ok('ls');
    assert.notEqual(systemd.pid, pid);
    assert.match(await host.ok('daemon', 'status'), new RegExp(`process +${systemd.pid}\\b`));
    await until('the other one is gone', () => !existsSync(`/proc/${pid}`));
    await host.ok('daemon', 'stop');
  });
});
