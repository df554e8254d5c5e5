/** Takes snapshots of a VM's disks: of one that is at rest at once, of one that runs while its guest holds still. */
import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { requireNoMemory } from '../../core/saved-memory.ts';
import { type SnapshotRecord, surplusAutomatic } from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { freezeGuest } from '../../guest/freeze.ts';
import { copyDisk } from '../../storage/clone.ts';
import { snapshotFiles, snapshotsDirectory, vmFiles } from '../../storage/layout.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { pathExists, syncPath } from '../../system/files.ts';
import { formatDuration, formatSize, MIB } from '../../units.ts';
import { settleDiskWork } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import type { Progress } from '../operations.ts';
import { costOfClone, storeSpace } from '../store/space.ts';
import { requireFreeDisks } from '../vm/free-disks.ts';

/** Disks of one moment, in the place of a snapshot. */
export type TakenDisks = Pick<SnapshotRecord, 'taken' | 'pauseMs' | 'hasWorkDisk'>;

/** A check of a large disk that an earlier daemon began. */
const SETTLE_LIMIT_MS = 5 * 60_000;

/** What a copy is reckoned with, where blocks are not shared; disks of laptops write that. */
const COPY_BYTES_PER_S = 400 * MIB;

/** A guest that stands still for longer is asked for. */
const UNASKED_PAUSE_MS = 2000;

/** What a guest stays frozen for at most, whatever comes between, beside three times the expected copy. */
const FREEZE_MS = 10_000;

export function newSnapshotId(): string {
  return randomBytes(4).toString('hex');
}

/** Does something with the directory of a snapshot that is in no record yet; a failure leaves nothing of it. */
export async function provisionally<T>(
  host: Pick<Host, 'config' | 'stores'>,
  vm: Pick<VmRecord, 'id'>,
  id: string,
  work: () => Promise<T>,
): Promise<T> {
  const { directory } = snapshotFiles(host.config.paths.store, vm.id, id);
  host.stores.ledger.record(vm.id, { kind: 'snapshot', name: directory });
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    return await work();
  } catch (error) {
    await removeDirectory(host, directory);
    throw error;
  }
}

/** Removes a directory that the ledger has and no record. */
export async function removeDirectory({ stores }: Pick<Host, 'stores'>, directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  stores.ledger.strike('snapshot', directory);
}

/**
 * Clones root and work disk of a VM into the place of a snapshot, both of one moment.
 * @throws BangerError as `createSnapshot` does
 */
export async function takeDisks(
  host: Host,
  vm: VmRecord,
  id: string,
  pauseOk: boolean,
  progress: Progress,
  signal: AbortSignal,
): Promise<TakenDisks> {
  const { store } = host.config.paths;
  const [source, target] = [vmFiles(store, vm.id), snapshotFiles(store, vm.id, id)];
  requireNoMemory(vm, 'cloned');
  requireKnownState(vm);
  const hasWorkDisk = vm.workDiskBytes > 0 && (await pathExists(source.workDisk));
  const pairs = [
    [source.rootDisk, target.rootDisk],
    ...(hasWorkDisk ? [[source.workDisk, target.workDisk] as const] : []),
  ] as const;
  const costs = await Promise.all(pairs.map(([path]) => costOfClone(host, path)));
  const bytes = costs.reduce((sum, each) => sum + each, 0);
  await requireRoom(host, bytes, `a snapshot of ${vm.name}`);
  const clone = async () => {
    for (const [from, to] of pairs) await copyDisk(host.system.runner, host.config.programs.cp, from, to, signal);
  };
  let pauseMs: number | null = null;
  if (vm.phase === 'running') pauseMs = await whileFrozen(host, vm, hasWorkDisk, bytes, pauseOk, progress, clone);
  else {
    if (!(await settleDiskWork(host, vm, SETTLE_LIMIT_MS))) throw stillChecked(vm);
    await requireFreeDisks(host, vm);
    progress.step('clone-disks', bytes === 0 ? 'cloning the disks' : `copying the disks: ${formatSize(bytes)}`);
    await clone();
  }
  throwIfCancelled(signal);
  for (const [, to] of pairs) await syncPath(to);
  return { taken: pauseMs === null ? 'at-rest' : 'frozen', pauseMs, hasWorkDisk };
}

/** @returns `ms` for which the guest could not write */
async function whileFrozen(
  host: Host,
  vm: VmRecord,
  hasWorkDisk: boolean,
  bytes: number,
  pauseOk: boolean,
  progress: Progress,
  clone: () => Promise<void>,
): Promise<number> {
  const expectedMs = requireShortPause(vm, bytes, pauseOk);
  const connection = await host.guests.get(vm);
  progress.step(
    'freeze',
    bytes === 0 ? 'holding the guest still' : `holding the guest still to copy ${formatSize(bytes)}`,
  );
  const mounts = [...(hasWorkDisk ? [vm.workDiskMount] : []), '/'];
  const frozen = await freezeGuest(connection, mounts, FREEZE_MS + 3 * expectedMs);
  let pauseMs: number | undefined;
  try {
    await clone();
  } finally {
    pauseMs = await frozen.thaw();
  }
  if (pauseMs !== undefined) return Math.round(pauseMs);
  throw new BangerError(
    'guest_failed',
    `The guest of ${vm.name} did not stay still for as long as its disks were copied.`,
    {
      hint: `Stop it first: banger stop ${vm.name}   or let clones cost nothing: banger storage init`,
    },
  );
}

