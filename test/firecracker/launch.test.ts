import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readlink, realpath, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import {
  describeExit,
  findVmm,
  findVmms,
  type LaunchOptions,
  launchVmm,
  listVmms,
} from '../../src/firecracker/launch.ts';
import { isOpenToAll, openDirectory } from '../../src/storage/ownership.ts';
import { confinedArgv } from '../../src/system/confinement.ts';
import { endProcess, findProcessesByArgument } from '../../src/system/processes.ts';
import { createRunner } from '../../src/system/runner.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { type FakeBehaviour, fakeVmm } from './fake-vmm.ts';

async function options(t: TestContext, behaviour: FakeBehaviour): Promise<LaunchOptions> {
  const dir = await tempDir(t);
  const socketPath = join(dir, 'vm.sock');
  t.after(async () => {
    for (const left of await findProcessesByArgument(socketPath)) await endProcess(left, { graceMs: 0 });
  });
  return {
    program: await fakeVmm(dir, behaviour),
    id: 'banger-5f3a9c01',
    directory: dir,
    socketPath,
    consoleLog: join(dir, 'console.log'),
    vmmLog: join(dir, 'vmm.log'),
    env: process.env,
  };
}

const runner = createRunner();

/** The error of a launch that must fail, and proof that nothing of it still runs. */
async function failure(launch: LaunchOptions): Promise<BangerError> {
  const error: unknown = await launchVmm(runner, launch).then(
    () => assert.fail('it was launched'),
    (reason) => reason,
  );
  assert.ok(error instanceof BangerError, String(error));
  const deadline = performance.now() + 5000;
  while ((await findProcessesByArgument(launch.socketPath)).length > 0) {
    assert.ok(performance.now() < deadline, 'the VMM still runs');
  }
  return error;
}

