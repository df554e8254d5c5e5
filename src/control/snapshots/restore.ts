/**
 * Puts the disks of a snapshot in the place of a VM's, whose own become an automatic snapshot first. Up to the moment when that is
 * recorded a crash undoes it, and from then on it is finished; `recoverSnapshots` does both and may be repeated.
 */
import { randomUUID } from 'node:crypto';
import { link, mkdir, rename, rm } from 'node:fs/promises';
import { requireNoMemory } from '../../core/saved-memory.ts';
import {
  latestAutomatic,
  type SnapshotMemory,
  type SnapshotRecord,
  timedName,
  valuesOf,
} from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { stopped, suspended, type VmChange } from '../../core/vm-changes.ts';
import { asBangerError, BangerError, messageOf } from '../../errors.ts';
import type { Resource } from '../../state/ledger.ts';
import { copyDisk } from '../../storage/clone.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { memoryFiles, memoryFilesIn, snapshotFiles, vmFiles } from '../../storage/layout.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { pathExists, syncPath } from '../../system/files.ts';
import { endProcess, findProcesses } from '../../system/processes.ts';
import { formatSize } from '../../units.ts';
import { settleDiskWork } from '../disks/disk-work.ts';
import { handOverFile, settleUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import { disksOf } from '../memory/checkpoint.ts';
import { identitiesOf, identityOf, writeManifest as writeMemoryManifest } from '../memory/manifest.ts';
import type { Progress } from '../operations.ts';
import { costOfClone } from '../store/space.ts';
import { discardMemory } from '../vm/discard-memory.ts';
import { requireFreeDisks } from '../vm/free-disks.ts';
import type { StartStop } from '../vm/rebase.ts';
import { findVmmOf } from '../vmm.ts';
import { changedMeanwhile, findOriginal, hasSaved, isWholeSnapshot, requireUsableMemory } from './memory.ts';
import {
  getSnapshot,
  newSnapshotId,
  provisionally,
  removeDirectory,
  requireRoom,
  thinOut,
  writeManifest,
} from './take.ts';

export interface RestoreRequest {
  /** also a VM that runs: it is shut down, and started again */
  force: boolean;
  /** false leaves a VM stopped that ran, and suspended one that gets memory */
  start: boolean;
  /** whether the memory in it is left out */
  diskOnly?: boolean | undefined;
}

export interface Restored {
  vm: VmRecord;
  /** name of the snapshot of what was there before */
  before: string;
}

type RestoreEntry = Extract<Resource, { kind: 'restore' }>;

/** What finishing or undoing needs of the host. */
type RecoveryHost = Pick<Host, 'config' | 'stores' | 'events' | 'log' | 'system'>;

/** @throws BangerError `not_found`, `conflict` when the VM runs and `force` is not given, `host_unprepared` without room */
export async function restoreSnapshot(
  host: Host,
  life: StartStop,
  vmName: string,
  snapshotName: string,
  request: RestoreRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<Restored> {
  const vm = host.stores.vms.get(vmName);
  return await putBack(host, life, vm, getSnapshot(host, vm, snapshotName), false, request, progress, signal);
}

/**
 * Puts back what was there before the last restore, which costs nothing: its disks move. What is there now is what another
 * undo puts back.
 * @throws BangerError `not_found` when nothing was restored
 */
export async function undoRestore(
  host: Host,
  life: StartStop,
  vmName: string,
  request: RestoreRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<Restored> {
  const vm = host.stores.vms.get(vmName);
  const latest = latestAutomatic(host.stores.snapshots.list(vm.id));
  if (!latest) {
    throw new BangerError('not_found', `Nothing was restored in ${vmName}, so there is nothing to undo.`, {
      hint: `See its snapshots: banger snapshot list ${vmName}`,
    });
  }
  return await putBack(host, life, vm, latest, true, request, progress, signal);
}

async function putBack(
  host: Host,
  life: StartStop,
  vm: VmRecord,
  snapshot: SnapshotRecord,
  consumes: boolean,
  { force, start, diskOnly = false }: RestoreRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<Restored> {
  // one whose end failed: what is left of it must not be taken for this one's
  await recoverSnapshots(host, vm);
  // memory that is nowhere else is given up by word alone
  const original = await findOriginal(host, vm);
  if (!original) requireNoMemory(vm, 'given other disks');
  const ran = (await findVmmOf(host, vm)) !== undefined;
  if (ran && !force) {
    throw new BangerError('conflict', `${vm.name} is running, and its disks cannot change meanwhile.`, {
      hint: `Stop it first: banger stop ${vm.name}   or let it be stopped and started again with --force`,
    });
  }
  const withMemory = !diskOnly && hasSaved(snapshot) ? snapshot : undefined;
  if (withMemory) await requireUsableMemory(host, vm, withMemory, vm.address);
  const sources = snapshotFiles(host.config.paths.store, vm.id, snapshot.id);
  const cost = consumes ? 0 : await costOf(host, snapshot, withMemory !== undefined);
  await requireRoom(host, cost, `the disks of the snapshot ${snapshot.name}`);
  const { image, imageId, rootDiskBytes, workDiskBytes } = snapshot.values;
  const entry: RestoreEntry = {
    kind: 'restore',
    name: vmFiles(host.config.paths.store, vm.id).rootDisk,
    ...{ step: 'preparing', snapshot: snapshot.id, consumes, hasWorkDisk: snapshot.hasWorkDisk, ran },
    values: { image, imageId, rootDiskBytes, workDiskBytes },
    ...(withMemory ? { memory: randomUUID() } : {}),
  };
  host.stores.ledger.record(vm.id, entry);
  let before: string;
  try {
    // while it still runs: what is short of room leaves it so, and it is down for a moment only
    progress.step('clone-disks', cost === 0 ? 'cloning the disks' : `copying the disks: ${formatSize(cost)}`);
    await bring(host, vm, snapshot, sources, consumes, signal);
    if (withMemory) await bringMemory(host, vm, withMemory, signal);
    throwIfCancelled(signal);
    if (ran) await life.stop(vm.name, undefined, progress, signal);
    throwIfCancelled(signal);
    if (original) {
      progress.step('discard-memory', `giving its memory up, which is in ${original.name} too`);
      await discardMemory(host, vm);
    }
    if (!(await settleDiskWork(host, vm, SETTLE_LIMIT_MS))) throw stillChecked(vm);
    await requireFreeDisks(host, vm);
    progress.step('keep-state', 'keeping what is there');
    before = await keepPresent(host, host.stores.vms.get(vm.name), entry);
  } catch (error) {
    await undo(host, vm, entry);
    if (ran) await startAgain(host, life, vm, progress);
    throw error;
  }
  await finish(host, vm, { ...entry, step: 'swapping' }).catch((error) => {
    const known = asBangerError(error);
    throw known.reworded(`${known.message} The next daemon finishes the restore of ${vm.name}.`, {
      hint: `${known.hint ?? ''}   Then let it: banger daemon stop && banger daemon start`.trimStart(),
    });
  });
  host.events.publish({ type: 'snapshot.restored', vm: vm.name, id: vm.id, snapshot: snapshot.name });
  if (!consumes) await thinOut(host, vm);
  const asleep = host.stores.vms.get(vm.name).memory !== null;
  if (withMemory && !asleep)
    progress.warn(`The memory of ${snapshot.name} was lost on the way; ${vm.name} has its disks.`);
  if (asleep && start) {
    try {
      await life.resume(vm.name, progress, signal);
    } catch (error) {
      throw signal.aborted ? error : await withWayBack(host, error, vm, snapshot, before);
    }
  } else if (ran && start) {
    try {
      const started = await life.reach(vm.name, undefined, progress, signal);
      await life.settle(started, {}, progress, signal);
    } catch (error) {
      throw signal.aborted ? error : await withWayBack(host, error, vm, snapshot, before);
    }
  }
  return { vm: host.stores.vms.get(vm.name), before };
}

/** The restore is done; that its disks do not come up is no reason to take it back unasked. */
async function withWayBack(
  host: Host,
  error: unknown,
  vm: VmRecord,
  snapshot: SnapshotRecord,
  before: string,
): Promise<unknown> {
  const known = asBangerError(error);
  const outcome = `${vm.name} has the disks of ${snapshot.name}; what was there is ${before}.`;
  const runs = (await findVmmOf(host, vm)) !== undefined;
  return known.reworded(`${known.message}\n  ${outcome}`, {
    hint: `Have it back with: banger snapshot undo ${vm.name}${runs ? ' --force' : ''}`,
  });
}

/** A check of a large disk that an earlier daemon began. */
const SETTLE_LIMIT_MS = 5 * 60_000;

async function costOf(host: Host, { vmId, id, hasWorkDisk }: SnapshotRecord, withMemory: boolean): Promise<number> {
  const { memory, rootDisk, workDisk } = snapshotFiles(host.config.paths.store, vmId, id);
  const paths = [rootDisk, ...(hasWorkDisk ? [workDisk] : []), ...(withMemory ? [memory] : [])];
  const costs = await Promise.all(paths.map((path) => costOfClone(host, path)));
  return costs.reduce((sum, each) => sum + each, 0);
}

/** Brings the snapshot's disks beside the VM's: as clones, or as second names of those of one that is used up. */
async function bring(
  host: Host,
  vm: VmRecord,
  snapshot: SnapshotRecord,
  from: { rootDisk: string; workDisk: string },
  consumes: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { restoredRootDisk, restoredWorkDisk, directory } = vmFiles(host.config.paths.store, vm.id);
  const pairs = [
    [from.rootDisk, restoredRootDisk],
    ...(snapshot.hasWorkDisk ? [[from.workDisk, restoredWorkDisk] as const] : []),
  ] as const;
  for (const [source, target] of pairs) {
    await rm(target, { force: true });
    if (consumes) await link(source, target);
    else await copyDisk(host.system.runner, host.config.programs.cp, source, target, signal);
    await syncPath(target);
  }
  await syncPath(directory);
}

/** A copy of the memory, which is used up; nobody else goes on from it, so that whatever its VMM does to it hurts nobody else. */
async function bringMemory(
  host: Host,
  vm: VmRecord,
  snapshot: SnapshotRecord & { saved: SnapshotMemory },
  signal: AbortSignal,
): Promise<void> {
  const { store } = host.config.paths;
  const from = snapshotFiles(store, vm.id, snapshot.id);
  const to = memoryFilesIn(vmFiles(store, vm.id).restoredMemory);
  await rm(to.directory, { recursive: true, force: true });
  await mkdir(to.directory, { mode: 0o700 });
  for (const file of ['memory', 'state'] as const) {
    await copyDisk(host.system.runner, host.config.programs.cp, from[file], to[file], signal);
    await syncPath(to[file]);
  }
  // who wrote to it did so before it was copied, or while it was
  if (!(await isWholeSnapshot(host, snapshot))) throw changedMeanwhile(snapshot);
  await syncPath(to.directory);
}

/**
 * Makes an automatic snapshot of the VM's disks by giving them second names. Its record is the moment from which on the restore is
 * finished and not undone.
 * @returns its name
 */
async function keepPresent(host: Host, vm: VmRecord, entry: RestoreEntry): Promise<string> {
  const { store } = host.config.paths;
  const id = newSnapshotId();
  const [source, target] = [vmFiles(store, vm.id), snapshotFiles(store, vm.id, id)];
  const at = host.now();
  const taken = new Set(host.stores.snapshots.list(vm.id).map(({ name }) => name));
  const hasWorkDisk = vm.workDiskBytes > 0 && (await pathExists(source.workDisk));
  const record: SnapshotRecord = {
    ...{ id, vmId: vm.id, name: timedName(at, taken, 'before-'), createdAt: at.toISOString() },
    ...{ automatic: true, memory: false, taken: 'at-rest', pauseMs: null, hasWorkDisk },
    values: valuesOf(vm),
  };
  await provisionally(host, vm, id, async () => {
    await link(source.rootDisk, target.rootDisk);
    if (hasWorkDisk) await link(source.workDisk, target.workDisk);
    await writeManifest(host, record);
    host.stores.atomically(() => {
      host.stores.snapshots.insert(record);
      host.stores.ledger.strike('snapshot', target.directory);
      host.stores.ledger.record(vm.id, { ...entry, step: 'swapping' });
    });
  });
  return record.name;
}

/** The restored disks take the place of the VM's, whose own have a second name by now. */
async function finish(host: RecoveryHost, vm: Pick<VmRecord, 'id' | 'name'>, entry: RestoreEntry): Promise<void> {
  const { store } = host.config.paths;
  const { directory, rootDisk, workDisk, restoredRootDisk, restoredWorkDisk } = vmFiles(store, vm.id);
  if (await pathExists(restoredRootDisk)) await rename(restoredRootDisk, rootDisk);
  if (!entry.hasWorkDisk) await rm(workDisk, { force: true });
  else if (await pathExists(restoredWorkDisk)) await rename(restoredWorkDisk, workDisk);
  await syncPath(directory);
  const used = snapshotFiles(store, vm.id, entry.snapshot).directory;
  const imageBefore = host.stores.vms.findById(vm.id)?.imageId ?? null;
  const asleep = entry.memory === undefined ? undefined : await layMemory(host, vm, entry, entry.memory);
  host.stores.atomically(() => {
    host.stores.vms.update(vm.id, { ...entry.values, ...(asleep ?? stopped()) });
    if (asleep === undefined) host.stores.ledger.strike('restore', entry.name);
    if (!entry.consumes) return;
    host.stores.ledger.record(vm.id, { kind: 'snapshot', name: used });
    host.stores.snapshots.remove(entry.snapshot);
  });
  if (asleep !== undefined) {
    const own = memoryFiles(store, vm.id);
    const restored = vmFiles(store, vm.id).restoredMemory;
    if (await pathExists(restored)) {
      await rm(own.directory, { recursive: true, force: true });
      await rename(restored, own.directory);
      await syncPath(directory);
    }
    host.stores.ledger.strike('restore', entry.name);
  }
  if (entry.consumes) await removeDirectory(host, used);
  await leaveImage(host, imageBefore);
}

/**
 * Says beside the memory of a snapshot what it is and which disks it belongs to, now that these are in their place.
 * @param id names it for good
 * @returns how its VM is suspended with it; undefined when it is gone, which leaves the disks
 */
async function layMemory(
  host: RecoveryHost,
  { id: vmId }: Pick<VmRecord, 'id'>,
  entry: RestoreEntry,
  id: string,
): Promise<VmChange | undefined> {
  const vm = host.stores.vms.findById(vmId);
  const snapshot = host.stores.snapshots.findById(entry.snapshot);
  if (!vm || !snapshot || !hasSaved(snapshot)) return undefined;
  const { saved, createdAt: at } = snapshot;
  const { store } = host.config.paths;
  const files = memoryFilesIn(vmFiles(store, vmId).restoredMemory);
  const done = vm.memory?.id === id;
  if (!done) {
    const present = [files.memory, files.state, vmFiles(store, vmId).seedDrive];
    for (const path of present) if (!(await pathExists(path))) return undefined;
    // its VMM opens all of them as the VM's user, and what they are is written down after that
    const owned = await settleUser(host, { ...vm, ...entry.values });
    for (const path of [files.memory, files.state]) await handOverFile(host, owned, path);
    await writeMemoryManifest(files, {
      ...{ format: 1, id, at, address: saved.address, fit: saved.fit, waker: 'agent', again: true },
      vmmVersion: saved.vmmVersion,
      disks: await identitiesOf(disksOf(host, { id: vmId, workDiskBytes: entry.values.workDiskBytes })),
      memory: await identityOf(files.memory),
      state: await identityOf(files.state),
    });
    await syncPath(files.directory);
  }
  const bytes = done
    ? (vm.memory?.bytes ?? 0)
    : (await allocatedBytes(files.memory)) + (await allocatedBytes(files.state));
  return { ...suspended({ id, at, bytes, spentOn: null }), run: saved.run, ready: saved.ready };
}

/** Nothing of it is left; the VM's own disks never moved. */
async function undo(host: RecoveryHost, vm: Pick<VmRecord, 'id'>, entry: RestoreEntry): Promise<void> {
  const { restoredRootDisk, restoredWorkDisk, restoredMemory } = vmFiles(host.config.paths.store, vm.id);
  for (const path of [restoredRootDisk, restoredWorkDisk]) await rm(path, { force: true });
  await rm(restoredMemory, { recursive: true, force: true });
  host.stores.ledger.strike('restore', entry.name);
}

/** What ran before runs again, also when the restore was called off. */
async function startAgain(host: Host, life: StartStop, vm: VmRecord, progress: Progress): Promise<void> {
  if (host.stores.vms.get(vm.name).phase === 'running') return;
  progress.step('start-again', 'starting the VM as it was');
  try {
    await life.reach(vm.name, undefined, progress, new AbortController().signal);
  } catch (error) {
    progress.warn(`${vm.name} did not start again: ${messageOf(error)}`);
  }
}

/**
 * What a dead daemon left of snapshots that were being made, deleted or restored, after the VM itself was recovered.
 * @returns whether the VM has to be started, because it ran before a restore
 */
export async function recoverSnapshots(host: RecoveryHost, vm: Pick<VmRecord, 'id' | 'name'>): Promise<boolean> {
  let ran = false;
  for (const resource of host.stores.ledger.of(vm.id)) {
    if (resource.kind === 'snapshot') {
      await endCopiesTo(`${resource.name}/`);
      await removeDirectory(host, resource.name);
    }
    if (resource.kind !== 'restore') continue;
    const { restoredRootDisk, restoredWorkDisk, restoredMemory } = vmFiles(host.config.paths.store, vm.id);
    for (const path of [restoredRootDisk, restoredWorkDisk, `${restoredMemory}/`]) await endCopiesTo(path);
    host.log.info({ vm: vm.name, step: resource.step, ran: resource.ran }, 'a restore was interrupted');
    if (resource.step === 'swapping') await finish(host, vm, resource);
    else await undo(host, vm, resource);
    ran = resource.ran;
  }
  const phase = host.stores.vms.findById(vm.id)?.phase;
  // one with memory is let go on by whoever wants it
  return ran && phase !== 'running' && phase !== 'suspended';
}

/** Programs outlive the daemon that started them. */
async function endCopiesTo(begin: string): Promise<void> {
  for (const copy of await findProcesses((argv) => argv.some((argument) => argument.startsWith(begin)))) {
    await endProcess(copy, { graceMs: 0 });
  }
}

function stillChecked({ name }: Pick<VmRecord, 'name'>): BangerError {
  return new BangerError('conflict', `A check of the disks of ${name} that began earlier still goes on.`, {
    hint: 'See how far it is: ps -C e2fsck,resize2fs -o pid,etime,args   then try again.',
  });
}
