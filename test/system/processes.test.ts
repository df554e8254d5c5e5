import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { followStates } from '../../src/system/processes.ts';
import { until } from '../support/host.ts';

const openFiles = async () => (await readdir('/proc/self/fd')).length;

describe('the state of a process that is followed', () => {
  it('is halted, goes on and ends, and leaves no file open', async () => {
    const before = await openFiles();
    const child = spawn('sleep', ['100'], { stdio: 'ignore' });
    const pid = child.pid ?? 0;
    const alone = followStates(pid);
    const withParent = followStates(process.pid);
    try {
      assert.equal(alone.halted(), undefined);
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
    assert.equal(await openFiles(), before);
  });
});
