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

const TEMPLATE = {
  ...{ id: '0a1b2c3d', image: 'dev', vcpus: 1, memoryMib: 1024, rootDiskBytes: 2 ** 33, workDiskBytes: 0 },
  ...{ workDiskMount: null, nat: true, bytes: 400 * 2 ** 20, createdAt: '2026-01-02T03:04:05.000Z' },
  ...{ usedAt: '2026-01-03T03:04:05.000Z', misfits: [] as string[] },
};

describe('templates', () => {
  it('are made for VMs of a size, and say that they are there', async () => {
    const warm = ends('warmImage', { ...TEMPLATE, made: true });
    const { stdout } = await cli('image warm dev --memory 1G --no-nat --work-disk none', warm.script);
    assert.equal(stdout, 'VMs of dev with 1 processor and 1024 MiB start from a template now (400 MiB on disk)\n');
    assert.deepEqual(warm.bodies, [{ image: 'dev', memoryMib: 1024, nat: false, workDiskBytes: 0 }]);
    const there = ends('warmImage', { ...TEMPLATE, made: false });
    assert.match(
      (await cli('image warm', there.script)).stdout,
      /^dev has a template for 1 processor and 1024 MiB already$/m,
    );
    assert.deepEqual(there.bodies, [{}]);
  });

  it('are listed with what they take and why one is of no use, and are forgotten', async () => {
    const useless = { ...TEMPLATE, image: 'old', misfits: ['its kernel /k was replaced'] };
    const { stdout } = await cli('image warm --list', { listTemplates: () => [TEMPLATE, useless] });
    assert.match(stdout, /^dev +1 +1024 MiB +8 GiB +- +400 MiB +2026-01-03 03:04$/m);
    assert.match(stdout, /^old .* of no use now: its kernel \/k was replaced$/m);
    const { stdout: gone } = await cli('image warm dev --forget', { coolImage: () => [TEMPLATE] });
    assert.equal(gone, '1 template is removed (400 MiB)\n');
  });

  it('are said to be what a new VM started from, unless it was to boot', async () => {
    const result = { ...vm('web', { readyMs: 400 }), created: true, started: true, resumed: false, warm: true };
    const run = ends('runVm', result);
    const { stdout } = await cli('run web', run.script);
    assert.equal(stdout, 'web is running at 172.30.0.2 (from a template, ready after 400 ms)\n');
    await cli('run web --cold', run.script);
    assert.deepEqual(run.bodies, [{}, { cold: true }]);
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