/**
 * @returns `ms` that the guest will stand still for while that many bytes are copied
 * @throws BangerError `conflict` when that is long and not allowed
 */
export function requireShortPause(vm: Pick<VmRecord, 'name'>, bytes: number, pauseOk: boolean): number {
  const expectedMs = Math.round((bytes / COPY_BYTES_PER_S) * 1000);
  if (expectedMs <= UNASKED_PAUSE_MS || pauseOk) return expectedMs;
  throw new BangerError(
    'conflict',
    `The guest of ${vm.name} would have to stand still for about ${formatDuration(expectedMs)}: ${formatSize(bytes)} are copied, because the store does not share blocks.`,
    {
      hint: `Allow it with --pause-ok, or stop it first: banger stop ${vm.name}   Clones cost nothing after: banger storage init`,
      details: { expectedMs, bytes },
    },
  );
}

/** What is to be found in the directory alone. */
export async function writeManifest(host: Pick<Host, 'config'>, record: SnapshotRecord): Promise<void> {
  const { manifest, directory } = snapshotFiles(host.config.paths.store, record.vmId, record.id);
  await writeFile(manifest, `${JSON.stringify({ version: 1, ...record }, null, 2)}\n`, { mode: 0o600 });
  for (const path of [manifest, directory, snapshotsDirectory(host.config.paths.store, record.vmId)])
    await syncPath(path);
}

/** Deletes a snapshot: its record first, and what a crash leaves of its files goes at the next start. */
export async function deleteSnapshot(
  host: Host,
  vm: Pick<VmRecord, 'id' | 'name'>,
  record: SnapshotRecord,
): Promise<void> {
  const { directory } = snapshotFiles(host.config.paths.store, record.vmId, record.id);
  host.stores.atomically(() => {
    host.stores.ledger.record(record.vmId, { kind: 'snapshot', name: directory });
    host.stores.snapshots.remove(record.id);
  });
  host.events.publish({ type: 'snapshot.deleted', vm: vm.name, id: vm.id, snapshot: record.name });
  await removeDirectory(host, directory);
  await leaveImage(host, record.values.imageId);
}

/** Deletes automatic ones that are more than are kept. */
export async function thinOut(host: Host, vm: Pick<VmRecord, 'id' | 'name'>): Promise<void> {
  for (const old of surplusAutomatic(host.stores.snapshots.list(vm.id))) await deleteSnapshot(host, vm, old);
}

/** @throws BangerError `not_found` with those there are */
export function getSnapshot(
  { stores }: Pick<Host, 'stores'>,
  vm: Pick<VmRecord, 'id' | 'name'>,
  name: string,
): SnapshotRecord {
  const found = stores.snapshots.find(vm.id, name);
  if (found) return found;
  const names = stores.snapshots.list(vm.id).map((each) => each.name);
  throw new BangerError('not_found', `${vm.name} has no snapshot "${name}".`, {
    hint: names.length === 0 ? `Take one: banger snapshot create ${vm.name}` : `It has: ${names.join(', ')}`,
  });
}

/** @throws BangerError `host_unprepared` when less than `storage.min_free` would be left */
export async function requireRoom(
  host: Pick<Host, 'config' | 'stores'>,
  bytes: number,
  purpose: string,
): Promise<void> {
  const { freeBytes } = await storeSpace(host);
  const { minFreeBytes } = host.config.storage;
  if (freeBytes - bytes >= minFreeBytes) return;
  const room = `${formatSize(freeBytes)} are free in ${host.config.paths.store}`;
  const cost = bytes === 0 ? 'it takes nothing at first' : `it takes ${formatSize(bytes)}`;
  throw new BangerError(
    'host_unprepared',
    `There is no room for ${purpose}: ${cost}, ${room}, and storage.min_free keeps ${formatSize(minFreeBytes)}.`,
    { hint: 'See what takes it: banger storage show   banger snapshot list   banger disk list' },
  );
}

function requireKnownState(vm: VmRecord): void {
  if (vm.paused !== null) {
    throw new BangerError('conflict', `The guest of ${vm.name} is paused, so it cannot hold its file systems still.`, {
      hint: `See why: banger show ${vm.name}   Let it go on: banger start ${vm.name}`,
    });
  }
  if (vm.phase === 'running' || vm.phase === 'stopped' || vm.phase === 'failed') return;
  throw new BangerError('conflict', `${vm.name} is ${vm.phase}; its disks are of no moment.`, {
    hint: `Wait for it: banger wait ${vm.name}`,
  });
}

function stillChecked({ name }: Pick<VmRecord, 'name'>): BangerError {
  return new BangerError('conflict', `A check of the disks of ${name} that began earlier still goes on.`, {
    hint: 'See how far it is: ps -C e2fsck,resize2fs -o pid,etime,args   then try again.',
  });
}
