/**
 * Gives a VM a new root disk from another image: its work disk, name, address and host keys stay. The old root disk
 * lies beside the new one until SSH came up with that; `settleRebase` and `undoRebase` are also what happens after
 * a crash, and may be repeated.
 */
import { rename, rm } from 'node:fs/promises';
import type { VmRebase } from '../../api/image.ts';
import type { Until } from '../../api/vm.ts';
import { requireNoMemory } from '../../core/saved-memory.ts';
import type { VmRecord } from '../../core/vm.ts';
import { stopped } from '../../core/vm-changes.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { Resource } from '../../state/ledger.ts';
import { cloneFile } from '../../storage/clone.ts';
import { vmFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { pathExists, syncPath } from '../../system/files.ts';
import { formatSize } from '../../units.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { requireWholeDisks } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';
import { type ImageHost, leaveImage } from '../images/catalogue.ts';
import { requireImage } from '../images/hold.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf } from '../vmm.ts';
import { releaseVm } from './release.ts';

/** How a start is to end. */
export interface Wanted {
  /** limit in `ms` for the guest to answer and to be ready; the configured ones without */
  timeoutMs?: number | undefined;
  /** default `ready` */
  until?: Until | undefined;
  /** whether the memory of a suspended VM is given up, and it boots */
  discardMemory?: boolean | undefined;
}

/** Starting and stopping a VM as its owner does it: watched while it runs, and no longer. */
export interface StartStop {
  /** Ends at the first login. @param timeoutMs limit for the guest to answer; the configured one without */
  reach(name: string, timeoutMs: number | undefined, progress: Progress, signal: AbortSignal): Promise<VmRecord>;
  /** Waits until it is ready, unless told otherwise; what goes wrong leaves it as it is. */
  settle(vm: VmRecord, wanted: Wanted, progress: Progress, signal: AbortSignal): Promise<VmRecord>;
  /** Lets one that is suspended go on. */
  resume(name: string, progress: Progress, signal: AbortSignal): Promise<VmRecord>;
  /** @param timeoutMs what the guest gets to shut down; the configured time without */
  stop(name: string, timeoutMs: number | undefined, progress: Progress, signal: AbortSignal): Promise<VmRecord>;
}

/** What finishing or undoing needs of the host. */
type RecoveryHost = ImageHost & Pick<Host, 'log'>;

/** Phases of a run after its first login. */
const CAME_UP: ReadonlySet<VmRecord['phase']> = new Set(['running', 'suspending', 'suspended', 'resuming']);

export type RebaseEntry = Extract<Resource, { kind: 'rebase' }>;

/**
 * @throws BangerError `conflict` when the VM runs and `force` is not given; whatever kept the new root disk from
 *   coming up, after the VM was put back to what it was
 */
export async function rebaseVm(
  host: Host,
  life: StartStop,
  name: string,
  request: VmRebase,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  // one whose undoing failed: what is kept of it must not be taken for this one's
  await recoverRebase(host, host.stores.vms.get(name), host.stores.vms.get(name).phase);
  const vm = host.stores.vms.get(name);
  requireNoMemory(vm, 'given another root disk');
  requireWholeDisks(host, vm);
  const boot = await findBootFiles(host, request.image);
  const { bytes } = await readRootVolume(boot.rootfs);
  const ran = await mayBeStopped(host, vm, request);
  const entry: RebaseEntry = {
    kind: 'rebase',
    name: vmFiles(host.config.paths.store, vm.id).rootDisk,
    step: 'swapping',
    before: { image: vm.image, imageId: vm.imageId, rootDiskBytes: vm.rootDiskBytes },
    imageId: boot.imageId ?? null,
    ran,
  };
  host.stores.atomically(() => {
    requireImage(host, boot);
    host.stores.ledger.record(vm.id, entry);
  });
  try {
    if (ran) await life.stop(name, undefined, progress, signal);
    const rootDiskBytes = Math.max(vm.rootDiskBytes, bytes);
    if (rootDiskBytes > vm.rootDiskBytes) {
      progress.warn(`The root disk of ${name} grows to ${formatSize(bytes)}, the size of ${boot.name}.`);
    }
    await swapRootDisk(host, vm, boot, rootDiskBytes, progress, signal);
    if (request.start !== false) await life.reach(name, request.timeoutMs, progress, signal);
  } catch (error) {
    throw await afterFailure(host, life, vm, entry, progress, error);
  }
  await settleRebase(host, vm, entry);
  const rebased = host.stores.vms.get(name);
  if (request.start === false) return rebased;
  try {
    return await life.settle(rebased, request, progress, signal);
  } catch (error) {
    // what is done is not undone any more: whoever calls it off now has the VM with its new root disk
    if (signal.aborted) return rebased;
    throw error;
  }
}

/**
 * What a dead daemon left of a rebase, after the VM itself was recovered.
 * @param phaseBefore phase in which the dead daemon left the VM: `running`, and what follows it, says that SSH had come up
 * @returns whether the VM has to be started, because it ran before
 */
export async function recoverRebase(
  host: RecoveryHost,
  vm: Pick<VmRecord, 'id' | 'name'>,
  phaseBefore: VmRecord['phase'],
): Promise<boolean> {
  const entry = host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'rebase');
  if (entry === undefined) return false;
  const came = entry.step === 'settled' || (entry.step === 'swapping' && CAME_UP.has(phaseBefore));
  host.log.info({ vm: vm.name, came, ran: entry.ran }, 'a change of image was interrupted');
  if (came) {
    await settleRebase(host, vm, entry);
    return false;
  }
  if (entry.step === 'swapping') await undoRebase(host, vm, entry);
  host.stores.ledger.strike('rebase', entry.name);
  await leaveImage(host, entry.imageId);
  return entry.ran && host.stores.vms.findById(vm.id)?.phase !== 'running';
}

