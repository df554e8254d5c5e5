import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type ReconcileAction, reconcile, type SeenVm } from '../../src/core/reconcile.ts';
import type { VmPhase } from '../../src/core/vm.ts';

const nothingSeen: SeenVm = {
  ...{ vmmAlive: false, vmm: 'unreachable', guestRebooted: false },
  ...{ hostRestarted: false, holdsSomething: false, memory: 'none' },
};

const table: [title: string, phase: VmPhase, seen: Partial<SeenVm>, expected: ReconcileAction['do']][] = [
  ['a running VM whose VMM lives is adopted', 'running', { vmmAlive: true, vmm: 'started' }, 'adopt'],
  ['a VMM that is halted or busy is adopted', 'running', { vmmAlive: true, vmm: 'silent' }, 'adopt'],
  ['a VMM without a guest fails its VM', 'running', { vmmAlive: true, vmm: 'not-started' }, 'fail'],
  ['a VMM that cannot be reached fails its VM', 'running', { vmmAlive: true }, 'fail'],
  ['a VMM that died fails its VM', 'running', {}, 'fail'],
  ['a host restart is nobody’s failure', 'running', { hostRestarted: true }, 'release'],
  ['a guest that rebooted is started again', 'running', { guestRebooted: true }, 'start-again'],
  [
    'after a host restart an old clean exit does not start anything',
    'running',
    { guestRebooted: true, hostRestarted: true },
    'release',
  ],
  ['an interrupted start is undone', 'starting', { vmmAlive: true, vmm: 'started' }, 'release'],
  ['an interrupted stop is finished', 'stopping', { vmmAlive: true, vmm: 'started' }, 'release'],
  ['an interrupted creation is discarded', 'creating', {}, 'discard'],
  ['a stopped VM is left alone', 'stopped', {}, 'nothing'],
  ['a failed VM is left alone', 'failed', {}, 'nothing'],
  ['what a stopped VM has left of a run is freed', 'stopped', { holdsSomething: true }, 'release'],
  ['and of a failed one', 'failed', { holdsSomething: true }, 'release'],
  ['a VMM that nobody wants is freed', 'stopped', { vmmAlive: true }, 'release'],
  ['a guest that was held for a suspend goes on', 'suspending', { vmmAlive: true, vmm: 'started' }, 'go-on'],
  ['a VMM that may be writing memory is asked again', 'suspending', { vmmAlive: true, vmm: 'silent' }, 'nothing'],
  ['a VMM that died while it was suspended is a failure', 'suspending', {}, 'fail'],
  ['a host that went down meanwhile is none', 'suspending', { hostRestarted: true }, 'release'],
  ['a suspended VM is left alone', 'suspended', { memory: 'whole' }, 'nothing'],
  ['and its VMM, once the memory is saved, ended', 'suspended', { vmmAlive: true, vmm: 'started' }, 'keep-suspended'],
  ['as is what else it has left', 'suspended', { holdsSomething: true, memory: 'whole' }, 'keep-suspended'],
  [
    'a resume that had not come far is undone',
    'resuming',
    { vmmAlive: true, vmm: 'started', memory: 'whole' },
    'keep-suspended',
  ],
  [
    'a guest that may have gone on goes on and is woken',
    'resuming',
    { vmmAlive: true, vmm: 'started', memory: 'overtaken' },
    'finish-resume',
  ],
  ['one that has written nothing is suspended again', 'resuming', { memory: 'unused' }, 'keep-suspended'],
  ['one that has, and is gone, has failed', 'resuming', { memory: 'overtaken' }, 'fail'],
  ['with its host it is stopped', 'resuming', { memory: 'overtaken', hostRestarted: true }, 'release'],
];

describe('reconcile', () => {
  for (const [title, phase, seen, expected] of table) {
    it(title, () => {
      assert.equal(reconcile(phase, { ...nothingSeen, ...seen }).do, expected);
    });
  }
});
