/** Snapshots in a chaos run: one of each VM at most, with what it must hold. */
import assert from 'node:assert/strict';
import { cutOff } from './accidents.ts';
import type { Action } from './action.ts';
import { checkData } from './data.ts';
import { expect, type Model, type ModelVm, surelyRests, surelyRuns, vmOf } from './model.ts';

const SNAPSHOT = 'kept';

/** What belongs to the disks of a VM. */
const heldBy = ({ sums, marks, workDiskBytes }: ModelVm) => ({ sums, marks, workDiskBytes });

const settled = (model: Model, name: string) => surelyRuns(model, name) || surelyRests(model, name);

export const take = (name: string): Action => ({
  title: `snapshot create ${name}`,
  possible: (model) => settled(model, name),
  async run(model, { host }) {
    const vm = vmOf(model, name);
    if (vm.snapshot) await host.ok('snapshot', 'delete', name, SNAPSHOT);
    await host.ok('snapshot', 'create', name, SNAPSHOT, '--disk-only', '--pause-ok');
    model.vms.set(name, { ...vm, snapshot: heldBy(vm) });
  },
});

export const putBack = (name: string): Action => ({
  title: `snapshot restore ${name}`,
  possible: (model) => settled(model, name) && vmOf(model, name).snapshot !== undefined,
  async run(model, { host }) {
    const vm = vmOf(model, name);
    const ran = surelyRuns(model, name);
    await host.ok('snapshot', 'restore', name, SNAPSHOT, '--force');
    model.vms.set(name, { ...vm, ...vm.snapshot });
    expect(model, name, ran ? 'running' : 'stopped');
    if (ran) await checkData(model, host, name);
  },
});

export const thereAndBack = (name: string): Action => ({
  title: `snapshot restore ${name}, snapshot undo ${name}`,
  possible: (model) => surelyRests(model, name) && vmOf(model, name).snapshot !== undefined,
  async run(model, { host }) {
    await host.ok('snapshot', 'restore', name, SNAPSHOT);
    await host.ok('snapshot', 'undo', name);
    expect(model, name, 'stopped');
  },
});

/** The disks are those of before or of after; which of them, the next start tells. */
export const daemonDiesDuringRestore = (name: string, delayMs: number): Action => ({
  title: `kill -9 of the daemon ${delayMs} ms into: snapshot restore ${name}`,
  possible: (model) => surelyRests(model, name) && vmOf(model, name).snapshot !== undefined,
  async run(model, { host }) {
    const before = vmOf(model, name);
    const after = { ...before, ...before.snapshot };
    const status = await cutOff(host, ['snapshot', 'restore', name, SNAPSHOT], delayMs);
    const { workDiskBytes } = await host.vm(name);
    assert.ok(
      [before.workDiskBytes, after.workDiskBytes].includes(workDiskBytes),
      `${name} has ${workDiskBytes} bytes`,
    );
    const either = (key: 'sums' | 'marks') => new Set([...(status === 0 ? [] : before[key]), ...after[key]]);
    const told = { sums: either('sums'), marks: either('marks') };
    model.vms.set(name, { ...before, ...told, workDiskBytes, states: new Set(['stopped', 'failed']) });
  },
});
