/**
 * Forks a VM: others begin as it stands, with its memory and disks, and are machines of their own before anything of them is
 * seen. What is interrupted leaves the source as it was, and no fork that has not acknowledged its identity.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { newVm, settingsOf } from '../../core/new-vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { generateKeyPair } from '../../guest/keys.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { copyDisk } from '../../storage/clone.ts';
import { memoryFiles, vmFiles } from '../../storage/layout.ts';
import { sideBySide } from '../../system/abort.ts';
import { pathExists } from '../../system/files.ts';
import { MIB } from '../../units.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import { freeUser, handOverFile, settleUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import { requireImage } from '../images/hold.ts';
import { syncAll } from '../memory/checkpoint.ts';
import { fitOf } from '../memory/fit.ts';
import { needsOwnMemory, shareMemory } from '../memory/share.ts';
import type { Progress } from '../operations.ts';
import { costOfClone, requireStoreSpace } from '../store/space.ts';
import { type LaunchedVm, launchVm } from './boot.ts';
import { copyMoment } from './copy-moment.ts';
import { freeAddress, newVmId } from './identity.ts';
import { requireRunning } from './problem.ts';
import { discardVm, releaseVm } from './release.ts';
import { requireFitting } from './resume.ts';
import type { StartedVm } from './start.ts';
import { createTimeline, goOnAsNew, loadAsNew } from './start-as-new.ts';
import { requireRoom, requireSuspendable } from './suspend.ts';

/** VMs that may go on at a time: more of them only wait for each other. */
const SIDE_BY_SIDE = 4;

export interface Forked {
  started: StartedVm[];
  failed: { name: string; error: unknown }[];
  /** how long the processors of the source stood still, in `ms`; 0 for one that was suspended */
  pausedMs: number;
}

/** What all forks begin as. */
interface Origin {
  vm: VmRecord;
  boot: BootFiles;
  vmm: VmmChoice;
  vmmVersion: string;
  /** whether each fork has a memory file of its own, because its VMM opens it for writing */
  ownMemory: boolean;
}

/**
 * @throws BangerError `conflict` when a name is taken, or the VM cannot be forked; none is there then, and the source is as it
 *   was
 */
export async function forkVm(
  host: Host,
  name: string,
  names: readonly string[],
  progress: Progress,
  signal: AbortSignal,
): Promise<Forked> {
  const source = host.stores.vms.get(name);
  if (source.memory === null) requireRunning(source);
  using _names = reserveNames(host, names);
  progress.step('preflight', 'checking the host');
  const boot = await findVmBootFiles(host, source);
  const shape = { ...source, ...source.run };
  const vmm = await host.checks.chooseVmm(boot);
  const [fit] = await Promise.all([
    fitOf(host, shape, boot, vmm),
    host.checks.beforeStart(boot, shape, progress.warn),
    requireStoreSpace(host, source, progress),
  ]);
  if (source.memory === null) requireSuspendable(host, source, fit);
  await requireRoom(host, name, await costOfForks(host, source, shape.memoryMib * MIB, names.length));
  const forks = await admit(host, source, boot, names);
  const [first] = forks;
  if (!first) throw new BangerError('invalid_input', 'There is no name for a fork.');
  const givenUp = new AbortController();
  const launching = launchFork(host, first, boot, vmm, AbortSignal.any([signal, givenUp.signal]));
  // told where it is waited for
  launching.catch(() => {});
  let awake = Promise.resolve();
  try {
    signal.throwIfAborted();
    const taken = source.memory
      ? { pausedMs: 0, vmmVersion: await copySuspended(host, source, fit, first, progress, signal), awake }
      : await copyMoment(
          host,
          source,
          memoryFiles(host.config.paths.store, first.id),
          () => copyDisks(host, source, first, signal),
          progress,
          signal,
        );
    awake = taken.awake;
    const ownMemory = needsOwnMemory(host, first, fit);
    if (ownMemory) await requireRoomForMemory(host, name, first, forks.length - 1);
    const origin: Origin = { vm: source, boot, vmm, vmmVersion: taken.vmmVersion, ownMemory };
    for (const other of forks.slice(1)) await copyFork(host, first, other, ownMemory, signal);
    progress.step('start', forks.length === 1 ? `starting ${first.name}` : `starting ${forks.length} VMs`);
    const { started, failed } = await startAll(host, origin, forks, launching, signal);
    if (started.length === 0 && failed[0]) throw failed[0].error;
    return { started, failed, pausedMs: taken.pausedMs };
  } catch (error) {
    progress.step('undo', 'removing what was made');
    givenUp.abort();
    await launching.catch(() => {});
    for (const fork of forks) await discardFork(host, fork);
    throw signal.aborted ? signal.reason : error;
  } finally {
    await awake;
  }
}

