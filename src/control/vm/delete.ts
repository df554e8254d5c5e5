/** Deletes a VM: into the trash, or for good with its disks. */

import { leaving, stopped, stopping } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import { keepWorkDisk } from '../disks/keep.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf } from '../vmm.ts';
import { discardMemory } from './discard-memory.ts';
import { discardVm, imagesOf, releaseVm } from './release.ts';
import { moveToTrash } from './trash.ts';

export interface Deletion {
  /** also one that runs: it is killed */
  force: boolean;
  /** for good, past the trash; temporary VMs always are */
  now: boolean;
  /** for good but for its work disk; `name` is what that is called then, the VM's own without */
  keepWorkDisk: boolean | { name: string };
}

export interface DeletedVm {
  name: string;
  id: string;
  /** how long it can be had back, in `ms`; 0 when it is gone for good */
  keptForMs: number;
  /** where its work disk was put, null when that was not asked for or there was none */
  keptWorkDisk: { name: string; path: string } | null;
  /** how many snapshots go with it */
  snapshots: number;
}

/** @throws BangerError `conflict` when it runs and `force` is not given */
export async function deleteVm(host: Host, name: string, deletion: Deletion, progress: Progress): Promise<DeletedVm> {
  const vm = host.stores.vms.get(name);
  const { force } = deletion;
  const snapshots = host.stores.snapshots.count(vm.id);
  const asked = deletion.keepWorkDisk;
  // a kept disk that it was given goes back under the name it had
  const givenAs = vm.temporary?.keptDisk ?? (typeof asked === 'object' ? asked.name : undefined);
  const keep = asked !== false || givenAs !== undefined;
  const now = deletion.now || vm.temporary !== null;
  const alive = (await findVmmOf(host, vm)) !== undefined;
  if (alive && !force) {
    throw new BangerError('conflict', `${name} is running.`, {
      hint: `Stop it first with: banger stop ${name}   or delete it anyway with: banger rm --force ${name}`,
    });
  }
  progress.step('release', 'freeing its network and process');
  // the memory of one that is suspended goes the way of its disks
  if (vm.memory === null) host.stores.vms.update(vm.id, stopping());
  await releaseVm(host, vm);
  if (keep && vm.memory !== null) await discardMemory(host, vm);
  // before the deletion is certain: a crash in between leaves the VM, which still owns its disk
  const kept = keep ? await keepWorkDisk(host, vm, givenAs ?? vm.name) : undefined;
  if (kept && givenAs !== undefined && kept.name !== givenAs) {
    progress.warn(`The work disk ${givenAs} is kept as ${kept.name} now: another one has got its name.`);
  }
  if (keep && !kept) progress.warn(`${name} had no work disk that could be kept.`);
  const keptForMs = now || keep ? 0 : host.config.limits.trashForMs;
  if (keptForMs > 0) {
    progress.step('to-trash', 'moving it to the trash');
    if (vm.memory === null) host.stores.vms.update(vm.id, stopped());
    moveToTrash(host, host.stores.vms.get(name));
    return { name, id: vm.id, keptForMs, keptWorkDisk: null, snapshots };
  }
  progress.step('delete-disks', 'deleting its disks');
  // a crash from here on ends in a deleted VM, not in half of one
  host.stores.vms.update(vm.id, leaving());
  const images = imagesOf(host, vm);
  await discardVm(host, vm);
  for (const image of images) await leaveImage(host, image);
  return { name, id: vm.id, keptForMs: 0, keptWorkDisk: kept ?? null, snapshots };
}
