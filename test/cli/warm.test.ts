/** suspend, resume, fork, and what the commands that end a VM make of one that is suspended. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Problem } from '../../src/api/operation.ts';
import { cli, done, operation, vm } from './cli.ts';

const SUSPENDED = { at: '2026-01-02T03:04:05.000Z', memoryBytes: 98 * 2 ** 20 };
const asleep = vm('web', { state: 'suspended', suspended: SUSPENDED, ready: false, pid: null, vmm: null });

/** Answers every request to begin an operation, which ends like this. */
function ends(route: string, result: unknown) {
  const bodies: unknown[] = [];
  const script = {
    [route]: ({ body }: { body?: unknown }) => {
      bodies.push(body);
      return operation();
    },
    events: { op1: [done({ result })] },
  };
  return { script, bodies };
}

const problem = (message: string): Problem => ({
  ...{ type: 'urn:banger:error:conflict', title: 'Conflict', status: 409, code: 'conflict', message },
});

describe('a suspended VM', () => {
  it('is told with what it takes on disk, and listed so', async () => {
    const { stdout } = await cli('suspend web', ends('suspendVm', asleep).script);
    assert.match(stdout, /^web is suspended, takes 98 MiB on disk \(/);
    const list = await cli('ls', { listVms: () => [asleep] });
    assert.match(list.stdout, /^web +suspended +172\.30\.0\.2 +1 +1 GiB, 98 MiB on disk /m);
  });

  it('goes on, and is told to by start as well', async () => {
    const { stdout } = await cli('resume web', ends('resumeVm', { ...vm('web'), resumed: true }).script);
    assert.match(stdout, /^web goes on at 172\.30\.0\.2 \(/);
    const start = ends('startVm', { ...vm('web'), resumed: true });
    assert.match((await cli('start web', start.script)).stdout, /^web goes on at/);
    await cli('start --discard-memory web', start.script);
    assert.deepEqual(start.bodies, [{}, { discardMemory: true }]);
  });

  it('is not stopped by who cannot be asked, and is with the flag', async () => {
    const refused = {
      stopVm: () => operation(),
      events: { op1: [done({ state: 'failed', error: problem('web is suspended; stopped, it loses what …') })] },
    };
    const { status, stderr } = await cli('stop web', refused);
    assert.equal(status, 5);
    assert.match(stderr, /web is suspended; stopped, it loses/);
    const stop = ends('stopVm', vm('web', { state: 'stopped' }));
    await cli('stop --discard-memory web', stop.script);
    assert.deepEqual(stop.bodies, [{ discardMemory: true }]);
  });
});

describe('fork', () => {
  it('numbers names, and tells what each became', async () => {
    const failed = [{ name: 'try-2', problem: problem('The guest of try-2 was not woken: no.') }];
    const fork = ends('forkVm', { forks: [vm('try-1', { address: '172.30.0.3' })], failed, pausedMs: 120 });
    const { status, stdout, stderr } = await cli('fork web try --count 2', fork.script);
    assert.deepEqual(fork.bodies, [{ names: ['try-1', 'try-2'] }]);
    assert.equal(stdout, 'try-1 is running at 172.30.0.3\n');
    assert.match(stderr, /try-2: The guest of try-2 was not woken/);
    assert.match(stderr, /web stood still for 120 ms/);
    assert.notEqual(status, 0);
    await cli('fork web a b', fork.script);
    assert.deepEqual(fork.bodies[1], { names: ['a', 'b'] });
    assert.equal((await cli('fork web a b --count 2', fork.script)).status, 2);
  });
});