/** Removes one that did not become a machine of its own. */
async function discardFork(host: Host, { id }: VmRecord): Promise<void> {
  const fork = host.stores.vms.findById(id);
  if (!fork) return;
  await releaseVm(host, fork);
  await discardVm(host, fork);
  await leaveImage(host, fork.imageId);
}

/** Whatever else is wanted with these names waits until the forks are there, or are not. */
function reserveNames(host: Host, names: readonly string[]): Disposable {
  for (const [index, name] of names.entries()) {
    if (names.indexOf(name) !== index) {
      throw new BangerError('invalid_input', `"${name}" is there twice: each fork needs a name of its own.`);
    }
    if (host.stores.vms.find(name)) {
      throw new BangerError('conflict', `A VM named "${name}" exists already.`, { hint: 'Choose another name.' });
    }
  }
  const over = Promise.withResolvers<void>();
  try {
    for (const target of names) host.operations.start({ kind: 'vm.fork', target, run: () => over.promise });
  } catch (error) {
    over.resolve();
    throw error;
  }
  return { [Symbol.dispose]: over.resolve };
}

/** Of the first memory file, and of disks only where the file system does not share blocks. */
async function costOfForks(host: Host, source: VmRecord, memoryBytes: number, count: number): Promise<number> {
  const { rootDisk, workDisk } = vmFiles(host.config.paths.store, source.id);
  const disks = (await costOfClone(host, rootDisk)) + (await costOfClone(host, workDisk));
  return memoryBytes + disks * count;
}

/** @throws BangerError `host_unprepared` */
async function requireRoomForMemory(host: Host, name: string, first: VmRecord, others: number): Promise<void> {
  const { memory } = memoryFiles(host.config.paths.store, first.id);
  await requireRoom(host, name, (await costOfClone(host, memory)) * others);
}

/** Records and empty directories; a daemon that finds them later removes them. */
async function admit(host: Host, source: VmRecord, boot: BootFiles, names: readonly string[]): Promise<VmRecord[]> {
  const keys = await Promise.all(names.map((name) => generateKeyPair(name)));
  const { image, imageId, rootDiskBytes, workDiskBytes, workDiskMount } = source;
  const { vcpus, memoryMib } = source.run ?? source;
  const forks: VmRecord[] = [];
  host.stores.atomically(() => {
    requireImage(host, boot);
    for (const [index, key] of keys.entries()) {
      const fork = newVm({
        ...{ id: newVmId(), name: names[index] ?? '', address: freeAddress(host), createdAt: host.now() },
        ...{ image, imageId: imageId ?? undefined, rootDiskBytes, workDiskBytes, workDiskMount, ...settingsOf(source) },
        ...{ vcpus, memoryMib, hostKeyPrivate: key.privateKey, hostKeyPublic: key.publicKey },
        // also after its next boot
        machineId: randomBytes(16).toString('hex'),
        forkedFrom: { id: source.id, name: source.name },
      });
      fork.user = freeUser(host, fork.id);
      host.stores.vms.insert(fork);
      host.stores.ledger.record(fork.id, {
        kind: 'directory',
        name: vmFiles(host.config.paths.store, fork.id).directory,
      });
      forks.push(fork);
    }
  });
  try {
    for (const { id } of forks) {
      const { directory } = vmFiles(host.config.paths.store, id);
      await mkdir(directory, { recursive: true, mode: 0o700 });
      await mkdir(memoryFiles(host.config.paths.store, id).directory, { mode: 0o700 });
    }
  } catch (error) {
    for (const fork of forks) await discardFork(host, fork);
    throw error;
  }
  return forks;
}

