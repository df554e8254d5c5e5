import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { planStart } from '../../src/core/plan-start.ts';
import { sampleVm } from '../support/sample-vm.ts';

const seen = { rootDiskExists: true, workDiskExists: true, vmmAlive: false };

describe('planStart', () => {
  it('prepares side by side what does not depend on each other, then configures, boots and waits', () => {
    const stages = planStart(sampleVm(), seen);
    assert.deepEqual(stages.slice(1), [['configure-vmm'], ['boot-guest'], ['wait-for-ssh']]);
    assert.deepEqual(stages[0]?.toSorted(), [
      'attach-network',
      'launch-vmm',
      'prepare-root-disk',
      'prepare-work-disk',
      'write-seed-drive',
    ]);
  });

  it('makes a work disk only when there should be one and is none', () => {
    assert.ok(planStart(sampleVm(), { ...seen, workDiskExists: false })[0]?.includes('make-work-disk'));
    assert.ok(
      !planStart(sampleVm({ workDiskBytes: 0 }), { ...seen, workDiskExists: false })[0]?.includes('make-work-disk'),
    );
  });

  it('looks after a work disk only when there is one', () => {
    const [made = []] = planStart(sampleVm(), { ...seen, workDiskExists: false });
    assert.ok(!made.includes('prepare-work-disk'));
    assert.ok(!planStart(sampleVm({ workDiskBytes: 0 }), seen)[0]?.includes('prepare-work-disk'));
  });

  it('refuses a VM that runs', () => {
    assert.throws(() => planStart(sampleVm({ phase: 'running' }), { ...seen, vmmAlive: true }), { code: 'conflict' });
  });

  it('plans a VM that claims to run but does not', () => {
    assert.equal(planStart(sampleVm({ phase: 'running' }), seen).length, 4);
  });

  it('names a missing root disk', () => {
    assert.throws(() => planStart(sampleVm(), { ...seen, rootDiskExists: false }), {
      code: 'corrupt',
      message: /root disk of web/,
    });
  });
});
