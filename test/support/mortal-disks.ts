/** Disks of a host whose daemons die: as small as they can be, and each with the name of the image it was made from. */
import { readFileSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';

export const DISK_BYTES = 64 * 1024;

/** Two images, so that a disk can be told from the other's. */
export const OLD = { id: '000000aa', name: 'old' };
export const NEW = { id: '000000bb', name: 'new' };

const MAGIC_AT = 1024;
const MARKER_AT = 4096;

/** Disk of an image: what is read of a superblock, and the image's name behind it. */
export function ext4(bytes: number, name: string): Buffer {
  const disk = Buffer.alloc(bytes);
  superblock(bytes).copy(disk, MAGIC_AT);
  disk.write(`${name}\0`, MARKER_AT);
  return disk;
}

function superblock(bytes: number): Buffer {
  const block = Buffer.alloc(1024);
  block.writeUInt32LE(bytes / 4096, 0x04); // blocks
  block.writeUInt32LE(2, 0x18); // of 4 KiB
  block.writeUInt32LE(32_768, 0x20); // blocks of a group
  block.writeUInt16LE(0xef53, 0x38);
  block.writeUInt16LE(1, 0x3a); // unmounted in good order
  return block;
}

/** As mke2fs and resize2fs leave it. */
export async function writeSuperblock(path: string): Promise<void> {
  const { size } = statSync(path);
  const file = await open(path, 'r+');
  await file.write(superblock(size), 0, 1024, MAGIC_AT);
  await file.close();
}

/** Name of the image that a disk was made from. */
export function marker(path: string): string {
  const disk = readFileSync(path);
  return disk.subarray(MARKER_AT, disk.indexOf(0, MARKER_AT)).toString();
}
