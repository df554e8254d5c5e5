import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readlink } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { followStates } from '../../src/system/processes.ts';
import { until } from '../support/host.ts';

/** Files of processes that are open; the test runner opens and closes others at any time. */
async function openFiles(): Promise<string[]> {
  const links = (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ''));
  return (await Promise.all(links)).filter((path) => /^\/proc\/\d+\/(?!fd$)/.test(path)).sort();
}

describe('the state of a process that is followed', () => {
  it('is halted, goes on and ends, and leaves no file open', async () => {
    const before = await openFiles();
    const child = spawn('sleep', ['100'], { stdio: 'ignore' });
    const pid = child.pid ?? 0;
    const alone = followStates(pid);
    const withParent = followStates(process.pid);
    try {
      assert.equal(alone.halted(), undefined);
      assert.equal(withParent.halted(), undefined);
      assert.ok((await openFiles()).length > before.length);
      child.kill('SIGSTOP');
      await until('it is halted', () => alone.halted() === pid, 5000);
      assert.equal(withParent.halted(), pid);
      child.kill('SIGCONT');
      await until('it goes on', () => alone.halted() === undefined, 5000);
      assert.equal(withParent.halted(), undefined);
    } finally {
      child.kill('SIGKILL');
    }
    await once(child, 'exit');
    assert.equal(alone.halted(), undefined);
    alone[Symbol.dispose]();
    withParent[Symbol.dispose]();
    assert.equal(alone.halted(), undefined);
    assert.equal(followStates(pid).halted(), undefined, 'there is no such process any more');
    assert.deepEqual(await openFiles(), before);
  });
});
