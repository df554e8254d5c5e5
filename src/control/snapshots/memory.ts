/** The memory of a guest in a snapshot: taken with its disks at one moment, and looked at before anything goes on from it. */
import { isDeepStrictEqual } from 'node:util';
import { misfits } from '../../core/fit.ts';
import type { SnapshotMemory, SnapshotRecord } from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { copyDisk } from '../../storage/clone.ts';
import { memoryFiles, snapshotFiles, vmFiles } from '../../storage/layout.ts';
import { pathExists, syncPath } from '../../system/files.ts';
import { MIB } from '../../units.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import { takeBack } from '../handover.ts';
import type { Host } from '../host.ts';
import { syncAll } from '../memory/checkpoint.ts';
import { fitOf } from '../memory/fit.ts';
import { contentsOf, readManifest } from '../memory/manifest.ts';
import { obstacles } from '../memory/restore.ts';
import type { Progress } from '../operations.ts';
import { costOfClone } from '../store/space.ts';
import { copyMoment } from '../vm/copy-moment.ts';
import { requireSuspendable } from '../vm/suspend.ts';
import { neededAgent } from '../vm/wake.ts';
import { requireRoom, requireShortPause, type TakenDisks } from './take.ts';

/** Why the memory of a VM that runs cannot be kept, a sentence; undefined when it can. */
export async function whyNoMemory(host: Host, vm: VmRecord, signal: AbortSignal): Promise<string | undefined> {
  try {
    requireSuspendable(host, vm, await fitNow(host, vm));
  } catch (error) {
    if (error instanceof BangerError) return error.message;
    throw error;
  }
  const agent = await neededAgent(host, vm, signal);
  return agent?.hello.features.has('wake-new') ? undefined : `${vm.name} has no agent that could wake it later.`;
}

async function fitNow(host: Host, vm: VmRecord): ReturnType<typeof fitOf> {
  return await fitOf(host, vm.run ?? vm, await findVmBootFiles(host, vm));
}

/**
 * Brings memory, state and both disks of a VM into the place of a snapshot.
 * @throws BangerError `conflict`, `host_unprepared` as `createSnapshot` does; a guest that runs goes on
 */
export async function takeWithMemory(
  host: Host,
  vm: VmRecord,
  id: string,
  pauseOk: boolean,
  progress: Progress,
  signal: AbortSignal,
): Promise<TakenDisks & { saved: SnapshotMemory }> {
  const { store } = host.config.paths;
  const { runner } = host.system;
  const [source, target] = [vmFiles(store, vm.id), snapshotFiles(store, vm.id, id)];
  const hasWorkDisk = vm.workDiskBytes > 0 && (await pathExists(source.workDisk));
  const disks = ['rootDisk', ...(hasWorkDisk ? (['workDisk'] as const) : [])] as const satisfies readonly string[];
  const costs = await Promise.all(disks.map((disk) => costOfClone(host, source[disk])));
  const bytes = costs.reduce((sum, each) => sum + each, 0);
  const run = vm.run ?? { hostname: vm.name, vcpus: vm.vcpus, memoryMib: vm.memoryMib };
  await requireRoom(host, bytes + run.memoryMib * MIB, `a snapshot of ${vm.name}`);
  const copy = async (from: string, to: string) => {
    await copyDisk(runner, host.config.programs.cp, from, to, signal);
  };
  const copyDisks = async () => {
    for (const disk of disks) await copy(source[disk], target[disk]);
  };
  let pausedMs = 0;
  let origin: Pick<SnapshotMemory, 'fit' | 'vmmVersion'>;
  if (vm.memory === null) {
    requireShortPause(vm, bytes, pauseOk);
    const fit = await fitNow(host, vm);
    const moment = await copyMoment(host, vm, target, copyDisks, progress, signal);
    await moment.awake;
    pausedMs = moment.pausedMs;
    origin = { fit, vmmVersion: moment.vmmVersion };
  } else {
    origin = await requireWholeMemory(host, vm, vm.memory.id);
    progress.step('clone-disks', 'copying its memory and disks');
    const from = memoryFiles(store, vm.id);
    for (const file of ['memory', 'state'] as const) await copy(from[file], target[file]);
    await copyDisks();
  }
  const paths = savedPaths(store, { vmId: vm.id, id, hasWorkDisk });
  for (const path of paths) await takeBack(host, path);
  await syncAll(paths);
  await syncPath(target.directory);
  return {
    taken: vm.memory === null ? 'held' : 'suspended',
    pauseMs: vm.memory === null ? Math.round(pausedMs) : null,
    hasWorkDisk,
    saved: {
      ...{ fit: origin.fit, vmmVersion: origin.vmmVersion, address: vm.address, run },
      ready: vm.ready ?? { ms: 0, failedUnits: [] },
      files: await contentsOf(paths),
    },
  };
}

