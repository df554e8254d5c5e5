/** ext4 images: made, read and grown from outside; the host never mounts a guest's file system. */
import { open, rename, rm } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import { formatSize, MIB } from '../units.ts';
import { allocatedBytes, apparentBytes, growFile } from './disk.ts';
import type { DiskRunner } from './disk-runner.ts';

/** Smallest one that is of any use as a work disk. */
export const MIN_WORK_DISK_BYTES = 16 * MIB;

export interface Ext4Programs {
  mke2fs: string;
  e2fsck: string;
  resize2fs: string;
}

export interface Superblock {
  /** size of the file system in bytes */
  bytes: number;
  blockBytes: number;
  /** unmounted since it was last changed */
  clean: boolean;
  /** marked as damaged: by the kernel that found damage, or by a resize2fs that did not come to its end */
  damaged: boolean;
  /** bytes of free blocks, exact when `clean` */
  freeBytes: number;
  /** the last group of blocks is a whole one */
  wholeGroups: boolean;
}

/** Offsets within the superblock, which starts 1024 bytes in (Linux, fs/ext4/ext4.h: struct ext4_super_block). */
const SUPERBLOCK_OFFSET = 1024;
const BLOCKS_LOW = 0x04;
const FREE_BLOCKS_LOW = 0x0c;
const FIRST_DATA_BLOCK = 0x14;
const LOG_BLOCK_SIZE = 0x18;
const BLOCKS_PER_GROUP = 0x20;
const MAGIC = 0x38;
const STATE = 0x3a;
const FEATURE_INCOMPAT = 0x60;
const BLOCKS_HIGH = 0x150;
const FREE_BLOCKS_HIGH = 0x158;
/** Blocks of 64 KiB. */
const MAX_LOG_BLOCK = 6;
const EXT4_MAGIC = 0xef53;
const INCOMPAT_64BIT = 0x80;
const STATE_CLEAN = 1;
const STATE_ERRORS = 2;
/** The journal holds what is not in its place yet (struct ext4_super_block: EXT4_FEATURE_INCOMPAT_RECOVER). */
const INCOMPAT_RECOVER = 0x4;

/** resize2fs leaves a last group out that is smaller than its own tables; those take less than this. */
const TAIL_BYTES = 8 * MIB;

/** e2fsck: 0 nothing wrong, 1 errors corrected. */
const E2FSCK_OK = [0, 1];
/** A full check of a large, slow disk; the limit only catches a hang. */
const FSCK_TIMEOUT_MS = 30 * 60_000;

/** @throws BangerError `corrupt` when the file holds no ext4 file system, or only its beginning */
export async function readSuperblock(path: string): Promise<Superblock> {
  const file = await open(path, 'r');
  const block = Buffer.alloc(1024);
  try {
    await file.read(block, 0, block.length, SUPERBLOCK_OFFSET);
  } finally {
    await file.close();
  }
  if (block.readUInt16LE(MAGIC) !== EXT4_MAGIC) {
    throw new BangerError('corrupt', `${path} holds no ext4 file system.`, {
      hint: 'Check the bundle it came from: banger bundle verify',
    });
  }
  const incompat = block.readUInt32LE(FEATURE_INCOMPAT);
  const wide = (low: number, high: number) =>
    block.readUInt32LE(low) + (incompat & INCOMPAT_64BIT ? block.readUInt32LE(high) * 2 ** 32 : 0);
  const blocks = wide(BLOCKS_LOW, BLOCKS_HIGH);
  const logBlock = block.readUInt32LE(LOG_BLOCK_SIZE);
  if (logBlock > MAX_LOG_BLOCK) {
    throw new BangerError('corrupt', `The file system in ${path} is damaged: its superblock contradicts itself.`, {
      hint: `Look at it: dumpe2fs -h ${path}   e2fsck -fn ${path}`,
    });
  }
  const blockBytes = 1024 * 2 ** logBlock;
  const bytes = blocks * blockBytes;
  const size = await apparentBytes(path);
  if (size < bytes) {
    throw new BangerError(
      'corrupt',
      `${path} is cut short: its file system has ${formatSize(bytes)}, the file only ${formatSize(size)}.`,
      { hint: 'Check the bundle it came from: banger bundle verify' },
    );
  }
  const state = block.readUInt16LE(STATE);
  return {
    bytes,
    blockBytes,
    clean: (state & STATE_CLEAN) !== 0 && (incompat & INCOMPAT_RECOVER) === 0,
    damaged: (state & STATE_ERRORS) !== 0,
    freeBytes: wide(FREE_BLOCKS_LOW, FREE_BLOCKS_HIGH) * blockBytes,
    wholeGroups: (blocks - block.readUInt32LE(FIRST_DATA_BLOCK)) % block.readUInt32LE(BLOCKS_PER_GROUP) === 0,
  };
}

