/**
 * Work disks that outlive their VM. A disk moves between a VM and the place for kept ones as a second name of the same
 * file: while it has both names the VM owns it, so that a crash at any moment leaves the data under one of them.
 */
import { link, mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BangerError, systemCode } from '../errors.ts';
import { keptDirectory } from './layout.ts';

export interface KeptDisk {
  name: string;
  path: string;
}

const SUFFIX = '.ext4';

/** By name. */
export async function listKept(store: string): Promise<KeptDisk[]> {
  const disks: KeptDisk[] = [];
  for (const file of await filesIn(keptDirectory(store))) {
    const path = join(keptDirectory(store), file);
    if (file.endsWith(SUFFIX) && (await names(path)) === 1) disks.push({ name: file.slice(0, -SUFFIX.length), path });
  }
  return disks.sort((a, b) => a.name.localeCompare(b.name));
}

export async function findKept(store: string, name: string): Promise<KeptDisk | undefined> {
  return (await listKept(store)).find((disk) => disk.name === name);
}

/** Gives a VM's work disk a second name among the kept ones: `name`, or `name-2`, … when that is taken. */
export async function keepDisk(store: string, workDisk: string, name: string): Promise<KeptDisk> {
  await mkdir(keptDirectory(store), { recursive: true, mode: 0o700 });
  for (let number = 1; ; number++) {
    const free = number === 1 ? name : `${name}-${number}`;
    const path = join(keptDirectory(store), `${free}${SUFFIX}`);
    try {
      await link(workDisk, path);
      return { name: free, path };
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
  }
}

/**
 * Gives a kept disk to a VM as its work disk; `forgetShared` takes the first name away when the VM is there.
 * @throws BangerError `not_found` when it is gone, `conflict` when another VM has it
 */
export async function takeKept(disk: KeptDisk, workDisk: string): Promise<void> {
  try {
    await link(disk.path, workDisk);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new BangerError('not_found', `The kept work disk "${disk.name}" is gone: ${disk.path}.`, {
      cause: error,
      hint: 'See the kept ones: banger disk list --kept',
    });
  }
  // the file system's own count: two guests that write to one file system destroy it
  if ((await names(workDisk)) === 2) return;
  await rm(workDisk, { force: true });
  throw takenError(disk.name, 'another VM');
}

/** @param by who has it, or is about to */
export function takenError(name: string, by: string): BangerError {
  return new BangerError('conflict', `The kept work disk "${name}" is taken by ${by}.`, {
    hint: 'See which are left: banger disk list --kept',
  });
}

/** Removes the names of disks that VMs own: what a crash in the middle of a move left. */
export async function forgetShared(store: string): Promise<void> {
  for (const file of await filesIn(keptDirectory(store))) {
    const path = join(keptDirectory(store), file);
    if ((await names(path)) > 1) await rm(path, { force: true });
  }
}

/** Of a file that went between two looks, none. */
async function names(path: string): Promise<number> {
  try {
    return (await stat(path)).nlink;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}

async function filesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return []; // nothing was ever kept
    throw error;
  }
}
