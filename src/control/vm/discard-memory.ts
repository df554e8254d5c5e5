/** Gives the memory of a suspended VM up. */
import type { VmRecord } from '../../core/vm.ts';
import { stopped } from '../../core/vm-changes.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import { releaseVm } from './release.ts';

/** It is stopped then, as if its power had been cut when it was suspended; its disks have all that was written to them. */
export async function discardMemory(host: Host, vm: VmRecord): Promise<void> {
  await releaseVm(host, vm);
  // the record first: files without one are removed by whoever finds them
  host.stores.vms.update(vm.id, stopped());
  await forgetMemory(host, vm);
}
