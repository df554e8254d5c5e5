/** What a chaos run believes: which VMs there must be, in which states, and what their work disks must hold. */
import assert from 'node:assert/strict';
import type { VmState } from '../../src/api/vm.ts';

export interface ModelVm {
  /** states it may be in; more than one after something was cut off in the middle */
  states: ReadonlySet<VmState>;
  /** sums its data file may have: the last one that was synced, and one whose writing was cut off */
  sums: ReadonlySet<string>;
  /** marks its root disk may have: that of the image it is made from */
  marks: ReadonlySet<string>;
  /** bytes the work disk must have */
  workDiskBytes: number;
  /** what the disks of its snapshot hold */
  snapshot?: Pick<ModelVm, 'sums' | 'marks' | 'workDiskBytes'>;
  /** what the disks and the memory of its snapshot with memory hold */
  moment?: Moment;
}

export interface Moment extends Pick<ModelVm, 'sums' | 'marks' | 'workDiskBytes'> {
  /** what only its memory holds */
  mark: string;
}

export interface Model {
  vms: Map<string, ModelVm>;
  /** marks each image may have; with `ABSENT` among them when it may not be there at all */
  images: Map<string, ReadonlySet<string>>;
}

/** Stands for the sum and the mark of a file that was never written. */
export const NO_DATA = 'none';

/** Stands for the mark of an image that is not there. */
export const ABSENT = 'absent';

export function emptyModel(): Model {
  return { vms: new Map(), images: new Map() };
}

export function vmOf(model: Model, name: string): ModelVm {
  const vm = model.vms.get(name);
  assert.ok(vm, `the model has no ${name}`);
  return vm;
}

/** As one that begins as this one: snapshots are not copied. */
export function withoutSnapshots({ snapshot: _, moment: __, ...vm }: ModelVm): ModelVm {
  return vm;
}

/** A VM as it is created. */
export const NEW_VM: ModelVm = {
  states: new Set(['stopped']),
  sums: new Set([NO_DATA]),
  marks: new Set([NO_DATA]),
  workDiskBytes: 256 * 2 ** 20,
};

export function expect(model: Model, name: string, ...states: VmState[]): void {
  model.vms.set(name, { ...vmOf(model, name), states: new Set(states) });
}

/** Whether it is known to run. */
export function surelyRuns(model: Model, name: string): boolean {
  const states = model.vms.get(name)?.states;
  return states?.size === 1 && states.has('running');
}

/** Whether it is known not to run, and can be started. */
export function surelyRests(model: Model, name: string): boolean {
  const states = model.vms.get(name)?.states;
  return states !== undefined && [...states].every((state) => state === 'stopped' || state === 'failed');
}

/** Whether its memory is known to be on disk. */
export function surelySleeps(model: Model, name: string): boolean {
  const states = model.vms.get(name)?.states;
  return states?.size === 1 && states.has('suspended');
}
