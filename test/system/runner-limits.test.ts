import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { endProcess, findProcessesByArgument } from '../../src/system/processes.ts';
import { createRunner, QUIET_MS, SETTLE_MS } from '../../src/system/runner.ts';
import { until } from '../support/host.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();

/** The scheduler of a busy machine gets this. */
const SLACK_MS = 1500;

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url));

/** As an ordinary user: runs a program as root, with a limit, and says how that ended and after how long. */
const AS_USER = `
import { createPrivileged } from ${source('system/privilege.ts')};
import { createRunner } from ${source('system/runner.ts')};
process.setgroups([]); process.setgid(65534); process.setuid(65534);
const { sudoProgram, argv, timeoutMs, abortMs } = JSON.parse(process.argv[1]);
const privileged = createPrivileged(createRunner(process.env), { uid: 65534, sudo: 'auto', sudoProgram });
const stop = new AbortController();
if (abortMs) for (const again of [0, 50, 300]) setTimeout(() => stop.abort(), abortMs + again);
const began = performance.now();
const failure = await privileged.run(argv, { timeoutMs, signal: stop.signal }).then(() => undefined, (error) => error);
const tookMs = performance.now() - began;
process.stdout.write(JSON.stringify({ code: failure?.code, message: failure?.message, tookMs }));
`;

describe('runner, when a program does not go', () => {
  it('has an answer at the limit although a process outside its group holds its output', async (t) => {
    const mark = join(await tempDir(t), 'mark');
    const script = `trap '' TERM; setsid tail -f --retry "${mark}" & sleep 20`;
    const tookMs = await timed(() =>
      assert.rejects(runner.run(['sh', '-c', script], { timeoutMs: 300 }), { code: 'timeout' }),
    );
    assert.ok(tookMs < 300 + SETTLE_MS + SLACK_MS, `${tookMs} ms`);
    const [left] = await findProcessesByArgument(mark);
    assert.ok(left, 'what has left the group is not ours to end');
    await endProcess(left, { graceMs: 0 });
  });

  it('ends the whole group, also what does not listen to SIGTERM', async (t) => {
    const mark = join(await tempDir(t), 'mark');
    const script = `trap '' TERM; tail -f --retry "${mark}" & tail -f --retry "${mark}"`;
    await assert.rejects(runner.run(['sh', '-c', script], { timeoutMs: 200 }), { code: 'timeout' });
    await until('the group has ended', async () => (await findProcessesByArgument(mark)).length === 0);
  });

  it('lets a program tidy up at SIGTERM', async (t) => {
    const file = join(await tempDir(t), 'tidied');
    const stop = new AbortController();
    const script = `trap 'touch "${file}"; exit 1' TERM; echo ready; while :; do sleep 0.01; done`;
    const running = runner.run(['sh', '-c', script], { signal: stop.signal, onLine: () => stop.abort() });
    await assert.rejects(running, { code: 'cancelled' });
    assert.equal((await runner.run(['ls', file])).stdout.trim(), file);
  });

  it('takes the exit status of a program whose output somebody else holds', async (t) => {
    const mark = join(await tempDir(t), 'mark');
    let exitCode: number | undefined;
    const tookMs = await timed(async () => {
      const result = await runner.run(['sh', '-c', `tail -f --retry "${mark}" 2>/dev/null & printf 'all of it'`]);
      exitCode = result.exitCode;
      assert.equal(result.stdout, 'all of it');
    });
    assert.equal(exitCode, 0);
    assert.ok(tookMs < QUIET_MS + SLACK_MS, `${tookMs} ms`);
    for (const left of await findProcessesByArgument(mark)) await endProcess(left, { graceMs: 0 });
  });

  it('is told of input that breaks, and of a limit when the input never ends', async () => {
    const broken = new Readable({
      read() {
        this.destroy(new Error('the disk is gone'));
      },
    });
    await assert.rejects(runner.run(['cat'], { input: broken }), {
      code: 'command_failed',
      message: '`cat` got only part of its input: the disk is gone',
    });
    const endless = new Readable({ read() {} });
    await assert.rejects(runner.run(['cat'], { input: endless, timeoutMs: 100 }), { code: 'timeout' });
  });

  it('refuses a command line the kernel does not take, like any other that cannot be started', async () => {
    await assert.rejects(runner.run(['true', 'x'.repeat(300_000)]), { code: 'command_failed', message: /E2BIG/ });
  });
});

describe('runner, when what it ran is root’s', () => {
  it('has an answer at the limit and ends it as root', async (t) => {
    const { sudo, mark } = await sudoLike(t);
    if (!sudo) return;
    const argv = ['tail', '-f', '--retry', mark];
    const { code, message, tookMs } = await asUser({ sudoProgram: sudo, argv, timeoutMs: 500 });
    assert.equal(code, 'timeout', message);
    assert.ok(tookMs < 500 + SETTLE_MS + SLACK_MS, `${tookMs} ms`);
    await until('it was ended as root', async () => (await findProcessesByArgument(mark)).length === 0);
  });

  it('goes on and says so where root’s rights do not extend to that, however often it is asked', async (t) => {
    const { sudo, mark } = await sudoLike(
      t,
      'case "$3" in kill) echo "sudo: a password is required" >&2; exit 1;; esac',
    );
    if (!sudo) return;
    const argv = ['tail', '-f', '--retry', mark];
    const { code, message, tookMs } = await asUser({ sudoProgram: sudo, argv, timeoutMs: 900, abortMs: 500 });
    assert.equal(code, 'cancelled', message);
    assert.match(message, /could not be ended: process \d+ is still there/);
    assert.ok(tookMs < 500 + SETTLE_MS + SLACK_MS, `${tookMs} ms`);
    for (const left of await findProcessesByArgument(mark)) await endProcess(left, { graceMs: 0 });
  });
});

/** A program that takes what sudo does and becomes root like it, with nothing left that its caller may signal. */
async function sudoLike(t: TestContext, before = ''): Promise<{ sudo?: string; mark: string }> {
  const dir = await tempDir(t);
  const mark = join(dir, 'mark');
  if (process.getuid?.() !== 0) {
    t.skip('needs root, to become another user');
    return { mark };
  }
  await chmod(dir, 0o755);
  const setpriv = join(dir, 'setpriv');
  await copyFile((await runner.run(['which', 'setpriv'])).stdout.trim(), setpriv);
  await chmod(setpriv, 0o4755);
  const sudo = join(dir, 'sudo');
  const become = `"${setpriv}" --reuid 0 --regid 0 --clear-groups --`;
  await writeFile(sudo, `#!/bin/sh\n${before}\nshift 2\nexec ${become} "$@"\n`, { mode: 0o755 });
  const { stdout } = await runner.run(['setpriv', '--reuid', '65534', '--clear-groups', sudo, '-n', '--', 'id', '-ru']);
  if (stdout.trim() === '0') return { sudo, mark };
  t.skip(`programs under ${dir} do not become root: the file system is mounted nosuid`);
  return { mark };
}

async function asUser(
  data: Record<string, unknown>,
): Promise<{ code: string | undefined; message: string; tookMs: number }> {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', AS_USER, JSON.stringify(data)]);
  const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  assert.equal(child.exitCode, 0, errors);
  return JSON.parse(output);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}
