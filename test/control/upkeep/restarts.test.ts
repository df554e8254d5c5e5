import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { createOperations } from '../../../src/control/operations.ts';
import { createRestarts, type StartOutcome } from '../../../src/control/upkeep/restarts.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createOperationStore } from '../../../src/state/operations.ts';
import { createStores } from '../../../src/state/stores.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const quiet = { info: () => {}, warn: () => {}, error: () => {} };

/** A VM, restarts on a clock that is moved by hand, and starts that end as `outcomes` say. */
function setUp(t: TestContext, changes: Partial<VmRecord>, outcomes: StartOutcome[] = []) {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: Date.parse('2026-11-25T12:00:00Z') });
  const database = openDatabase(':memory:');
  t.after(() => database.close());
  const now = () => new Date();
  const stores = createStores(database);
  const { vms } = stores;
  const vm = sampleVm({ phase: 'failed', restartPolicy: 'on-failure', ...changes });
  vms.insert(vm);
  const host = { stores, now, log: quiet, operations: createOperations(createOperationStore(database), now) };
  const starts: string[] = [];
  const freed: string[] = [];
  const restarts = createRestarts(
    host,
    async ({ name }) => {
      starts.push(name);
      return outcomes.shift() ?? 'running';
    },
    async ({ id, name }) => {
      freed.push(name);
      vms.update(id, { phase: 'stopped', startedAt: null });
    },
  );
  t.after(() => restarts.close());
  return {
    vm,
    vms,
    restarts,
    starts,
    freed,
    record: () => vms.findById(vm.id),
    async pass(ms: number) {
      t.mock.timers.tick(ms);
      for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    },
  };
}

describe('restarts', () => {
  it('come after ever longer waits, and are counted in the record', async (t) => {
    const { vm, restarts, starts, record, pass } = setUp(t, {}, ['failed', 'failed', 'running']);
    restarts.ended(vm, 'failure');
    assert.deepEqual(record()?.restarts, { attempts: 1, nextAt: '2026-11-25T12:00:01.000Z' });
    await pass(999);
    assert.equal(starts.length, 0);
    await pass(1);
    assert.equal(starts.length, 1);
    assert.equal(record()?.restarts?.attempts, 2);
    await pass(2000);
    assert.equal(starts.length, 2);
    await pass(4000);
    assert.equal(starts.length, 3);
    assert.deepEqual(record()?.restarts, { attempts: 3, nextAt: null });
    await pass(600_000);
    assert.equal(starts.length, 3);
  });

  it('of a guest that reboots come at once, and later each time when it does nothing else', async (t) => {
    const { vm, vms, restarts, starts, freed, record, pass } = setUp(t, { phase: 'running', restartPolicy: 'never' });
    const reboot = async () => {
      vms.update(vm.id, { phase: 'running', startedAt: new Date().toISOString() });
      const run = record() ?? vm;
      await pass(5000);
      restarts.rebooted(run);
      await pass(0);
    };
    for (let times = 1; times <= 3; times++) await reboot();
    assert.deepEqual([starts.length, freed.length], [3, 0]);
    await reboot();
    assert.deepEqual([starts.length, freed.length, record()?.phase], [3, 1, 'stopped']);
    assert.deepEqual(record()?.restarts, { attempts: 4, nextAt: '2026-11-25T12:00:21.000Z' });
    await pass(1000);
    assert.equal(starts.length, 4);
    await reboot();
    await pass(1999);
    assert.equal(starts.length, 4);
    await pass(1);
    assert.equal(starts.length, 5);

    // one that ran for a minute begins a new count
    vms.update(vm.id, { phase: 'running', startedAt: new Date().toISOString() });
    const run = record() ?? vm;
    await pass(61_000);
    restarts.rebooted(run);
    await pass(0);
    assert.equal(starts.length, 6);
    assert.deepEqual(record()?.restarts, { attempts: 1, nextAt: null });
  });

  it('do not come after a person stopped, deleted or started the VM meanwhile', async (t) => {
    const { vm, vms, restarts, starts, pass } = setUp(t, {});
    restarts.ended(vm, 'failure');
    vms.update(vm.id, { phase: 'stopped', restarts: null });
    await pass(10_000);
    restarts.ended(vm, 'failure');
    vms.update(vm.id, { phase: 'running' });
    await pass(10_000);
    vms.update(vm.id, { phase: 'failed' });
    restarts.ended(vm, 'failure');
    vms.remove(vm.id);
    await pass(10_000);
    assert.deepEqual(starts, []);
  });

  it('are given up when a person calls a start off', async (t) => {
    const { vm, restarts, starts, record, pass } = setUp(t, {}, ['cancelled']);
    restarts.ended(vm, 'failure');
    await pass(1000);
    assert.equal(starts.length, 1);
    assert.equal(record()?.restarts, null);
    await pass(600_000);
    assert.equal(starts.length, 1);
  });

  it('are taken up by the next daemon: at their time, and at once when one was under way', async (t) => {
    const planned = setUp(t, { restarts: { attempts: 5, nextAt: '2026-11-25T12:00:30.000Z' } });
    planned.restarts.resume();
    await planned.pass(29_999);
    assert.deepEqual(planned.starts, []);
    await planned.pass(1);
    assert.deepEqual(planned.starts, ['web']);
    t.mock.timers.reset();
    const interrupted = setUp(t, { phase: 'stopped', restarts: { attempts: 5, nextAt: null } });
    interrupted.restarts.resume();
    await interrupted.pass(1);
    assert.deepEqual([interrupted.starts, interrupted.record()?.restarts?.attempts], [['web'], 5]);
  });

  it('do not come for a VM that is to stay failed, however often its guest had rebooted before', async (t) => {
    const counted = { attempts: 1, nextAt: null };
    for (const told of [true, false]) {
      const { vm, restarts, starts, record, pass } = setUp(t, { restartPolicy: 'never', restarts: counted });
      // without it the daemon died between the end and what follows from it
      if (told) restarts.ended(vm, 'failure');
      restarts.resume();
      await pass(600_000);
      assert.deepEqual([starts, record()?.restarts], [[], null]);
      t.mock.timers.reset();
    }
  });

  it('are not for a VM that runs, or that a person keeps stopped', async (t) => {
    const { restarts, starts, pass } = setUp(t, { phase: 'running', restarts: { attempts: 2, nextAt: null } });
    restarts.resume();
    await pass(600_000);
    assert.deepEqual(starts, []);
  });

  it('leave the plan in the record when the daemon ends during a start', async (t) => {
    const { vm, restarts, record, pass } = setUp(t, {}, ['cancelled']);
    restarts.ended(vm, 'failure');
    const begun = pass(1000);
    restarts.close();
    await begun;
    assert.deepEqual(record()?.restarts, { attempts: 1, nextAt: null });
  });
});
