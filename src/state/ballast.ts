/**
 * A file beside the database that takes up room and holds nothing. It is given up when the disk is full, so that a
 * daemon can still write down what makes room again: that a VM was stopped, killed or deleted.
 */
import { randomBytes } from 'node:crypto';
import { statSync, truncateSync } from 'node:fs';
import { open, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { systemCode } from '../errors.ts';

export interface Ballast {
  /** Makes some of its room free; false when all was given up already. */
  giveUp(): boolean;
  /**
   * Takes up room again where there is much more than that.
   * @returns whether it was made
   */
  restore(): Promise<boolean>;
}

/** A stop or a deletion writes some 40 KiB; this is a hundred of them. */
const BALLAST_BYTES = 4 * 1024 * 1024;

/** Given up at once: enough for the next write, and whoever fills the disk gets no more. */
const SLICE_BYTES = 256 * 1024;

/** Room there must be, in ballasts, before one is made: making it must not be what fills the disk. */
const ROOM_FACTOR = 4;

/** @param path of the file; its directory exists */
export function createBallast(path: string): Ballast {
  return {
    giveUp() {
      try {
        const { size } = statSync(path);
        truncateSync(path, Math.max(0, size - SLICE_BYTES));
        return size > 0;
      } catch {
        return false; // not there, or a file system that lets nobody write: then nothing helps
      }
    },
    async restore() {
      if ((await sizeOf(path)) === BALLAST_BYTES) return false;
      const { bavail, bsize } = await statfs(dirname(path));
      if (bavail * bsize < BALLAST_BYTES * ROOM_FACTOR) return false;
      const temporary = `${path}.part`;
      try {
        await using file = await open(temporary, 'w', 0o600);
        // file systems that compress, or leave out what is zero, would take up nothing
        await file.writeFile(randomBytes(BALLAST_BYTES));
        await file.sync();
        await rename(temporary, path);
        return true;
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    },
  };
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}
