import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type ReconcileAction, reconcile, type SeenVm } from '../../src/core/reconcile.ts';
import type { VmPhase } from '../../src/core/vm.ts';

const nothingSeen: SeenVm = { vmmAlive: false, guestStarted: false, guestRebooted: false, hostRestarted: false };

const table: [title: string, phase: VmPhase, seen: Partial<SeenVm>, expected: ReconcileAction['do']][] = [
  ['a running VM whose VMM lives is adopted', 'running', { vmmAlive: true, guestStarted: true }, 'adopt'],
  ['a VMM that no longer answers fails its VM', 'running', { vmmAlive: true }, 'fail'],
  ['a VMM that died fails its VM', 'running', {}, 'fail'],
  ['a host restart is nobody’s failure', 'running', { hostRestarted: true }, 'release'],
  ['a guest that rebooted is started again', 'running', { guestRebooted: true }, 'start-again'],
  [
    'after a host restart an old clean exit does not start anything',
    'running',
    { guestRebooted: true, hostRestarted: true },
    'release',
  ],
  ['an interrupted start is undone', 'starting', { vmmAlive: true, guestStarted: true }, 'release'],
  ['an interrupted stop is finished', 'stopping', { vmmAlive: true, guestStarted: true }, 'release'],
  ['an interrupted creation is discarded', 'creating', {}, 'discard'],
  ['a stopped VM is left alone', 'stopped', {}, 'nothing'],
  ['a failed VM is left alone', 'failed', {}, 'nothing'],
  ['a VMM that nobody wants is freed', 'stopped', { vmmAlive: true }, 'release'],
];

describe('reconcile', () => {
  for (const [title, phase, seen, expected] of table) {
    it(title, () => {
      assert.equal(reconcile(phase, { ...nothingSeen, ...seen }).do, expected);
    });
  }
});