/** The new root disk stays: the old one goes. */
async function settleRebase(host: RecoveryHost, vm: Pick<VmRecord, 'id'>, entry: RebaseEntry): Promise<void> {
  host.stores.ledger.record(vm.id, { ...entry, step: 'settled' });
  const { lastRootDisk, nextRootDisk } = vmFiles(host.config.paths.store, vm.id);
  for (const path of [lastRootDisk, nextRootDisk]) await rm(path, { force: true });
  host.stores.ledger.strike('rebase', entry.name);
  await leaveImage(host, entry.before.imageId);
}

/** The old root disk and what the record said go back; the VM must not run. What ran before is not started. */
async function undoRebase(host: RecoveryHost, vm: Pick<VmRecord, 'id'>, entry: RebaseEntry): Promise<void> {
  const { rootDisk, lastRootDisk, nextRootDisk, directory } = vmFiles(host.config.paths.store, vm.id);
  // there only from the first rename on: without it the VM's own disk never moved
  if (await pathExists(lastRootDisk)) {
    await rename(lastRootDisk, rootDisk);
    await syncPath(directory);
  }
  for (const path of [nextRootDisk, `${nextRootDisk}.part`]) await rm(path, { force: true });
  host.stores.atomically(() => {
    host.stores.vms.update(vm.id, { ...entry.before, ...stopped() });
    host.stores.ledger.record(vm.id, { ...entry, step: 'undone' });
  });
}

/** @returns whether it runs */
async function mayBeStopped(host: Host, vm: VmRecord, request: VmRebase): Promise<boolean> {
  const runs = (await findVmmOf(host, vm)) !== undefined;
  if (runs && !request.force) {
    throw new BangerError('conflict', `${vm.name} is running, and its root disk cannot change meanwhile.`, {
      hint: `Stop it first: banger stop ${vm.name}   or let it be stopped: banger vm rebase ${vm.name} --image ${request.image} --force`,
    });
  }
  return runs;
}

async function swapRootDisk(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  rootDiskBytes: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const { rootDisk, lastRootDisk, nextRootDisk, directory } = vmFiles(host.config.paths.store, vm.id);
  signal.throwIfAborted();
  progress.step('clone-root-disk', `cloning the root disk of ${boot.name}`);
  await cloneFile(host.system.runner, host.config.programs.cp, boot.rootfs, nextRootDisk, rootDiskBytes, signal);
  signal.throwIfAborted();
  progress.step('swap-root-disk', 'putting the new root disk in place');
  if (await pathExists(rootDisk)) await rename(rootDisk, lastRootDisk);
  await rename(nextRootDisk, rootDisk);
  await syncPath(directory);
  host.stores.vms.update(vm.id, { image: boot.name, imageId: boot.imageId ?? null, rootDiskBytes, failure: null });
}

/** Puts the VM back to what it was, running if it ran; returns what the caller has to hear. */
async function afterFailure(
  host: Host,
  life: StartStop,
  vm: VmRecord,
  entry: RebaseEntry,
  progress: Progress,
  error: unknown,
): Promise<unknown> {
  progress.step('undo', `putting back the root disk of ${entry.before.image}`);
  await releaseVm(host, vm);
  await undoRebase(host, vm, entry);
  let outcome = `${vm.name} has its old root disk again`;
  if (entry.ran) {
    progress.step('start-again', 'starting the VM as it was');
    try {
      // not the caller's signal: called off or not, what ran before runs again
      await life.reach(vm.name, undefined, progress, new AbortController().signal);
      outcome += ' and runs';
    } catch (again) {
      outcome += `, but did not come up with it: ${messageOf(again)}`;
    }
  }
  host.stores.ledger.strike('rebase', entry.name);
  await leaveImage(host, entry.imageId);
  if (!(error instanceof BangerError) || error.code === 'cancelled') return error;
  return error.reworded(`${error.message}\n  ${outcome}.`);
}
