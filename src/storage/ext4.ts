/** ext4 images: made, read and grown from outside; the host never mounts a guest's file system. */
import { open, rename, rm } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import type { Runner } from '../system/runner.ts';
import { formatSize } from '../units.ts';
import { apparentBytes, growFile } from './disk.ts';

export interface Ext4Programs {
  mke2fs: string;
  e2fsck: string;
  resize2fs: string;
}

export interface Superblock {
  /** size of the file system in bytes */
  bytes: number;
  /** unmounted since it was last changed */
  clean: boolean;
}

/** Offsets within the superblock, which starts 1024 bytes in (Linux, fs/ext4/ext4.h: struct ext4_super_block). */
const SUPERBLOCK_OFFSET = 1024;
const BLOCKS_LOW = 0x04;
const LOG_BLOCK_SIZE = 0x18;
const MAGIC = 0x38;
const STATE = 0x3a;
const FEATURE_INCOMPAT = 0x60;
const BLOCKS_HIGH = 0x150;
const EXT4_MAGIC = 0xef53;
const INCOMPAT_64BIT = 0x80;
const STATE_CLEAN = 1;

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
  const high = block.readUInt32LE(FEATURE_INCOMPAT) & INCOMPAT_64BIT ? block.readUInt32LE(BLOCKS_HIGH) : 0;
  const blocks = block.readUInt32LE(BLOCKS_LOW) + high * 2 ** 32;
  const bytes = blocks * 1024 * 2 ** block.readUInt32LE(LOG_BLOCK_SIZE);
  const size = await apparentBytes(path);
  if (size < bytes) {
    throw new BangerError(
      'corrupt',
      `${path} is cut short: its file system has ${formatSize(bytes)}, the file only ${formatSize(size)}.`,
      { hint: 'Check the bundle it came from: banger bundle verify' },
    );
  }
  return { bytes, clean: (block.readUInt16LE(STATE) & STATE_CLEAN) !== 0 };
}

/**
 * Makes an empty ext4 of `bytes` that appears at `path` whole or not at all; takes a few MiB of real space.
 * @param label volume label, at most 16 bytes
 */
export async function makeExt4(
  runner: Runner,
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

/**
 * Grows the image file and the file system in it to `bytes`; one that is large enough already is left alone,
 * and a growth that was interrupted is finished.
 * @throws BangerError `corrupt` when e2fsck finds damage it will not repair by itself
 */
export async function growExt4(runner: Runner, programs: Ext4Programs, path: string, bytes: number): Promise<boolean> {
  const before = await readSuperblock(path);
  if (before.bytes >= bytes) return false;
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
  runner: Runner,
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

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
