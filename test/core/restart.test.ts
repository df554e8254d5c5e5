import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { delayMs, nextRestart, type RunEnd, toAutostart } from '../../src/core/restart.ts';
import type { RestartPolicy } from '../../src/core/vm.ts';
import { sampleVm } from '../support/sample-vm.ts';

const now = new Date('2026-11-25T12:00:00.000Z');
const after = (ms: number) => new Date(now.getTime() + ms).toISOString();

describe('a VM that ended without being asked to', () => {
  const table: [RestartPolicy, RunEnd, boolean][] = [
    ['never', 'failure', false],
    ['never', 'poweroff', false],
    ['on-failure', 'failure', true],
    ['on-failure', 'poweroff', false],
    ['always', 'failure', true],
    ['always', 'poweroff', true],
  ];
  for (const [restartPolicy, end, again] of table) {
    it(`${again ? 'is started again' : 'stays as it is'} after a ${end} with the policy ${restartPolicy}`, () => {
      assert.equal(nextRestart(sampleVm({ restartPolicy }), end, now) !== undefined, again);
    });
  }

  it('waits twice as long each time, and never longer than five minutes', () => {
    const waits = Array.from({ length: 12 }, (_, attempts) => delayMs(attempts) / 1000);
    assert.deepEqual(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    assert.equal(delayMs(100_000), 300_000);
  });

  it('counts its attempts from one to the next', () => {
    const vm = sampleVm({ restartPolicy: 'always', restarts: { attempts: 3, nextAt: null } });
    assert.deepEqual(nextRestart(vm, 'failure', now), { attempts: 4, nextAt: after(8000) });
    const shortRun = { ...vm, startedAt: after(-59_000) };
    assert.equal(nextRestart(shortRun, 'failure', now)?.attempts, 4);
  });

  it('begins anew after a run of a minute', () => {
    const vm = sampleVm({
      restartPolicy: 'always',
      restarts: { attempts: 9, nextAt: null },
      startedAt: after(-60_000),
    });
    assert.deepEqual(nextRestart(vm, 'failure', now), { attempts: 1, nextAt: after(1000) });
  });
});

describe('autostart', () => {
  const vms = [
    sampleVm({ name: 'on', autostart: true }),
    sampleVm({ name: 'off' }),
    sampleVm({ name: 'broken', autostart: true, phase: 'failed' }),
    sampleVm({ name: 'up', autostart: true, phase: 'running' }),
  ];

  it('starts those that want it, once for each boot of the host', () => {
    const due = toAutostart(vms, { current: 'b', handled: 'a' });
    assert.deepEqual(
      due.map(({ name }) => name),
      ['on', 'broken'],
    );
    assert.deepEqual(toAutostart(vms, { current: 'b', handled: 'b' }), []);
    assert.equal(toAutostart(vms, { current: 'b', handled: undefined }).length, 2);
  });
});
