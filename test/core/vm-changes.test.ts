import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { VmPhase, VmRecord } from '../../src/core/vm.ts';
import * as changes from '../../src/core/vm-changes.ts';
import { BangerError } from '../../src/errors.ts';
import { sampleVm } from '../support/sample-vm.ts';

const timeline = [{ step: 'preflight', startedMs: 0.4, durationMs: 12.6 }];

/** A VM in the middle of a run, with something in every field that belongs to one. */
const inRun = sampleVm({
  phase: 'running',
  failure: 'an old one',
  startedAt: '2026-11-25T12:00:00.000Z',
  vmm: 'fcqemu',
  restarts: { attempts: 2, nextAt: null },
});

describe('a VM’s record', () => {
  it('has nothing of a run in it once that is over, whichever way', () => {
    const started = { at: new Date(0), vmm: 'fcqemu' as const, timeline, tookMs: 1 };
    const after: [VmPhase, changes.VmChange, string | null][] = [
      ['stopped', changes.stopped(), null],
      ['failed', changes.failed('why'), 'why'],
      ['failed', changes.notStarted(new BangerError('timeout', 'no answer'), timeline), 'no answer'],
      ['failed', changes.notStarted('a bare word', timeline), 'a bare word'],
      ['stopped', changes.notStarted(new BangerError('cancelled', 'called off'), timeline), null],
      ['stopped', changes.interrupted(inRun), null],
      ['failed', changes.interrupted({ ...inRun, phase: 'failed' }), 'an old one'],
      ['stopped', changes.trashed({ ...inRun, ...changes.running(inRun, started) }), null],
    ];
    for (const [phase, change, failure] of after) {
      const vm: VmRecord = { ...inRun, ...change };
      assert.deepEqual([vm.phase, vm.failure, vm.startedAt, vm.vmm], [phase, failure, null, null]);
    }
  });

  it('tells a start from its beginning to its end, in whole milliseconds', () => {
    const begun: VmRecord = { ...inRun, ...changes.starting() };
    assert.deepEqual([begun.phase, begun.failure, begun.bootTimeline, begun.bootMs], ['starting', null, [], null]);
    const at = new Date('2026-11-25T12:00:00Z');
    assert.deepEqual(changes.running(begun, { at, vmm: 'firecracker', timeline, tookMs: 99.5 }), {
      phase: 'running',
      startedAt: '2026-11-25T12:00:00.000Z',
      vmm: 'firecracker',
      run: { hostname: 'web', vcpus: 2, memoryMib: 512 },
      bootTimeline: [{ step: 'preflight', startedMs: 0, durationMs: 13 }],
      bootMs: 100,
    });
  });

  it('keeps memory in the trash that no guest has gone on from, and no other', () => {
    const memory = { id: 'a', at: '2026-11-29T00:00:00.000Z', bytes: 1, spentOn: null };
    const resuming = { ...inRun, ...changes.suspended(memory), ...changes.resuming() };
    for (const [spentOn, phase, kept] of [
      [null, 'suspended', memory],
      ['a boot', 'stopped', null],
    ] as const) {
      const vm = changes.trashed({ ...resuming, memory: { ...memory, spentOn } });
      assert.deepEqual([vm.phase, vm.memory], [phase, kept]);
    }
  });

  it('keeps the plan of a restart that a dead daemon was at, and none of a run that the host’s end cut off', () => {
    assert.equal(changes.interrupted(inRun).restarts, null);
    assert.deepEqual(changes.interrupted({ ...inRun, phase: 'starting' }).restarts, inRun.restarts);
    assert.equal(changes.stopping().restarts, null, 'a person stopped it');
    assert.equal(changes.trashed(inRun).restarts, null);
  });
});
