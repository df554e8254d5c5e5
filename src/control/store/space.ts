/** Room on the store: told when it gets short, and a start refused before its guest would run into the end. */
import { dirname } from 'node:path';
import { type SpaceState, spaceState } from '../../core/store-space.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { mountOf, spaceOf } from '../../storage/file-system.ts';
import { formatSize } from '../../units.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { storeImage } from './image.ts';

export interface StoreSpace {
  sizeBytes: number;
  freeBytes: number;
  state: SpaceState;
}

/**
 * Directories on the file systems whose room the disks of VMs take: of the store, and below it. An image that has room on a
 * disk that has none is as full as that disk.
 */
export function placesOfStore(host: Pick<Host, 'config' | 'stores'>): [string, ...string[]] {
  const image = storeImage(host);
  return [host.config.paths.store, ...(image ? [dirname(image.name)] : [])];
}

export async function storeSpace(host: Pick<Host, 'config' | 'stores'>): Promise<StoreSpace> {
  const [store, ...below] = placesOfStore(host);
  const space = await spaceOf(store);
  const all = [space, ...(await Promise.all(below.map(spaceOf)))];
  const freeBytes = Math.min(...all.map((each) => each.freeBytes));
  const states = all.map((each) => spaceState(each, host.config.storage.minFreeBytes));
  const state = (['full', 'low'] as const).find((worse) => states.includes(worse)) ?? 'ok';
  return { sizeBytes: space.sizeBytes, freeBytes, state };
}

/**
 * A guest that writes where nothing is left gets I/O errors and turns its disk read-only.
 * @throws BangerError `host_unprepared` when less than `storage.min_free` is left
 */
export async function requireStoreSpace(host: Host, vm: VmRecord, progress: Progress): Promise<void> {
  const { state, freeBytes, sizeBytes } = await storeSpace(host);
  const { store } = host.config.paths;
  const room = `${formatSize(freeBytes)} of ${formatSize(sizeBytes)} are free in ${store}`;
  if (state === 'full') {
    throw new BangerError(
      'host_unprepared',
      `There is no room for a run of ${vm.name}: ${room}, and storage.min_free keeps ${formatSize(host.config.storage.minFreeBytes)}.`,
      { hint: 'See what takes it: banger storage show   and: banger disk list' },
    );
  }
  if (state === 'low') progress.warn(`The store is nearly full: ${room}. See: banger storage show`);
}

/** File systems whose clones share blocks, unless they were made without that. */
const SHARING = new Set(['xfs', 'btrfs', 'bcachefs']);

/**
 * What a root disk takes of the store before anything is written to it, in bytes. The kind of file system is asked and
 * nothing is tried: a trial would leave its files behind when the daemon dies.
 */
export async function costOfClone({ config }: Pick<Host, 'config'>, rootfs: string): Promise<number> {
  const mount = await mountOf(config.paths.store);
  if (mount && SHARING.has(mount.type)) return 0;
  return await allocatedBytes(rootfs).catch(() => 0); // that it is gone is told by a check of its own
}

/** Whether a write of the daemon's own, or of a program it ran, came to the end of a disk of this host. */
export function isFull(error: unknown): boolean {
  if (!(error instanceof BangerError)) return systemCode(error) === 'ENOSPC';
  return ['command_failed', 'vmm_failed'].includes(error.code) && /No space left on device/.test(messageOf(error));
}
