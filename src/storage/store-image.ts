/**
 * The store in an image file: XFS with shared blocks, mounted by a loop device that the kernel frees with the mount.
 * Everything here can be repeated: what is done already is no error.
 */
import { open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { BangerError, systemCode } from '../errors.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Runner } from '../system/runner.ts';
import { MIB } from '../units.ts';
import { growFile } from './disk.ts';
import { mountOf } from './file-system.ts';

/** mkfs.xfs refuses less; xfsprogs 5.19 and later. */
export const MIN_IMAGE_BYTES = 300 * MIB;

/** Copies of a few hundred GiB to a slow disk. */
const COPY_TIMEOUT_MS = 6 * 3_600_000;

/** A sparse file with an XFS of `bytes` whose root directory belongs to `uid` and `gid` alone. */
export async function makeStoreImage(
  runner: Runner,
  image: string,
  bytes: number,
  owner: { uid: number; gid: number },
): Promise<void> {
  await rm(image, { force: true });
  const file = await open(image, 'wx', 0o600);
  await file.truncate(bytes);
  await file.close();
  // xfs_protofile: boot file, two numbers nobody reads, then the root directory itself
  const prototype = `${image}.tmp`;
  await writeFile(prototype, `/\n0 0\nd--700 ${owner.uid} ${owner.gid}\n$\n`);
  try {
    await runner.run(['mkfs.xfs', '-q', '-f', '-m', 'reflink=1', '-L', 'banger-store', '-p', prototype, image]);
  } finally {
    await rm(prototype, { force: true });
  }
  await growFile(image, bytes);
}

/** Mounts the image, which gives deleted blocks back to its own file system; one that is mounted there already is left alone. */
export async function mountStoreImage(privileged: Privileged, image: string, point: string): Promise<void> {
  if (await isMountPoint(point)) return;
  await privileged.run(['mount', '-t', 'xfs', '-o', 'loop,discard,nosuid,nodev', image, point]);
}

/** @throws BangerError `conflict` when something still uses it */
export async function unmountStoreImage(privileged: Privileged, point: string): Promise<void> {
  if (!(await isMountPoint(point))) return;
  try {
    await privileged.run(['umount', point]);
  } catch (error) {
    if (!(error instanceof BangerError) || !/busy/.test(error.message)) throw error;
    throw new BangerError('conflict', `${point} is in use and cannot be unmounted.`, {
      cause: error,
      hint: `See by whom: fuser -vm ${point}`,
    });
  }
}

/** Gives loop device and file system the size the image file has. */
export async function growMountedImage(privileged: Privileged, image: string, point: string): Promise<void> {
  const device = await loopDeviceOf(image);
  if (device === undefined) throw new BangerError('internal', `${image} is mounted and has no loop device.`);
  await privileged.run(['losetup', '-c', device]);
  await privileged.run(['xfs_growfs', point]);
}

/** Copies a whole tree with holes, owners and modes. */
export async function copyTree(runner: Runner, cp: string, from: string, to: string, signal: AbortSignal) {
  await runner.run([cp, '-a', '--sparse=auto', '--reflink=never', '--', `${from}/.`, `${to}/`], {
    timeoutMs: COPY_TIMEOUT_MS,
    signal,
  });
  await runner.run(['sync', '-f', to], { timeoutMs: COPY_TIMEOUT_MS });
}

export async function isMountPoint(path: string): Promise<boolean> {
  return (await mountOf(path))?.point === path;
}

/** Loop device of an image, e.g. `/dev/loop3`. */
export async function loopDeviceOf(image: string): Promise<string | undefined> {
  const { ino, dev } = await stat(image);
  for (const name of await readdir('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const backing = await backingFile(name);
    if (backing === undefined) continue;
    const seen = await stat(backing).catch(() => undefined);
    if (seen?.ino === ino && seen.dev === dev) return `/dev/${name}`;
  }
  return undefined;
}

async function backingFile(loop: string): Promise<string | undefined> {
  try {
    return (await readFile(`/sys/block/${loop}/loop/backing_file`, 'utf8')).trimEnd();
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENODEV') return undefined; // free
    throw error;
  }
}