/** @throws BangerError `conflict` when memory and disks of a suspended VM are not of one moment, or nothing could wake a copy */
async function requireWholeMemory(host: Host, vm: VmRecord, id: string): ReturnType<typeof readManifest> {
  const files = memoryFiles(host.config.paths.store, vm.id);
  const manifest = await readManifest(files, id);
  // what it fits is for who goes on from it to ask
  const found = await obstacles(host, vm, files, manifest, manifest.fit);
  if (manifest.waker !== 'agent') found.push('it was suspended without an agent, which would have to wake it');
  if (found.length === 0) return manifest;
  throw new BangerError(
    'conflict',
    `No snapshot can be taken of ${vm.name} while it is suspended: ${found.join('; ')}.`,
    {
      hint: `Give its memory up: banger stop --discard-memory ${vm.name}`,
    },
  );
}

/** Files of a snapshot with memory, in the order in which its record has them. */
function savedPaths(
  store: string,
  { vmId, id, hasWorkDisk }: Pick<SnapshotRecord, 'vmId' | 'id' | 'hasWorkDisk'>,
): string[] {
  const { memory, state, rootDisk, workDisk } = snapshotFiles(store, vmId, id);
  return [memory, state, rootDisk, ...(hasWorkDisk ? [workDisk] : [])];
}

/**
 * What a guest goes on with that was saved in a snapshot.
 * @param address that of the VM, where the guest is to keep its own
 * @throws BangerError `conflict` when it cannot go on here and now; its disks can be had alone
 */
export async function requireUsableMemory(
  host: Host,
  vm: Pick<VmRecord, 'id' | 'name'>,
  snapshot: SnapshotRecord & { saved: SnapshotMemory },
  address = snapshot.saved.address,
): Promise<BootFiles> {
  const { saved, values } = snapshot;
  const found: string[] = [];
  let boot: BootFiles | undefined;
  try {
    boot = await findVmBootFiles(host, { ...vm, image: values.image, imageId: values.imageId });
    found.push(...misfits(saved.fit, await fitOf(host, saved.run, boot)));
  } catch (error) {
    if (!(error instanceof BangerError)) throw error;
    found.push(messageOf(error));
  }
  if (saved.address !== address) found.push(`its address was ${saved.address}, now ${address}`);
  if (!(await isWholeSnapshot(host, snapshot))) found.push('its files were changed since');
  if (boot !== undefined && found.length === 0) return boot;
  throw new BangerError('conflict', `Nothing can go on from the memory in ${snapshot.name}: ${found.join('; ')}.`, {
    hint: `Take its disks alone: banger snapshot restore ${vm.name} ${snapshot.name} --disk-only`,
    details: { obstacles: found },
  });
}

/** Whether the files of a snapshot with memory are what they were when it was taken. */
export async function isWholeSnapshot(
  host: Pick<Host, 'config'>,
  snapshot: SnapshotRecord & { saved: SnapshotMemory },
): Promise<boolean> {
  try {
    return isDeepStrictEqual(await contentsOf(savedPaths(host.config.paths.store, snapshot)), snapshot.saved.files);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/**
 * Such a snapshot as it is known by its files in a copy of the store.
 * @returns one that nothing goes on from, where its files were touched by the end of the copy
 */
export async function asCopied(
  host: Pick<Host, 'config'>,
  snapshot: SnapshotRecord & { saved: SnapshotMemory },
  copy: string,
): Promise<SnapshotRecord & { saved: SnapshotMemory }> {
  const whole = await isWholeSnapshot(host, snapshot);
  // without files it is never whole: an inode there may happen to have the number of one here
  const files = whole ? await contentsOf(savedPaths(copy, snapshot)) : [];
  return { ...snapshot, saved: { ...snapshot.saved, files } };
}

/**
 * The snapshot whose memory a VM was suspended with by a restore, and which has it still.
 * @returns undefined when the VM has none, or is the only one to have it
 */
export async function findOriginal(
  host: Pick<Host, 'config' | 'stores'>,
  { id, memory }: Pick<VmRecord, 'id' | 'memory'>,
): Promise<SnapshotRecord | undefined> {
  if (memory === null) return undefined;
  const manifest = await readManifest(memoryFiles(host.config.paths.store, id), memory.id).catch(() => undefined);
  if (!manifest?.again) return undefined;
  // it is of the moment at which that was taken
  const found = host.stores.snapshots.list(id).find(({ createdAt }) => createdAt === manifest.at);
  return found && hasSaved(found) && (await isWholeSnapshot(host, found)) ? found : undefined;
}

/** Who wrote to it did so while it was copied. */
export function changedMeanwhile({ name }: Pick<SnapshotRecord, 'name'>): BangerError {
  return new BangerError('corrupt', `The files of the snapshot ${name} were changed meanwhile.`, {
    hint: 'See what there is: banger snapshot list',
  });
}

export function hasSaved(snapshot: SnapshotRecord): snapshot is SnapshotRecord & { saved: SnapshotMemory } {
  return snapshot.saved !== undefined;
}