describe('launching a VMM', () => {
  it('waits until its API answers and tells who it is and how it ends', async (t) => {
    const launch = await options(t, 'starting');
    await writeFile(launch.socketPath, 'left over by an earlier run');
    await writeFile(launch.consoleLog, 'an earlier run\n');
    const { identity, ended } = await launchVmm(runner, launch);
    assert.deepEqual(await findVmm(launch.socketPath), identity);
    assert.equal(await readlink(`/proc/${identity.pid}/cwd`), await realpath(launch.directory));
    assert.equal(await readFile(`${launch.consoleLog}.previous`, 'utf8'), 'an earlier run\n');
    await endProcess(identity, { graceMs: 1000 });
    assert.deepEqual(await ended, { code: null, signal: 'SIGTERM' });
    assert.equal(await findVmm(launch.socketPath), undefined);
  });

  it('believes no process of another user about the socket it serves', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('another user needs root');
    const launch = await options(t, 'ready');
    const { identity } = await launchVmm(runner, launch);
    // younger than the VMM, as one that wants to be taken for it is
    const words = ['-c', 'echo ready; while :; do sleep 0.1; done', 'sh', '--api-sock', launch.socketPath];
    const liar = spawn('sh', words, { uid: 65_534, gid: 65_534, cwd: '/', stdio: ['ignore', 'pipe', 'ignore'] });
    t.after(() => liar.kill('SIGKILL'));
    await once(liar.stdout, 'data');
    assert.deepEqual(await findVmms(launch.socketPath), [identity]);
    assert.deepEqual(
      (await listVmms((path) => path === launch.socketPath)).map(({ pid }) => pid),
      [identity.pid],
    );
    assert.deepEqual(await findProcessesByArgument(launch.socketPath), [identity]);
    await endProcess(identity, { graceMs: 1000 });
    assert.equal(await findVmm(launch.socketPath), undefined);
  });

  it('believes what serves a socket in a directory of its own user, and nobody else about it', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('other users need root');
    const [user, other] = [2_000_000_001, 2_000_000_002];
    const launch = await options(t, 'ready');
    const [node, ...args] = launch.program;
    if (!(await isOpenToAll(node, true))) return t.skip(`${node} is not for everybody`);
    await openDirectory(launch.directory, user);
    const { identity } = await launchVmm(runner, {
      ...launch,
      program: [node, ...args.map((word) => (word.startsWith('/') ? basename(word) : word))],
      user,
      confine: (argv) => confinedArgv(argv, { user, limits: {} }),
    });
    t.after(() => endProcess(identity, { graceMs: 0 }));
    assert.equal((await stat(launch.socketPath)).uid, user);
    assert.equal((await stat(launch.vmmLog)).uid, user);
    const lie = async (socket: string) => {
      const words = ['-c', 'echo ready; while :; do sleep 0.1; done', 'sh', '--api-sock', socket];
      const liar = spawn('sh', words, { uid: other, gid: other, cwd: '/', stdio: ['ignore', 'pipe', 'ignore'] });
      t.after(() => liar.kill('SIGKILL'));
      await once(liar.stdout, 'data');
    };
    // as a VMM does that somebody has taken over
    await lie(launch.socketPath);
    await lie(basename(launch.socketPath));
    assert.deepEqual(await findVmms(launch.socketPath), [identity]);
    assert.deepEqual(
      (await listVmms((path) => path === launch.socketPath)).map(({ pid }) => pid),
      [identity.pid],
    );
  });

  it('gives it a session of its own, so that it outlives who launched it', async (t) => {
    const launch = await options(t, 'ready');
    const { identity } = await launchVmm(runner, launch);
    const stat = await readFile(`/proc/${identity.pid}/stat`, 'utf8');
    const [, , , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    assert.equal(Number(session), identity.pid);
  });

  it('tells the last words of one that ends at once', async (t) => {
    const error = await failure(await options(t, 'dies'));
    assert.equal(error.code, 'vmm_failed');
    assert.match(
      error.message,
      /ended at once \(exit status 148, a system call that its filter forbids\)\. Its last words:/,
    );
    assert.match(error.message, /RunWithApiError: no\n {4}cannot go on/);
    assert.equal(error.hint, 'See whether this host can run VMs: banger doctor');
  });

  for (const behaviour of ['silent', 'deaf'] as const) {
    it(`gives up on one that is ${behaviour}, and ends it`, async (t) => {
      const error = await failure({ ...(await options(t, behaviour)), readyTimeoutMs: 700 });
      assert.equal(error.code, 'vmm_failed');
      assert.match(
        error.message,
        /did not answer on its API socket within 0\.7 s\. Its last words:\n {4}Running a fake/,
      );
    });

    it(`can be called off while one is ${behaviour}`, async (t) => {
      const begun = performance.now();
      const error = await failure({ ...(await options(t, behaviour)), signal: AbortSignal.timeout(300) });
      assert.equal(error.code, 'cancelled');
      assert.ok(performance.now() - begun < paced(8000));
    });
  }

  it('says when the program is not installed', async (t) => {
    const error = await failure({ ...(await options(t, 'ready')), program: ['/nosuch/firecracker'] });
    assert.equal(error.code, 'host_unprepared');
    assert.match(error.message, /\/nosuch\/firecracker/);
  });

  it('does not take another program that names the socket for the VMM', async (t) => {
    const launch = await options(t, 'ready');
    const { identity } = await launchVmm(runner, launch);
    const other = spawn('tail', ['-f', '/dev/null', launch.socketPath], { stdio: 'ignore' });
    await once(other, 'spawn');
    assert.deepEqual(await findVmm(launch.socketPath), identity);
    other.kill('SIGKILL');
  });
});

describe('how a VMM ended', () => {
  it('is said in words where the number is a fault of its own', () => {
    const texts = [0, 1, 148].map((code) => describeExit({ code, signal: null }));
    assert.deepEqual(texts, [
      'exit status 0',
      'exit status 1',
      'exit status 148, a system call that its filter forbids',
    ]);
    assert.equal(describeExit({ code: null, signal: 'SIGKILL' }), 'killed by SIGKILL');
  });
});
