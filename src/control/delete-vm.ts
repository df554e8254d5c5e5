/** Deletes a VM with its disks. */
import { BangerError } from '../errors.ts';
import { findVmm } from '../firecracker/launch.ts';
import { vmmSocket } from '../storage/layout.ts';
import { discardVm } from './create-vm.ts';
import type { Host } from './host.ts';
import type { Progress } from './operation.ts';
import { releaseVm } from './release-vm.ts';

/** @throws BangerError `conflict` when it runs and `force` is not given */
export async function deleteVm(
  host: Host,
  name: string,
  force: boolean,
  progress: Progress,
): Promise<{ name: string }> {
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
  progress.step('delete-disks', 'deleting its disks');
  // `creating` is the phase whose recovery is removal: a crash from here on ends in a deleted VM, not in half of one
  host.vms.update(vm.id, { phase: 'creating' });
  await discardVm(host, vm);
  return { name };
}
