/** Layers of image builds as files: where a build can begin, and what it leaves for the next one. */
import { constants, copyFile, mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { VmRecord } from '../core/vm.ts';
import { BangerError, messageOf } from '../errors.ts';
import type { SshConnection } from '../guest/ssh.ts';
import { isWorthKeeping } from '../image/layers.ts';
import { cloneThroughBase } from '../storage/base-cache.ts';
import { cloneFile } from '../storage/clone.ts';
import { allocatedBytes } from '../storage/disk.ts';
import { growExt4 } from '../storage/ext4.ts';
import { layerFile, vmFiles } from '../storage/layout.ts';
import { pathExists } from '../system/files.ts';
import type { BuildPlan, BuildRequest } from './build-plan.ts';
import { whilePaused } from './build-vm.ts';
import type { Host } from './host.ts';
import type { Progress } from './operation.ts';
import { isFull } from './store-space.ts';

/**
 * Number of steps whose outcome is there already, 0 to all of them. A record whose file is gone is forgotten.
 */
export async function cachedSteps(host: Host, plan: Pick<BuildPlan, 'keys'>): Promise<number> {
  for (let done = plan.keys.length; done > 0; done--) {
    const key = plan.keys[done - 1] ?? '';
    if (!host.layers.find(key)) continue;
    if (await pathExists(layerFile(host.config.paths.store, key))) return done;
    host.layers.remove(key);
  }
  return 0;
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
  const { runner, config } = host;
  const { rootDisk } = vmFiles(config.paths.store, vm.id);
  const key = done > 0 ? plan.keys[done - 1] : undefined;
  const { store } = config.paths;
  if (key === undefined) {
    await cloneThroughBase(runner, config.programs.cp, store, request.base.boot.rootfs, rootDisk, 0, signal);
    await growExt4(runner, config.programs, rootDisk, request.sizeBytes);
    return;
  }
  await cloneFile(runner, config.programs.cp, layerFile(store, key), rootDisk, 0, signal);
  host.layers.touch(key, host.now().toISOString());
}

/**
 * Keeps the disk after a step where that pays; the guest is held while it is copied.
 * @returns whether it was kept, which it is not either where there is no room for it
 */
export async function keepLayer(
  host: Host,
  vm: VmRecord,
  connection: SshConnection,
  build: { request: BuildRequest; plan: BuildPlan; index: number; workMs: number; shares: boolean; progress: Progress },
): Promise<boolean> {
  const { request, plan, index, workMs, shares, progress } = build;
  const { directory, rootDisk } = vmFiles(host.config.paths.store, vm.id);
  const key = plan.keys[index];
  const step = plan.steps[index];
  if (key === undefined || step === undefined) return false;
  const lastRun = plan.steps.findLastIndex(({ kind }) => kind === 'run');
  // the seed of a work disk comes behind the run lines and takes no time
  const beforeLast = index === (lastRun > 0 ? lastRun : plan.steps.length - 1) - 1;
  if (!isWorthKeeping({ shares, workMs, copyBytes: await allocatedBytes(rootDisk), beforeLast })) return false;
  const copy = join(directory, 'layer.ext4');
  try {
    await whilePaused(host, vm, connection, async () => {
      await cloneFile(host.runner, host.config.programs.cp, rootDisk, copy);
    });
  } catch (error) {
    // the image is what was asked for, a layer only makes the next one sooner
    const refused = error instanceof BangerError && error.code === 'host_unprepared';
    if (!refused && !isFull(error)) throw error;
    progress.warn(`No layer is kept after "${step.label}": ${messageOf(error)}`);
    return false;
  }
  const place = layerFile(host.config.paths.store, key);
  await mkdir(dirname(place), { recursive: true, mode: 0o700 });
  await rename(copy, place);
  const now = host.now().toISOString();
  // the file first: another build forgets a record without one; a file without a record is swept by the next daemon
  host.layers.insert({
    key,
    parent: index === 0 ? null : (plan.keys[index - 1] ?? null),
    base: request.base.name,
    step: step.label,
    sizeBytes: await allocatedBytes(place),
    createdAt: now,
    usedAt: now,
  });
  return true;
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