/**
 * Makes an empty ext4 of `bytes` that appears at `path` whole or not at all; takes a few MiB of real space.
 * @param label volume label, at most 16 bytes
 */
export async function makeExt4(
  runner: DiskRunner,
  programs: Ext4Programs,
  path: string,
  bytes: number,
  label: string,
): Promise<void> {
  const temporary = `${path}.part`;
  await rm(temporary, { force: true });
  try {
    const file = await open(temporary, 'wx', 0o600);
    await file.truncate(bytes);
    await file.close();
    // lazy_itable_init: the file is a hole, so its inode tables are zero already and nobody needs to write them
    const extended = 'lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0';
    await runner.run([programs.mke2fs, '-q', '-F', '-t', 'ext4', '-m', '0', '-L', label, '-E', extended, temporary]);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Whether `growExt4` has something to do: the file system is smaller than `bytes`, or a growth was cut off. */
export async function needsGrowth(path: string, bytes: number): Promise<boolean> {
  const found = await readSuperblock(path);
  return found.damaged || isSmaller(found, await apparentBytes(path), bytes);
}

/**
 * Grows the image file and the file system in it to `bytes`; one that is large enough already is left alone,
 * and a growth that was interrupted, even in the middle of resize2fs, is finished.
 * @throws BangerError `corrupt` when e2fsck finds damage it will not repair by itself
 */
export async function growExt4(
  runner: DiskRunner,
  programs: Ext4Programs,
  path: string,
  bytes: number,
): Promise<boolean> {
  if (!(await needsGrowth(path, bytes))) return false;
  await growFile(path, bytes);
  await checkExt4(runner, programs, path);
  await runner.run([programs.resize2fs, path], { timeoutMs: FSCK_TIMEOUT_MS });
  return true;
}

/**
 * Checks a file system from end to end, and repairs what needs nobody's decision.
 * @throws BangerError `corrupt` when e2fsck finds damage it will not repair by itself
 */
export async function checkExt4(
  runner: DiskRunner,
  programs: Pick<Ext4Programs, 'e2fsck'>,
  path: string,
  signal?: AbortSignal,
): Promise<void> {
  const check = await runner.run([programs.e2fsck, '-f', '-p', path], {
    okExits: [0, 1, 2, 4, 8],
    timeoutMs: FSCK_TIMEOUT_MS,
    ...(signal ? { signal } : {}),
  });
  if (!E2FSCK_OK.includes(check.exitCode)) {
    throw new BangerError(
      'corrupt',
      `The file system in ${path} is damaged: ${lastLine(check.stdout + check.stderr)}`,
      {
        hint: `Repair it by hand: ${programs.e2fsck} -f ${path}`,
      },
    );
  }
}

/** Bytes that `discardFree` could give back; only a file system that was unmounted in good order tells. */
export async function discardableBytes(path: string): Promise<number> {
  const found = await readSuperblock(path);
  if (!found.clean || found.damaged) return 0;
  return Math.max(0, (await allocatedBytes(path)) - (found.bytes - found.freeBytes));
}

/**
 * Makes holes of everything the file system does not use. Ends in good order after `limitMs`, with what was done till
 * then: e2fsck takes SIGTERM as a request to close the file system.
 * @returns whether it came to its end
 */
export async function discardFree(
  runner: DiskRunner,
  programs: Pick<Ext4Programs, 'e2fsck'>,
  path: string,
  limitMs: number,
): Promise<boolean> {
  const limit = ['timeout', '--signal=TERM', `${limitMs / 1000}`] as const;
  const { exitCode } = await runner.run([...limit, programs.e2fsck, '-f', '-p', '-E', 'discard', path], {
    okExits: [0, 1, TIMED_OUT],
    timeoutMs: limitMs + DISCARD_GRACE_MS,
  });
  return exitCode !== TIMED_OUT;
}

/** timeout(1) says so when the limit ran out. */
const TIMED_OUT = 124;
/** What e2fsck gets to close the file system. */
const DISCARD_GRACE_MS = 10_000;

/** A tail of less than a group that resize2fs would leave out is not worth another try at each start. */
function isSmaller(found: Superblock, fileBytes: number, bytes: number): boolean {
  if (found.bytes >= bytes) return false;
  return !(found.wholeGroups && fileBytes >= bytes && bytes - found.bytes < TAIL_BYTES);
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
