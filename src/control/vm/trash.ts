/** Deleted VMs: kept for a while, had back, and thrown away for good. */
import { keepsAddress } from '../../core/free-address.ts';
import { macFor, type VmRecord } from '../../core/vm.ts';
import { trashed } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import type { TrashedVm } from '../../state/trash.ts';
import { vmFiles } from '../../storage/layout.ts';
import type { Host, HostNetwork } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import type { Progress } from '../operations.ts';
import { freeAddress } from './identity.ts';
import { discardVm, imagesOf, releaseVm } from './release.ts';

/** What moving records needs of the host. */
type TrashHost = Pick<Host, 'stores'> & { network: Pick<HostNetwork, 'pool'> };

/** When a VM in the trash is thrown away, ISO 8601. */
export function purgedAt(host: Pick<Host, 'config'>, { deletedAt }: Pick<TrashedVm, 'deletedAt'>): string {
  return new Date(Date.parse(deletedAt) + host.config.limits.trashForMs).toISOString();
}

/** Puts a VM that has been released into the trash: its name is free at once, its files stay where they are. */
export function moveToTrash(host: TrashHost & Pick<Host, 'now'>, vm: VmRecord): void {
  host.stores.atomically(() => {
    host.stores.trash.put(trashed(vm), host.now().toISOString());
    host.stores.vms.remove(vm.id);
  });
}

export interface RestoredVm {
  vm: VmRecord;
  /** the address it had, when another VM has that one now */
  lostAddress: string | null;
}

/**
 * Brings a VM back, the one deleted last when several had the name.
 * @param wanted its name or its id
 * @param as another name for it
 * @throws BangerError `not_found`, or `conflict` when a VM has the name
 */
export function restoreVm(host: TrashHost, wanted: string, as: string | undefined): RestoredVm {
  const found = findTrashed(host, wanted);
  const name = as ?? found.vm.name;
  if (host.stores.vms.find(name)) {
    throw new BangerError('conflict', `A VM named "${name}" exists.`, {
      hint: `Have the deleted one back under another name: banger vm undelete ${wanted} --as OTHER`,
    });
  }
  const living = [...host.stores.vms.list(), ...host.stores.buildVms.list()].map((vm) => vm.address);
  const keeps = keepsAddress(host.network.pool, found.vm.address, living);
  const address = keeps ? found.vm.address : freeAddress(host);
  const vm: VmRecord = { ...found.vm, name, address, mac: keeps ? found.vm.mac : macFor(address) };
  host.stores.atomically(() => {
    host.stores.trash.remove(vm.id);
    host.stores.vms.insert(vm);
  });
  return { vm, lostAddress: keeps ? null : found.vm.address };
}

/**
 * Throws VMs in the trash away for good.
 * @param wanted names or ids; all of them without any
 * @throws BangerError `not_found` before anything is thrown away
 */
export async function emptyTrash(host: Host, wanted: readonly string[], progress: Progress): Promise<TrashedVm[]> {
  const all = host.stores.trash.list();
  for (const each of wanted) findTrashed(host, each);
  const chosen = wanted.length === 0 ? all : all.filter(({ vm }) => wanted.includes(vm.name) || wanted.includes(vm.id));
  for (const each of chosen) {
    progress.step('delete-disks', `deleting the disks of ${each.vm.name}`);
    await throwAway(host, each.vm);
  }
  return chosen;
}

/** Throws away what has been in the trash for long enough; returns their names. */
export async function purgeTrash(host: Host): Promise<string[]> {
  const now = host.now().toISOString();
  const due = host.stores.trash.list().filter((each) => purgedAt(host, each) <= now);
  for (const { vm } of due) await throwAway(host, vm);
  return due.map(({ vm }) => vm.name);
}

/** The record goes last: what a crash leaves is thrown away by the next one. */
async function throwAway(host: Host, vm: VmRecord): Promise<void> {
  await releaseVm(host, vm);
  // written down before it was made, but a restored database may not know it
  host.stores.ledger.record(vm.id, { kind: 'directory', name: vmFiles(host.config.paths.store, vm.id).directory });
  const images = imagesOf(host, vm);
  await discardVm(host, vm);
  host.stores.trash.remove(vm.id);
  for (const image of images) await leaveImage(host, image);
}

function findTrashed(host: Pick<Host, 'stores'>, wanted: string): TrashedVm {
  const found = host.stores.trash.list().find(({ vm }) => vm.name === wanted || vm.id === wanted);
  if (found) return found;
  throw new BangerError('not_found', `There is no deleted VM named "${wanted}".`, {
    hint: 'See what can be had back: banger trash list',
  });
}
