/** What a root file system's image is, read from its superblock: enough to notice a wrong or cut-short file. */
import { open } from 'node:fs/promises';
import { BangerError, systemCode } from '../../errors.ts';

export type RootfsInspection =
  /** an ext2/3/4 file system that is complete on disk */
  | { kind: 'ext4'; fileSystemBytes: number; sizeBytes: number }
  /** the file ends before the file system does */
  | { kind: 'truncated'; fileSystemBytes: number; sizeBytes: number }
  | { kind: 'unusable'; reason: string; sizeBytes: number };

/** Superblock layout: the kernel's Documentation/filesystems/ext4/super.rst. */
const SUPERBLOCK_AT = 1024;
const EXT4_MAGIC = 0xef53;
const INCOMPAT_64BIT = 0x80;

/**
 * Reads an image's superblock.
 * @throws BangerError `not_found` when there is no such file, `host_unprepared` when it cannot be read
 */
export async function inspectRootfs(path: string): Promise<RootfsInspection> {
  await using file = await open(path).catch((error: unknown) => {
    const missing = systemCode(error) === 'ENOENT';
    throw new BangerError(
      missing ? 'not_found' : 'host_unprepared',
      `The root file system ${path} ${missing ? 'does not exist' : `cannot be read (${systemCode(error)})`}.`,
      { cause: error, hint: missing ? 'Build or import a bundle: banger bundle build' : `See who may: ls -l ${path}` },
    );
  });
  const info = await file.stat();
  const sizeBytes = info.size;
  if (!info.isFile()) return { kind: 'unusable', reason: 'not a regular file', sizeBytes: 0 };
  const { buffer, bytesRead } = await file.read(Buffer.alloc(1024), 0, 1024, SUPERBLOCK_AT);
  if (bytesRead < 1024) return { kind: 'unusable', reason: sizeBytes === 0 ? 'empty' : 'too short', sizeBytes };
  if (buffer.readUInt16LE(0x38) !== EXT4_MAGIC) return { kind: 'unusable', reason: 'not ext4', sizeBytes };
  const high = buffer.readUInt32LE(0x60) & INCOMPAT_64BIT ? buffer.readUInt32LE(0x150) : 0;
  const blocks = high * 2 ** 32 + buffer.readUInt32LE(0x04);
  const fileSystemBytes = blocks * 2 ** (10 + buffer.readUInt32LE(0x18));
  return { kind: fileSystemBytes > sizeBytes ? 'truncated' : 'ext4', fileSystemBytes, sizeBytes };
}

/** Why an image cannot be a root disk, as the end of "The root file system PATH …"; undefined when it can. */
export function rootfsProblem(image: RootfsInspection): string | undefined {
  if (image.kind === 'unusable') return `is no file system banger can use: it is ${image.reason}`;
  if (image.kind === 'truncated') return `is cut short: it has ${image.sizeBytes} of ${image.fileSystemBytes} bytes`;
  return undefined;
}
