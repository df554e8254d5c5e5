/** What a disk or partition holds, by its first bytes. */
import { open } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import { formatSize } from '../units.ts';
import type { DiskImage } from './disk-image.ts';

/** File systems that guests have as their root. */
export type RootKind = 'ext4' | 'xfs' | 'btrfs';

export interface Volume {
  kind: RootKind | 'other';
  /** with its article, e.g. `an XFS file system` */
  name: string;
  /** volume label, empty where there is none */
  label: string;
  /** as `/etc/fstab` has it, empty where there is none */
  uuid: string;
  /** of the file system in `bytes`; 0 where it is not known */
  bytes: number;
  /** in `bytes`; 0 where it is not known */
  blockBytes: number;
  /** why no guest can have it as its root, without a full stop */
  problem?: string;
}

/** Ends behind the superblock of btrfs. */
const LOOK_BYTES = 0x11000;
const BTRFS_AT = 0x10000;

/** From the formats' own descriptions; text is Latin-1. */
const OTHERS: readonly { at: number; bytes: string; name: string }[] = [
  { at: 0, bytes: 'LUKS\xba\xbe', name: 'an encrypted volume (LUKS)' },
  { at: 512, bytes: 'LABELONE', name: 'a physical volume of LVM' },
  { at: 0x1018, bytes: 'LABELONE', name: 'a physical volume of LVM' },
  { at: 4096, bytes: '\xfc\x4e\x2b\xa9', name: 'a part of a RAID (md)' },
  { at: 0, bytes: 'hsqs', name: 'a squashfs file system' },
  { at: 1024, bytes: '\xe2\xe1\xf5\xe0', name: 'an EROFS file system' },
  { at: 1024, bytes: '\x10\x20\xf5\xf2', name: 'an F2FS file system' },
  { at: 0xff6, bytes: 'SWAPSPACE2', name: 'swap space' },
  { at: 82, bytes: 'FAT32', name: 'a FAT file system' },
  { at: 54, bytes: 'FAT', name: 'a FAT file system' },
  { at: 3, bytes: 'NTFS', name: 'an NTFS file system' },
  { at: 0x8001, bytes: 'CD001', name: 'a CD image' },
];

const UNKNOWN = { label: '', uuid: '', bytes: 0, blockBytes: 0 } as const;

/**
 * The file system of a root disk in a file.
 * @throws BangerError `corrupt` when there is none that guests can have, or only its beginning
 */
export async function readRootVolume(path: string): Promise<Volume & { kind: RootKind }> {
  await using file = await open(path, 'r');
  const read = async (at: number, length: number) => {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, at);
    return buffer.subarray(0, bytesRead);
  };
  const volume = await inspectVolume({ read });
  const { kind } = volume;
  if (kind === 'other') {
    throw new BangerError(
      'corrupt',
      `${path} holds no file system that a guest can have as its root: ${volume.name}.`,
      {
        hint: 'Check the bundle it came from: banger bundle verify',
      },
    );
  }
  const { size } = await file.stat();
  const problem =
    volume.problem ??
    (size < volume.bytes
      ? `it is cut short: ${formatSize(volume.bytes)}, the file only ${formatSize(size)}`
      : undefined);
  if (problem === undefined) return { ...volume, kind };
  throw new BangerError('corrupt', `The file system in ${path} cannot be used: ${problem}.`, {
    hint: 'Check the bundle it came from: banger bundle verify',
  });
}

export async function inspectVolume(
  disk: Pick<DiskImage, 'read'>,
  at = 0,
  length = Number.POSITIVE_INFINITY,
): Promise<Volume> {
  const head = await disk.read(at, Math.min(LOOK_BYTES, length));
  const has = (offset: number, bytes: string) => head.toString('latin1', offset, offset + bytes.length) === bytes;
  // first: what stands in front of others is what is found there
  const other = OTHERS.slice(0, 4).find(({ at: offset, bytes }) => has(offset, bytes));
  if (other) return { kind: 'other', name: other.name, ...UNKNOWN };
  const volume =
    (head.length >= 2048 && has(1024 + 0x38, '\x53\xef') && ext4(head.subarray(1024))) ||
    (head.length >= 512 && has(0, 'XFSB') && xfs(head)) ||
    (has(BTRFS_AT + 0x40, '_BHRfS_M') && btrfs(head.subarray(BTRFS_AT)));
  if (volume) {
    return volume.bytes > length ? { ...volume, problem: 'it is larger than what it lies in' } : volume;
  }
  const known = OTHERS.find(({ at: offset, bytes }) => has(offset, bytes));
  const blank = head.every((byte) => byte === 0) ? 'nothing but zeros' : 'something that is not known here';
  return { kind: 'other', name: known?.name ?? blank, ...UNKNOWN };
}

/** Linux, fs/ext4/ext4.h: struct ext4_super_block. */
function ext4(block: Buffer): Volume {
  const logBlock = block.readUInt32LE(0x18);
  const wide = (block.readUInt32LE(0x60) & 0x80) !== 0;
  const blocks = block.readUInt32LE(0x04) + (wide ? block.readUInt32LE(0x150) * 2 ** 32 : 0);
  const blockBytes = 1024 * 2 ** logBlock;
  return {
    ...{ kind: 'ext4', name: 'an ext4 file system', label: labelOf(block, 0x78, 16), uuid: uuidOf(block, 0x68) },
    ...{ bytes: blocks * blockBytes, blockBytes },
    ...(logBlock > 6 ? { problem: 'its superblock contradicts itself' } : {}),
  };
}

/** Linux, fs/xfs/libxfs/xfs_format.h: struct xfs_dsb. */
function xfs(block: Buffer): Volume {
  const blockBytes = block.readUInt32BE(4);
  const bytes = Number(block.readBigUInt64BE(8)) * blockBytes;
  const problem =
    blockBytes < 512 || blockBytes > 65536
      ? 'its superblock contradicts itself'
      : block.readBigUInt64BE(48) === 0n
        ? 'its log is on another disk'
        : undefined;
  return {
    ...{ kind: 'xfs', name: 'an XFS file system', label: labelOf(block, 108, 12), uuid: uuidOf(block, 32) },
    ...{ bytes, blockBytes },
    ...(problem === undefined ? {} : { problem }),
  };
}

/** Linux, include/uapi/linux/btrfs_tree.h: struct btrfs_super_block. */
function btrfs(block: Buffer): Volume {
  const devices = block.readBigUInt64LE(0x88);
  return {
    ...{ kind: 'btrfs', name: 'a btrfs file system', label: labelOf(block, 0x12b, 256), uuid: uuidOf(block, 0x20) },
    ...{ bytes: Number(block.readBigUInt64LE(0x70)), blockBytes: block.readUInt32LE(0x90) },
    ...(devices === 1n ? {} : { problem: `it spans ${devices} disks` }),
  };
}

function uuidOf(block: Buffer, at: number): string {
  const hex = block.toString('hex', at, at + 16);
  return /^0*$/.test(hex) ? '' : hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function labelOf(block: Buffer, at: number, length: number): string {
  const [text = ''] = block.toString('utf8', at, at + length).split('\0');
  return text.replace(/[^ -~]/g, '?');
}
