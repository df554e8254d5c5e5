/** Deleted VMs: kept for a while, had back, and thrown away for good. */
import { keepsAddress } from '../../core/free-address.ts';
import { macFor, type VmRecord } from '../../core/vm.ts';
import { leaving, trashed } from '../../core/vm-changes.ts';
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
 * @throws BangerError `not_found`, or `conflict` when a VM has the name, or it is being thrown away
 */
export function restoreVm(host: TrashHost, wanted: string, as: string | undefined): RestoredVm {
  const found = findRestorable(host, wanted);
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
 * @returns those that are gone: one that was had back meanwhile stays
 * @throws BangerError `not_found` before anything is thrown away
 */
export async function emptyTrash(host: Host, wanted: readonly string[], progress: Progress): Promise<TrashedVm[]> {
  const all = host.stores.trash.list();
  for (const each of wanted) findTrashed(all, each);
  const chosen = wanted.length === 0 ? all : all.filter(({ vm }) => wanted.includes(vm.name) || wanted.includes(vm.id));
  const gone: TrashedVm[] = [];
  for (const each of chosen) {
    progress.step('delete-disks', `deleting the disks of ${each.vm.name}`);
    if (await throwAway(host, each)) gone.push(each);
    else progress.warn(`${each.vm.name} was had back meanwhile, and stays.`);
  }
  return gone;
}

/** Throws away what has been in the trash for long enough; returns their names. */
export async function purgeTrash(host: Host): Promise<string[]> {
  const now = host.now().toISOString();
  const due = host.stores.trash.list().filter((each) => isLeaving(each) || purgedAt(host, each) <= now);
  const gone: string[] = [];
  for (const each of due) if (await throwAway(host, each)) gone.push(each.vm.name);
  return gone;
}

/**
 * Throws one away, unless it was had back since it was listed. From the first moment on nobody has it back, also when this
 * fails or is cut off: half of its disks may be gone. The record goes last, so that the next purge goes on with it.
 * @returns whether it is gone
 */
async function throwAway(host: Host, { vm, deletedAt }: TrashedVm): Promise<boolean> {
  // no await between the look and the mark; one that was had back and deleted once more is kept for its time
  if (host.stores.vms.findById(vm.id)) return false;
  const kept = host.stores.trash.list().find((each) => each.vm.id === vm.id);
  if (!kept) return true;
  if (kept.deletedAt !== deletedAt) return false;
  host.stores.trash.update({ ...kept.vm, ...leaving() });
  await releaseVm(host, vm);
  // written down before it was made, but a restored database may not know it
  host.stores.ledger.record(vm.id, { kind: 'directory', name: vmFiles(host.config.paths.store, vm.id).directory });
  const images = imagesOf(host, vm);
  await discardVm(host, vm);
  host.stores.trash.remove(vm.id);
  for (const image of images) await leaveImage(host, image);
  return true;
}

/** Whether it is being thrown away, or was and is to be. */
function isLeaving({ vm }: TrashedVm): boolean {
  return vm.phase === leaving().phase;
}

/** @throws BangerError `not_found`, or `conflict` when it is being thrown away */
function findRestorable({ stores }: Pick<Host, 'stores'>, wanted: string): TrashedVm {
  // another of that name may be older, and whole
  const found = findTrashed(
    stores.trash.list().toSorted((a, b) => Number(isLeaving(a)) - Number(isLeaving(b))),
    wanted,
  );
  if (!isLeaving(found)) return found;
  throw new BangerError('conflict', `${found.vm.name} is being deleted for good.`, {
    hint: 'See what else can be had back: banger trash list',
  });
}

/** @throws BangerError `not_found` */
function findTrashed(all: readonly TrashedVm[], wanted: string): TrashedVm {
  const found = all.find(({ vm }) => vm.name === wanted || vm.id === wanted);
  if (found) return found;
  throw new BangerError('not_found', `There is no deleted VM named "${wanted}".`, {
    hint: 'See what can be had back: banger trash list',
  });
}
