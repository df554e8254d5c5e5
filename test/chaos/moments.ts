/** Snapshots with memory in a chaos run: one of each VM at most, with what its disks and its memory must hold. */
import assert from 'node:assert/strict';
import { cutOff } from './accidents.ts';
import { type Action, hasRoom } from './action.ts';
import { checkData } from './data.ts';
import {
  expect,
  type Model,
  type Moment,
  surelyRests,
  surelyRuns,
  surelySleeps,
  vmOf,
  withoutSnapshots,
} from './model.ts';
import { lacksRoom, newMark } from './work.ts';

const MOMENT = 'moment';

/** Where a mark is that no disk holds. */
const IN_MEMORY = '/run/moment';

const momentOf = (model: Model, name: string): Moment | undefined => model.vms.get(name)?.moment;

const settled = (model: Model, name: string) =>
  surelyRuns(model, name) || surelyRests(model, name) || surelySleeps(model, name);

const mayGoBack = (model: Model, name: string) =>
  momentOf(model, name) !== undefined && settled(model, name) && (surelyRuns(model, name) || hasRoom(model));

export const take = (name: string): Action => ({
  title: `snapshot create ${name}, with its memory`,
  possible: (model) => surelyRuns(model, name),
  async run(model, { host }) {
    const vm = vmOf(model, name);
    const mark = newMark();
    await host.guest(name, `echo ${mark} > ${IN_MEMORY}`);
    if (vm.moment) await host.ok('snapshot', 'delete', name, MOMENT);
    const { moment: _, ...rest } = vm;
    model.vms.set(name, rest);
    if (await lacksRoom(host, ['snapshot', 'create', name, MOMENT, '--pause-ok'])) return;
    const { sums, marks, workDiskBytes } = vm;
    model.vms.set(name, { ...rest, moment: { sums, marks, workDiskBytes, mark } });
  },
});

export const goBack = (name: string): Action => ({
  title: `snapshot restore ${name}, with its memory`,
  possible: (model) => mayGoBack(model, name),
  async run(model, { host }) {
    const vm = vmOf(model, name);
    if (!vm.moment || (await lacksRoom(host, ['snapshot', 'restore', name, MOMENT, '--force']))) return;
    const { mark, ...held } = vm.moment;
    model.vms.set(name, { ...vm, ...held });
    expect(model, name, 'running');
    assert.equal(await host.guest(name, `cat ${IN_MEMORY}`), mark, 'its memory is that of the snapshot');
    await checkData(model, host, name);
  },
});

export const asAnother = (name: string, to: string): Action => ({
  title: `snapshot restore ${name} --as ${to}, with its memory`,
  possible: (model) => momentOf(model, name) !== undefined && !model.vms.has(to) && hasRoom(model),
  async run(model, { host }) {
    const vm = vmOf(model, name);
    if (!vm.moment || (await lacksRoom(host, ['snapshot', 'restore', name, MOMENT, '--as', to]))) return;
    const { mark, ...held } = vm.moment;
    model.vms.set(to, { ...withoutSnapshots(vm), ...held });
    expect(model, to, 'running');
    assert.equal(await host.guest(to, `hostname; cat ${IN_MEMORY}`), `${to}\n${mark}`);
    await checkData(model, host, to);
  },
});

/** It is what it was, or what it is to be, or suspended in between; never memory beside disks that are not its own. */
export const daemonDiesDuring = (name: string, delayMs: number): Action => ({
  title: `kill -9 of the daemon ${delayMs} ms into: snapshot restore ${name}, with its memory`,
  possible: (model) => mayGoBack(model, name),
  async run(model, { host }) {
    const before = vmOf(model, name);
    const status = await cutOff(host, ['snapshot', 'restore', name, MOMENT, '--force'], delayMs);
    const { moment } = before;
    if (!moment || status === 6) return;
    const either = (key: 'sums' | 'marks') => new Set([...(status === 0 ? [] : before[key]), ...moment[key]]);
    const { workDiskBytes } = await host.vm(name);
    assert.ok(
      [before.workDiskBytes, moment.workDiskBytes].includes(workDiskBytes),
      `${name} has ${workDiskBytes} bytes`,
    );
    model.vms.set(name, { ...before, sums: either('sums'), marks: either('marks'), workDiskBytes });
    if (status === 0) return expect(model, name, 'running');
    expect(model, name, ...before.states, 'running', 'suspended', 'stopped', 'failed');
  },
});
