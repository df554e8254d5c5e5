import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { pendingValues, planSet } from '../../src/core/plan-set.ts';
import { sampleVm } from '../support/sample-vm.ts';

const run = { hostname: 'web', vcpus: 2, memoryMib: 512 };

describe('setting values of a VM', () => {
  it('counts at once for one that does not run', () => {
    assert.deepEqual(planSet(sampleVm(), { vcpus: 4, memoryMib: 1024 }), [
      { setting: 'vcpus', from: 2, to: 4, applies: 'now' },
      { setting: 'memoryMib', from: 512, to: 1024, applies: 'now' },
    ]);
  });

  it('waits for the next start with what a guest gets when it boots, and with nothing else', () => {
    const vm = sampleVm({ phase: 'running', run });
    const changes = planSet(vm, { vcpus: 4, memoryMib: 1024, nat: false, autostart: true, restartPolicy: 'always' });
    assert.deepEqual(
      changes.map(({ setting, applies }) => `${setting} ${applies}`),
      ['vcpus at-next-start', 'memoryMib at-next-start', 'nat now', 'autostart now', 'restartPolicy now'],
    );
  });

  it('is nothing where the value is there already', () => {
    assert.deepEqual(planSet(sampleVm(), { vcpus: 2, nat: true, restartPolicy: 'never' }), []);
  });

  it('has to be about something', () => {
    assert.throws(() => planSet(sampleVm(), {}), { code: 'invalid_input', message: /nothing to set for web/ });
  });
});

describe('values that wait for the next start', () => {
  it('are those in which the record differs from the run', () => {
    const vm = sampleVm({ phase: 'running', run, name: 'www', memoryMib: 1024 });
    assert.deepEqual(pendingValues(vm), { hostname: 'www', memoryMib: 1024 });
  });

  it('are none for a VM that runs as it is written, or not at all', () => {
    assert.equal(pendingValues(sampleVm({ phase: 'running', run })), null);
    assert.equal(pendingValues(sampleVm({ phase: 'running', run: null })), null);
    assert.equal(pendingValues(sampleVm({ phase: 'stopped', run, vcpus: 8 })), null);
  });
});