/** It stays suspended: its memory is copied, as its own files are not to be touched. */
async function copySuspended(
  host: Host,
  source: VmRecord,
  fit: Awaited<ReturnType<typeof fitOf>>,
  fork: VmRecord,
  progress: Progress,
  signal: AbortSignal,
): Promise<string> {
  if (source.memory === null) throw new BangerError('internal', `${source.name} has no memory.`);
  const manifest = await requireFitting(host, source, source.memory, fit);
  if (manifest.waker !== 'agent') {
    throw new BangerError(
      'conflict',
      `${source.name} was suspended without an agent, and only one can give a copy its own identity.`,
      {
        hint: `One of an older bundle gets it by: banger bundle build   and: banger restart ${source.name}`,
      },
    );
  }
  progress.step('save-memory', 'copying its memory and disks');
  const { store } = host.config.paths;
  const [from, to] = [memoryFiles(store, source.id), memoryFiles(store, fork.id)];
  for (const file of ['memory', 'state'] as const) await copy(host, from[file], to[file], signal);
  await copyDisks(host, source, fork, signal);
  return manifest.vmmVersion;
}

/** A further one, before the first has begun: what is only read is the same file for all of them. */
async function copyFork(
  host: Host,
  first: VmRecord,
  other: VmRecord,
  ownMemory: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { store } = host.config.paths;
  const [from, to] = [memoryFiles(store, first.id), memoryFiles(store, other.id)];
  await shareMemory(host, from, to, ownMemory, signal);
  await copyDisks(host, first, other, signal);
}

async function copyDisks(host: Host, from: VmRecord, to: VmRecord, signal: AbortSignal): Promise<void> {
  const { store } = host.config.paths;
  const [source, target] = [vmFiles(store, from.id), vmFiles(store, to.id)];
  for (const disk of ['rootDisk', 'workDisk'] as const) {
    if (await pathExists(source[disk])) await copy(host, source[disk], target[disk], signal);
  }
}

async function copy(host: Host, from: string, to: string, signal: AbortSignal): Promise<void> {
  await copyDisk(host.system.runner, host.config.programs.cp, from, to, signal);
}

/** One whose VMM waits for its memory. */
interface LaunchedFork {
  vm: VmRecord;
  launched: LaunchedVm;
}

/** Goes on beside what is done to the source: nothing of it depends on what is copied. */
async function launchFork(
  host: Host,
  admitted: VmRecord,
  boot: BootFiles,
  vmm: VmmChoice,
  signal: AbortSignal,
): Promise<LaunchedFork> {
  const vm = await settleUser(host, admitted);
  const [launched] = await sideBySide(signal, [
    (either) => launchVm(host, vm, boot, either, { continues: true, vmm }),
    // what it sends before it has its own address goes nowhere
    () => host.network.attach(vm, { closed: true }),
  ]);
  return { vm, launched };
}

/** @param launching the first of them */
async function startAll(
  host: Host,
  origin: Origin,
  forks: readonly VmRecord[],
  launching: Promise<LaunchedFork>,
  signal: AbortSignal,
): Promise<Pick<Forked, 'started' | 'failed'>> {
  const waiting = [...forks];
  const started: StartedVm[] = [];
  const failed: Forked['failed'] = [];
  const worker = async () => {
    for (let fork = waiting.shift(); fork; fork = waiting.shift()) {
      try {
        const { vm, launched } = fork === forks[0] ? await launching : { vm: await settleUser(host, fork) };
        started.push(await startFork(host, origin, vm, launched, signal));
      } catch (error) {
        await discardFork(host, fork);
        signal.throwIfAborted();
        host.log.warn({ vm: fork.name, error: messageOf(error) }, 'a fork did not become a VM');
        failed.push({ name: fork.name, error });
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(SIDE_BY_SIDE, forks.length) }, worker));
  return { started, failed };
}

async function startFork(
  host: Host,
  origin: Origin,
  fork: VmRecord,
  launched: LaunchedVm | undefined,
  signal: AbortSignal,
): Promise<StartedVm> {
  const { rootDisk, workDisk } = vmFiles(host.config.paths.store, fork.id);
  const disks = fork.workDiskBytes > 0 ? [rootDisk, workDisk] : [rootDisk];
  // one that was launched before they were there
  for (const disk of launched ? disks : []) await handOverFile(host, fork, disk);
  const timeline = createTimeline();
  const first = { 'sync-disks': () => syncAll(disks) };
  const loaded = await loadAsNew(host, fork, { ...origin, first, launched }, timeline, signal);
  const failedUnits = origin.vm.ready?.failedUnits ?? [];
  return await goOnAsNew(host, fork, loaded, { failedUnits }, timeline, signal);
}
