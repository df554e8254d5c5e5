/** The file system of the store: its kind, its room, whether it shares blocks, and what takes its space. */
import { randomBytes } from 'node:crypto';
import { constants, copyFile, lstat, opendir, readdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemCode } from '../errors.ts';

const PROBE = '.banger-probe-';

/** Tries what a clone would do, with two files of a byte; undefined when this user may not write there. */
export async function sharesBlocks(directory: string): Promise<boolean | undefined> {
  const source = join(directory, `${PROBE}${randomBytes(4).toString('hex')}`);
  const target = `${source}.clone`;
  try {
    await writeFile(source, 'x', { flag: 'wx' });
    await copyFile(source, target, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch (error) {
    return ['EACCES', 'EPERM', 'EROFS', 'ENOSPC'].includes(systemCode(error) ?? '') ? undefined : false;
  } finally {
    await rm(source, { force: true });
    await rm(target, { force: true });
  }
}

/** For the start of a daemon, when nobody tries: removes the files of a try that was killed. */
export async function removeProbes(directory: string): Promise<void> {
  const names = await readdir(directory).catch((error) => {
    if (systemCode(error) === 'ENOENT') return []; // nothing was ever stored
    throw error;
  });
  for (const name of names) if (name.startsWith(PROBE)) await rm(join(directory, name), { force: true });
}

/** Size and room in bytes, of the nearest parent for a directory that is not made yet. */
export async function spaceOf(path: string): Promise<{ sizeBytes: number; freeBytes: number }> {
  try {
    const { blocks, bavail, bfree, bsize } = await statfs(path);
    // blocks kept for root are no room for anybody else, so they do not count as size either
    return { sizeBytes: (blocks - (bfree - bavail)) * bsize, freeBytes: bavail * bsize };
  } catch (error) {
    if (systemCode(error) !== 'ENOENT' || dirname(path) === path) throw error;
    return await spaceOf(dirname(path));
  }
}

export interface Mount {
  /** where it is mounted */
  point: string;
  /** e.g. `ext4`, `xfs` */
  type: string;
  /** device or other source */
  source: string;
}

/** The mount a path lies on: the longest of the mount points above it, and the last where several are equal. */
export async function mountOf(path: string): Promise<Mount | undefined> {
  let found: Mount | undefined;
  for (const mount of await listMounts()) {
    const above = mount.point === '/' || path === mount.point || path.startsWith(`${mount.point}/`);
    if (above && mount.point.length >= (found?.point.length ?? 0)) found = mount;
  }
  return found;
}

/** Bytes a directory with everything below it takes; blocks that files share count for each of them. */
export async function usedBytes(path: string): Promise<number> {
  try {
    let bytes = (await lstat(path)).blocks * 512;
    for await (const entry of await opendir(path)) {
      const below = join(path, entry.name);
      bytes += entry.isDirectory() ? await usedBytes(below) : (await lstat(below)).blocks * 512;
    }
    return bytes;
  } catch (error) {
    // deleted between two looks, or another user's: nothing of ours to count
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(systemCode(error) ?? '')) return 0;
    throw error;
  }
}

/** proc(5), /proc/PID/mountinfo: ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS */
async function listMounts(): Promise<Mount[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter(Boolean);
  return lines.map((line) => {
    const words = line.split(' ').map(unescapeOctal);
    const dash = words.indexOf('-', 6);
    return { point: words[4] ?? '', type: words[dash + 1] ?? '', source: words[dash + 2] ?? '' };
  });
}

function unescapeOctal(word: string): string {
  return word.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
