/** Layers of image builds as files: where a build can begin, and what it leaves for the next one. */
import { constants, copyFile, mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import { isWorthKeeping } from '../../image/layers.ts';
import { cloneThroughBase } from '../../storage/base-cache.ts';
import { cloneFile } from '../../storage/clone.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { growExt4 } from '../../storage/ext4.ts';
import { layerFile, vmFiles } from '../../storage/layout.ts';
import { pathExists, syncPath } from '../../system/files.ts';
import type { Distribution } from '../../system/os-release.ts';
import { readBootId } from '../../system/processes.ts';
import { diskRunner, handOverFile } from '../handover.ts';
import type { Host } from '../host.ts';
import { contentsOf } from '../memory/manifest.ts';
import type { Progress } from '../operations.ts';
import { isFull } from '../store/space.ts';
import { whilePaused } from './build-vm.ts';
import {
  describeKeptVm,
  forgetKeptVm,
  limitKeptVms,
  placeKeptVm,
  prepareToKeep,
  type SavedVm,
  saveKeptVm,
} from './kept-vm.ts';
import type { BuildPlan, BuildRequest } from './plan.ts';

/**
 * Number of steps whose outcome is there already, 0 to all of them. A record whose file is gone is forgotten, and one whose
 * file a power cut may have cut short.
 */
export async function cachedSteps(
  host: Pick<Host, 'config' | 'stores'>,
  plan: Pick<BuildPlan, 'keys'>,
): Promise<number> {
  for (let done = plan.keys.length; done > 0; done--) {
    const key = plan.keys[done - 1] ?? '';
    const layer = host.stores.layers.find(key);
    if (!layer) continue;
    const whole = layer.unsyncedBoot === null || layer.unsyncedBoot === (await readBootId());
    if (whole && (await pathExists(layerFile(host.config.paths.store, key)))) return done;
    host.stores.layers.remove(key);
  }
  return 0;
}

/** Key of the disk after so many steps. */
export function keyAfter(plan: Pick<BuildPlan, 'baseKey' | 'keys'>, done: number): string {
  return (done > 0 ? plan.keys[done - 1] : undefined) ?? plan.baseKey;
}

/** Puts the root disk of the build in place: the base grown, or the disk after the steps that are done already. */
export async function placeRootDisk(
  host: Host,
  vm: VmRecord,
  request: BuildRequest,
  plan: BuildPlan,
  done: number,
  signal: AbortSignal,
): Promise<void> {
  const { config } = host;
  const { runner } = host.system;
  const { rootDisk } = vmFiles(config.paths.store, vm.id);
  const { store } = config.paths;
  if (done === 0) {
    await cloneThroughBase(runner, config.programs.cp, store, request.base.boot.rootfs, rootDisk, 0, signal);
    await growExt4(diskRunner(host, vm), config.programs, rootDisk, request.sizeBytes);
    // before anybody reads it: packages are looked up while its VM boots
    await handOverFile(host, vm, rootDisk);
    return;
  }
  const key = keyAfter(plan, done);
  await cloneFile(runner, config.programs.cp, layerFile(store, key), rootDisk, 0, signal);
  await handOverFile(host, vm, rootDisk);
  host.stores.layers.touch(key, host.now().toISOString());
}

/** Number of steps before the one that is changed most: the last run line, or the last step where there is none. */
export function stepsBeforeLast({ steps }: Pick<BuildPlan, 'steps'>): number {
  const lastRun = steps.findLastIndex(({ kind }) => kind === 'run');
  // the seed of a work disk comes behind the run lines and takes no time
  return lastRun >= 0 ? lastRun : steps.length - 1;
}

export interface LayerWork {
  request: BuildRequest;
  plan: BuildPlan;
  connection: SshConnection;
  distribution: Distribution;
  /** steps that are done */
  done: number;
  /** whether this build has only booted so far: a disk to begin from is there, a machine to go on in is not */
  onlyBooted: boolean;
  /** what it took since the last disk that can be begun from, in `ms` */
  workMs: number;
  /** whether copies share blocks */
  shares: boolean;
}

/** Whether the next step reads the disk from the host, which nobody may write to meanwhile. */
export function needsDiskAtRest({ steps }: Pick<BuildPlan, 'steps'>, done: number): boolean {
  return done === 0 && steps[0]?.kind === 'packages';
}

/**
 * Keeps the disk after a step where that pays, and before the last one the machine too; the guest is held meanwhile.
 * @returns whether it was kept, which it is not either where there is no room for it
 */
export async function keepLayer(host: Host, vm: VmRecord, work: LayerWork, progress: Progress): Promise<boolean> {
  const { request, plan, connection, done, onlyBooted, workMs, shares } = work;
  const { directory, rootDisk } = vmFiles(host.config.paths.store, vm.id);
  const key = keyAfter(plan, done);
  const step = done === 0 ? `${request.base.name}, booted` : (plan.steps[done - 1]?.label ?? '');
  const beforeLast = done === stepsBeforeLast(plan);
  if (!isWorthKeeping({ shares, workMs, copyBytes: await allocatedBytes(rootDisk), beforeLast })) return false;
  const copy = join(directory, 'layer.ext4');
  let machine: SavedVm | undefined;
  try {
    const withKeptVm = beforeLast && !needsDiskAtRest(plan, done) && (await prepareToKeep(host, connection));
    if (onlyBooted && !withKeptVm) return false;
    progress.step('keep', 'keeping what is done for the next build');
    await whilePaused(host, vm, connection, async () => {
      await cloneFile(host.system.runner, host.config.programs.cp, rootDisk, copy);
      if (withKeptVm) machine = await saveKeptVm(host, vm);
    });
  } catch (error) {
    // the image is what was asked for, a layer only makes the next one sooner
    const refused = error instanceof BangerError && error.code === 'host_unprepared';
    if (!refused && !isFull(error)) throw error;
    progress.warn(`No layer is kept after "${step}": ${messageOf(error)}`);
    return false;
  }
  if (onlyBooted && !machine) {
    await rm(copy, { force: true });
    return false;
  }
  const files = machine ? await contentsOf([copy, machine.memory, machine.state]) : [];
  const place = layerFile(host.config.paths.store, key);
  await mkdir(dirname(place), { recursive: true, mode: 0o700 });
  await forgetKeptVm(host, key); // its memory belongs to the disk that is replaced now
  await rename(copy, place);
  if (machine) await placeKeptVm(host, key, machine);
  const now = host.now().toISOString();
  // the file first: another build forgets a record without one; a file without a record is swept by the next daemon
  host.stores.layers.insert({
    key,
    parent: done > 1 ? (plan.keys[done - 2] ?? null) : null,
    base: request.base.name,
    step,
    sizeBytes: await allocatedBytes(place),
    createdAt: now,
    usedAt: now,
    machine: machine
      ? await describeKeptVm(host, vm, request.base.boot, work.distribution, done, machine.vmmVersion, files)
      : null,
    unsyncedBoot: await readBootId(),
  });
  void syncLayer(host, key);
  await limitKeptVms(host);
  return true;
}

/** Not waited for: until then the layer is of use to this boot of the host. */
async function syncLayer(host: Host, key: string): Promise<void> {
  const path = layerFile(host.config.paths.store, key);
  try {
    const { ino } = await stat(path);
    await syncPath(path);
    // another build may have put its own disk there meanwhile
    if ((await stat(path)).ino === ino) host.stores.layers.synced(key);
  } catch {
    // removed meanwhile, or the daemon ends
  }
}

/** Whether the store's file system can share blocks between files. */
export async function storeShares(directory: string, sample: string): Promise<boolean> {
  const probe = join(directory, 'reflink.probe');
  try {
    await copyFile(sample, probe, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch {
    return false;
  } finally {
    await rm(probe, { force: true });
  }
}
