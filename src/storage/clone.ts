/** Copies of disks: shared blocks where the file system can, otherwise a copy that keeps holes. */
import { constants, copyFile, rename, rm, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BangerError, systemCode } from '../errors.ts';
import type { Runner } from '../system/runner.ts';
import { formatSize } from '../units.ts';
import { allocatedBytes, growFile } from './disk.ts';

export type CloneMethod = 'reflink' | 'sparse copy';

/** What the file system answers when it cannot share blocks between two files. */
const NO_REFLINK = new Set(['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS', 'ENOTTY']);

/** Room left on the store after a copy; a file system that is full to the last block hurts everybody on it. */
const RESERVE_BYTES = 64 * 1024 * 1024;

/**
 * Clones `source` to `target`, which appears whole, at least `minBytes` long, or not at all.
 * @throws BangerError `host_unprepared` when the copy would not fit
 */
export async function cloneFile(
  runner: Runner,
  cp: string,
  source: string,
  target: string,
  minBytes = 0,
  signal?: AbortSignal,
): Promise<CloneMethod> {
  const temporary = `${target}.part`;
  await rm(temporary, { force: true });
  try {
    const method = await copyDisk(runner, cp, source, temporary, signal);
    await growFile(temporary, minBytes);
    await rename(temporary, target);
    return method;
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/**
 * Clones a disk into a place of which nothing is believed yet: not synced, and whatever a failure leaves stays.
 * @throws BangerError `host_unprepared` when the copy would not fit
 */
export async function copyDisk(
  runner: Runner,
  cp: string,
  source: string,
  target: string,
  signal?: AbortSignal,
): Promise<CloneMethod> {
  return (await reflink(source, target)) ? 'reflink' : await sparseCopy(runner, cp, source, target, signal);
}

async function reflink(source: string, target: string): Promise<boolean> {
  try {
    // FORCE: plain COPYFILE_FICLONE falls back to a copy that fills every hole
    await copyFile(source, target, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch (error) {
    if (NO_REFLINK.has(systemCode(error) ?? '')) return false;
    throw error;
  }
}

async function sparseCopy(
  runner: Runner,
  cp: string,
  source: string,
  target: string,
  signal: AbortSignal | undefined,
): Promise<CloneMethod> {
  await requireSpace(dirname(target), await allocatedBytes(source), `a copy of ${source}`);
  await runner.run([cp, '--sparse=auto', '--reflink=never', '--', source, target], {
    timeoutMs: 30 * 60_000,
    ...(signal ? { signal } : {}),
  });
  return 'sparse copy';
}

/** @throws BangerError `host_unprepared` when fewer than `bytes` are free where `directory` lies */
export async function requireSpace(directory: string, bytes: number, purpose: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const free = bavail * bsize;
  if (free >= bytes + RESERVE_BYTES) return;
  throw new BangerError(
    'host_unprepared',
    `There is no room for ${purpose}: ${formatSize(bytes)} needed, ${formatSize(free)} free in ${directory}.`,
    { hint: 'Free some space (banger ls shows what could be deleted), or set paths.store to a larger disk.' },
  );
}
