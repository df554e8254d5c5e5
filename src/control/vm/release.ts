/**
 * Frees everything a run of a VM holds on the host. The ledger is the list: start's undo, stop, kill, delete
 * and recovery after a crash are all this one function. Disks stay, unless the VM itself goes.
 */
import { rm } from 'node:fs/promises';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { findVmms } from '../../firecracker/launch.ts';
import { vmFiles } from '../../storage/layout.ts';
import { removeUnshared } from '../../storage/shared-files.ts';
import { removeCgroup } from '../../system/cgroup.ts';
import { endProcess, haltedBy, isAlive, type ProcessIdentity } from '../../system/processes.ts';
import type { Host } from '../host.ts';

/** A VMM dies by SIGTERM at once; a wedged one gets no more than this before SIGKILL. */
const VMM_GRACE_MS = 3000;

/**
 * Repeatable; what is gone already is no error.
 * @throws BangerError `vmm_failed` when the VMM cannot be killed
 */
export async function releaseVm(host: Host, vm: Pick<VmRecord, 'id' | 'name'>): Promise<void> {
  void host.guests.drop(vm);
  void host.agents.drop(vm);
  host.health.silent.delete(vm.id);
  host.health.emulatedMeanwhile.delete(vm.id);
  host.health.processes.delete(vm.id);
  // its device may go before it: a VMM that is being ended sends nothing that anybody waits for
  const done = await Promise.allSettled([endPrograms(host, vm), host.network.detach(vm)]);
  for (const outcome of done) if (outcome.status === 'rejected') throw outcome.reason;
}

async function endPrograms(host: Host, vm: Pick<VmRecord, 'id' | 'name'>): Promise<void> {
  for (const resource of host.stores.ledger.of(vm.id)) {
    if (resource.kind === 'vmm') await endVmms(host, vm, resource);
  }
  for (const resource of host.stores.ledger.of(vm.id)) {
    if (resource.kind !== 'cgroup') continue;
    await removeCgroup(resource.name);
    host.stores.ledger.strike('cgroup', resource.name);
  }
}

async function endVmms(
  host: Host,
  vm: Pick<VmRecord, 'id' | 'name'>,
  { name: socketPath, identity: known }: { name: string; identity?: ProcessIdentity },
): Promise<void> {
  // the one that was written down, and whatever serves its socket: the daemon may have died before it could write
  const recorded = known && (await isAlive(known)) ? known : undefined;
  const [found] = await Promise.all([findVmms(socketPath), recorded && endVmm(host, vm, recorded)]);
  for (const identity of found) if (identity.pid !== recorded?.pid) await endVmm(host, vm, identity);
  await rm(socketPath, { force: true });
  host.stores.ledger.strike('vmm', socketPath);
}

async function endVmm(host: Host, vm: Pick<VmRecord, 'name'>, identity: ProcessIdentity): Promise<void> {
  const gone = await endProcess(identity, {
    // one that is halted does not hear SIGTERM
    graceMs: haltedBy(identity.pid) === undefined ? VMM_GRACE_MS : 0,
    foreignKill: host.system.privileged.kill,
  });
  if (!gone) {
    throw new BangerError(
      'vmm_failed',
      `The VMM of ${vm.name} (process ${identity.pid}) does not end, not even by SIGKILL.`,
      {
        hint: `It hangs in the kernel; see: cat /proc/${identity.pid}/stack   then try again: banger kill ${vm.name}`,
      },
    );
  }
}

/** Images that a VM and its snapshots boot with; each may go once the VM is gone. */
export function imagesOf({ stores }: Pick<Host, 'stores'>, vm: Pick<VmRecord, 'id' | 'imageId'>): Set<string | null> {
  return new Set([vm.imageId, ...stores.snapshots.list(vm.id).map(({ values }) => values.imageId)]);
}

/** Removes a VM with its disks and snapshots, in an order that a crash cannot turn into a leak. */
export async function discardVm(host: Host, vm: Pick<VmRecord, 'id'>): Promise<void> {
  for (const resource of host.stores.ledger.of(vm.id)) {
    // of what lies in the directory
    if (resource.kind === 'disk-work' || resource.kind === 'snapshot' || resource.kind === 'restore') {
      host.stores.ledger.strike(resource.kind, resource.name);
    }
    if (resource.kind !== 'directory') continue;
    await rm(resource.name, { recursive: true, force: true });
    host.stores.ledger.strike('directory', resource.name);
  }
  const { store } = host.config.paths;
  host.stores.ledger.strike('rebase', vmFiles(store, vm.id).rootDisk);
  host.stores.atomically(() => {
    host.stores.snapshots.removeOf(vm.id);
    host.stores.vms.remove(vm.id);
  });
  await removeUnshared(store);
}
