import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import { vcpusStandStill } from '../../src/firecracker/vcpus.ts';

const never = new AbortController().signal;

/** A process whose thread has the name of a guest's processor. */
async function start(t: TestContext, name: string, script: string): Promise<number> {
  const child = spawn('sh', ['-c', `printf %s '${name}' > /proc/$$/comm; echo ready; ${script}`]);
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return child.pid ?? 0;
}

describe('processors of a guest', () => {
  it('stand still when none of them ran for two seconds', async (t) => {
    const pid = await start(t, 'CPU 0/TCG', 'read -r forever');
    assert.equal(await vcpusStandStill(pid, never), true);
  });

  it('do not while one of them wakes up now and then, however little it does', async (t) => {
    const pid = await start(t, 'fc_vcpu 0', 'while :; do read -r line < /dev/null; sleep 0.4; done');
    assert.equal(await vcpusStandStill(pid, never), false);
  });

  it('do not while a VMM that names none of them works', async (t) => {
    const busy = await start(t, 'qemu', 'while :; do :; done');
    const quiet = await start(t, 'qemu', 'read -r forever');
    assert.deepEqual(await Promise.all([busy, quiet].map((pid) => vcpusStandStill(pid, never))), [false, true]);
  });

  it('are not asked of a process that is gone', async () => {
    const child = spawn('true');
    await once(child, 'close');
    assert.equal(await vcpusStandStill(child.pid ?? 0, never), false);
  });
});
