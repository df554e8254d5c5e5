/**
 * e2fsck and resize2fs on a VM's disks. They outlive a daemon that dies, so each is in the ledger while it works, and
 * whoever wants the disk next waits for it.
 */
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { growFile } from '../../storage/disk.ts';
import { discardableBytes, discardFree, growExt4, needsGrowth } from '../../storage/ext4.ts';
import { vmFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { pathExists } from '../../system/files.ts';
import { findProcesses, type ProcessIdentity, pathAsSeenBy, waitForEnd } from '../../system/processes.ts';
import { MIB } from '../../units.ts';
import { diskRunner } from '../handover.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';

/** A full check of a large disk that began under an earlier daemon. */
const SETTLE_LIMIT_MS = 5 * 60_000;

/** Less than this is not worth a check of the whole file system. */
const TRIM_WORTH_BYTES = 128 * MIB;

/** @throws BangerError `conflict` when a restore of a snapshot came to no end: one disk may be of another moment than the other */
export function requireWholeDisks({ stores }: Pick<Host, 'stores'>, vm: Pick<VmRecord, 'id' | 'name'>): void {
  if (!stores.ledger.of(vm.id).some((resource) => resource.kind === 'restore' && resource.step === 'swapping')) return;
  throw new BangerError('conflict', `A restore of the disks of ${vm.name} was not finished.`, {
    hint: 'The next daemon finishes it: banger daemon stop && banger daemon start',
  });
}

/** Programs that work on one of these files, as the daemon's user or as the files' own. */
export async function growersOf(host: Pick<Host, 'config'>, paths: readonly string[]): Promise<ProcessIdentity[]> {
  const { e2fsck, resize2fs } = host.config.programs;
  const owners = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)));
  return await findProcesses(
    (argv, pid) =>
      argv.some((word) => word === e2fsck || word === resize2fs) &&
      argv.some((word) => paths.some((path) => isNamed(path, word, pid))),
    owners.flatMap((found) => found?.uid ?? []),
  );
}

/** By its whole path, or by its name where the process works in its directory. */
function isNamed(path: string, word: string, pid: number): boolean {
  return word === path || (word === basename(path) && pathAsSeenBy(pid, word) === path);
}

/**
 * Waits for what an earlier daemon left at work on the VM's disks, or on one of them.
 * @returns false when it still works after `limitMs`
 */
export async function settleDiskWork(
  host: Host,
  vm: Pick<VmRecord, 'id'>,
  limitMs: number,
  path?: string,
): Promise<boolean> {
  for (const resource of host.stores.ledger.of(vm.id)) {
    if (resource.kind !== 'disk-work' || (path !== undefined && path !== resource.name)) continue;
    for (const grower of await growersOf(host, [resource.name])) {
      if (!(await waitForEnd(grower, limitMs))) return false;
    }
    host.stores.ledger.strike('disk-work', resource.name);
  }
  return true;
}

/**
 * Grows the file system of a disk that no guest uses; finishes a growth that was cut off. XFS and btrfs grow when a guest has mounted
 * them: its initrd does that.
 */
export async function growDisk(host: Host, vm: VmRecord, path: string, bytes: number): Promise<void> {
  await requireSettled(host, vm, path);
  if ((await readRootVolume(path)).kind !== 'ext4') return await growFile(path, bytes);
  if (!(await needsGrowth(path, bytes))) return;
  await inLedger(host, vm, path, () => growExt4(diskRunner(host, vm), host.config.programs, path, bytes));
}

/**
 * Gives space that the guest no longer uses back to the host, where it is much and within the configured limit. The
 * guest cannot do it: Firecracker's disks know no discard.
 */
export async function trimDisks(host: Host, vm: VmRecord, progress: Progress, signal: AbortSignal): Promise<void> {
  const limitMs = host.config.storage.trimTimeoutMs;
  const deadline = performance.now() + limitMs;
  const files = vmFiles(host.config.paths.store, vm.id);
  for (const path of [files.workDisk, files.rootDisk]) {
    const leftMs = Math.round(deadline - performance.now());
    if (signal.aborted || leftMs < 500 || !(await pathExists(path))) continue;
    if ((await readRootVolume(path)).kind !== 'ext4' || (await discardableBytes(path)) < TRIM_WORTH_BYTES) continue;
    progress.step('trim', 'giving free space back to the host');
    try {
      await inLedger(host, vm, path, () => discardFree(diskRunner(host, vm), host.config.programs, path, leftMs));
    } catch (error) {
      // the stop itself went well; a disk that is damaged says so when it is next used
      host.log.warn({ vm: vm.name, path, error: String(error) }, 'trim failed');
    }
  }
}

/**
 * Waits for what an earlier daemon left at work on the VM's disks, or on one of them.
 * @throws BangerError `conflict` when that takes minutes
 */
export async function requireSettled(host: Host, vm: VmRecord, path?: string): Promise<void> {
  if (await settleDiskWork(host, vm, SETTLE_LIMIT_MS, path)) return;
  throw new BangerError('conflict', `A check of the disks of ${vm.name} that began earlier still goes on.`, {
    hint: 'See how far it is: ps -C e2fsck,resize2fs -o pid,etime,args   then try again.',
  });
}

async function inLedger<T>(host: Host, vm: VmRecord, path: string, work: () => Promise<T>): Promise<T> {
  host.stores.ledger.record(vm.id, { kind: 'disk-work', name: path });
  try {
    return await work();
  } finally {
    host.stores.ledger.strike('disk-work', path);
  }
}
