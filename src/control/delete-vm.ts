/** Deletes a VM with its disks. */
import { BangerError } from '../errors.ts';
import { findVmm } from '../firecracker/launch.ts';
import { vmmSocket } from '../storage/layout.ts';
import { discardVm } from './create-vm.ts';
import type { Host } from './host.ts';
import { keepWorkDisk } from './keep-disk.ts';
import type { Progress } from './operation.ts';
import { releaseVm } from './release-vm.ts';

/** @throws BangerError `conflict` when it runs and `force` is not given */
export async function deleteVm(
  host: Host,
  name: string,
  { force, keepWorkDisk: keep }: { force: boolean; keepWorkDisk: boolean },
  progress: Progress,
): Promise<{ name: string; keptWorkDisk: { name: string; path: string } | null }> {
  const vm = host.vms.get(name);
  const alive = (await findVmm(vmmSocket(host.config.paths.run, vm.id))) !== undefined;
  if (alive && !force) {
    throw new BangerError('conflict', `${name} is running.`, {
      hint: `Stop it first with: banger stop ${name}   or delete it anyway with: banger rm --force ${name}`,
    });
  }
  progress.step('release', 'freeing its network and process');
  host.vms.update(vm.id, { phase: 'stopping' });
  await releaseVm(host, vm);
  // before the deletion is certain: a crash in between leaves the VM, which still owns its disk
  const kept = keep ? await keepWorkDisk(host, vm) : undefined;
  if (keep && !kept) progress.warn(`${name} had no work disk that could be kept.`);
  progress.step('delete-disks', 'deleting its disks');
  // `creating` is the phase whose recovery is removal: a crash from here on ends in a deleted VM, not in half of one
  host.vms.update(vm.id, { phase: 'creating' });
  await discardVm(host, vm);
  return { name, keptWorkDisk: kept ?? null };
}
