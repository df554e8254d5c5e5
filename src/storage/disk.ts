/** Sizes of disk images: what they claim, what they take, and growing the claim. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { BangerError, systemCode } from '../errors.ts';
import { formatSize, TIB } from '../units.ts';

/** Ext4 with 4 KiB blocks ends below 16 TiB, and so do files on a host's. */
const MAX_DISK_BYTES = 15 * TIB;

/** @throws BangerError `invalid_input` for a disk that no file can be */
export function requireDiskSize(bytes: number): void {
  if (bytes <= MAX_DISK_BYTES) return;
  const [asked, most] = [formatSize(bytes), formatSize(MAX_DISK_BYTES)];
  throw new BangerError('invalid_input', `A disk of ${asked} is more than ${most}, the most a disk can have.`, {
    hint: `Ask for at most ${most}; disks take only what is written to them.`,
  });
}

/** Bytes a file really takes on its file system. */
export async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512; // st_blocks counts 512-byte units whatever the file system
}

/** Bytes the file claims to have. */
export async function apparentBytes(path: string): Promise<number> {
  return (await stat(path)).size;
}

/** Makes a file at least `bytes` long and safe on disk; the new part is a hole and takes no space. Never shortens. */
export async function growFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    const { size } = await file.stat();
    if (size < bytes) await lengthen(file, path, bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** @throws BangerError `host_unprepared` where the file system has no files of this size */
async function lengthen(file: FileHandle, path: string, bytes: number): Promise<void> {
  try {
    await file.truncate(bytes);
  } catch (error) {
    if (systemCode(error) !== 'EFBIG') throw error;
    throw new BangerError('host_unprepared', `The file system of ${path} takes no file of ${formatSize(bytes)}.`, {
      cause: error,
      hint: 'Ask for a smaller disk, or move the store: banger storage init',
    });
  }
}
