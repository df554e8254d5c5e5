/**
 * Groups of a file system that mke2fs has just made: which blocks and inodes are free, handed out from the beginning.
 * Layout: Linux, Documentation/filesystems/ext4/{group_descr,bitmaps,checksums}.rst.
 */
import type { FileHandle } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import { turnsAfter } from '../system/turns.ts';
import { crc32c, crc32cOfNumber } from './crc32c.ts';
import { writeAll } from './hole-writer.ts';

/** Blocks that follow each other. */
export interface Run {
  start: number;
  count: number;
}

const SUPERBLOCK_AT = 1024;
const DESCRIPTOR_BYTES = 64;
const INODE_UNINIT = 1;
const BLOCK_UNINIT = 2;
/** Blocks one extent can have. */
const MAX_RUN = 32_768;

export const BLOCK_BYTES = 4096;
export const INODE_BYTES = 256;
/** The first that are nobody's; before it is `lost+found`. */
const FIRST_INODE = 12;

export class Ext4Groups {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #superblock: Buffer;
  readonly #descriptors: Buffer;
  readonly blocks: number;
  readonly inodes: number;
  readonly blocksPerGroup: number;
  readonly inodesPerGroup: number;
  /** what checksums of everything but the superblock begin with */
  readonly seed: number;
  readonly #bitmaps = new Map<number, Buffer>();
  /** blocks in use for the tables of all groups */
  readonly #tables: Run[] = [];
  #cursor = 0;
  #nextInode = FIRST_INODE;
  #taken = 0;
  readonly #dirsIn = new Map<number, number>();
  /** a group has 32,768 blocks, and a new one may need nothing that is read */
  readonly #turn = turnsAfter(1);

  private constructor(file: FileHandle, path: string, superblock: Buffer, descriptors: Buffer) {
    this.#file = file;
    this.#path = path;
    this.#superblock = superblock;
    this.#descriptors = descriptors;
    this.blocks = superblock.readUInt32LE(0x04) + superblock.readUInt32LE(0x150) * 2 ** 32;
    this.inodes = superblock.readUInt32LE(0x00);
    this.blocksPerGroup = superblock.readUInt32LE(0x20);
    this.inodesPerGroup = superblock.readUInt32LE(0x28);
    this.seed = crc32c(0xffffffff, superblock, 0x68, 0x78);
    const tableBlocks = Math.ceil((this.inodesPerGroup * INODE_BYTES) / BLOCK_BYTES);
    for (let group = 0; group < this.groups; group++) {
      this.#tables.push({ start: this.#at(group, 0x00), count: 1 }, { start: this.#at(group, 0x04), count: 1 });
      this.#tables.push({ start: this.#at(group, 0x08), count: tableBlocks });
    }
  }

  /** @param path of a file system with blocks of 4096 and inodes of 256 bytes, descriptors of 64, and checksums */
  static async open(file: FileHandle, path: string): Promise<Ext4Groups> {
    const superblock = Buffer.alloc(1024);
    await file.read(superblock, 0, 1024, SUPERBLOCK_AT);
    const expected =
      superblock.readUInt16LE(0x38) === 0xef53 &&
      superblock.readUInt32LE(0x18) === 2 &&
      superblock.readUInt16LE(0x58) === INODE_BYTES &&
      superblock.readUInt16LE(0xfe) === DESCRIPTOR_BYTES;
    if (!expected)
      throw new BangerError('internal', `mke2fs made another file system of ${path} than it was asked to.`);
    const blocks = superblock.readUInt32LE(0x04) + superblock.readUInt32LE(0x150) * 2 ** 32;
    const descriptors = Buffer.alloc(Math.ceil(blocks / superblock.readUInt32LE(0x20)) * DESCRIPTOR_BYTES);
    await file.read(descriptors, 0, descriptors.length, BLOCK_BYTES);
    return new Ext4Groups(file, path, superblock, descriptors);
  }

  get groups(): number {
    return Math.ceil(this.blocks / this.blocksPerGroup);
  }

  /** Byte offset of an inode in the file. */
  inodeAt(inode: number): number {
    const group = Math.floor((inode - 1) / this.inodesPerGroup);
    return this.#at(group, 0x08) * BLOCK_BYTES + ((inode - 1) % this.inodesPerGroup) * INODE_BYTES;
  }

  takeInode(isDirectory: boolean): number {
    const inode = this.#nextInode++;
    if (inode > this.inodes) throw this.#full('inodes');
    if (isDirectory) this.countDirectory(inode);
    return inode;
  }

  countDirectory(inode: number): void {
    const group = Math.floor((inode - 1) / this.inodesPerGroup);
    this.#dirsIn.set(group, (this.#dirsIn.get(group) ?? 0) + 1);
  }

  /** The next free blocks: as few runs as there can be, each no longer than one extent. */
  async takeBlocks(count: number): Promise<Run[]> {
    const runs: Run[] = [];
    for (let left = count; left > 0; ) {
      if (this.#cursor >= this.blocks) throw this.#full('blocks');
      const group = Math.floor(this.#cursor / this.blocksPerGroup);
      const bitmap = this.#bitmaps.get(group) ?? (await this.#loadBitmap(group));
      const bit = this.#cursor % this.blocksPerGroup;
      const mask = 1 << (bit & 7);
      const byte = bitmap[bit >> 3] ?? 0;
      if ((byte & mask) === 0) {
        bitmap[bit >> 3] = byte | mask;
        const last = runs.at(-1);
        if (last && last.start + last.count === this.#cursor && last.count < MAX_RUN) last.count += 1;
        else runs.push({ start: this.#cursor, count: 1 });
        this.#taken += 1;
        left -= 1;
        this.#addFree(group, 0x0c, 0x2c, -1);
      }
      this.#cursor += 1;
    }
    return runs;
  }

  /** Writes bitmaps, descriptors and superblock as they are after everything was taken. */
  async finish(): Promise<void> {
    for (const [group, bitmap] of this.#bitmaps) {
      await writeAll(this.#file, bitmap, this.#at(group, 0x00) * BLOCK_BYTES);
      this.#setFlag(group, BLOCK_UNINIT, false);
      this.#setChecksum(group, 0x18, 0x38, crc32c(this.seed, bitmap, 0, this.blocksPerGroup / 8));
    }
    await this.#finishInodes();
    for (let group = 0; group < this.groups; group++) this.#sealDescriptor(group);
    await writeAll(this.#file, this.#descriptors, BLOCK_BYTES);
    const free = this.#superblock.readUInt32LE(0x0c) + this.#superblock.readUInt32LE(0x158) * 2 ** 32 - this.#taken;
    this.#superblock.writeUInt32LE(free % 2 ** 32, 0x0c);
    this.#superblock.writeUInt32LE(Math.floor(free / 2 ** 32), 0x158);
    const used = this.#nextInode - FIRST_INODE;
    this.#superblock.writeUInt32LE(this.#superblock.readUInt32LE(0x10) - used, 0x10);
    this.#superblock.writeUInt32LE(crc32c(0xffffffff, this.#superblock, 0, 0x3fc), 0x3fc);
    await writeAll(this.#file, this.#superblock, SUPERBLOCK_AT);
  }

  async #finishInodes(): Promise<void> {
    const end = this.#nextInode - 1;
    for (let group = 0; group * this.inodesPerGroup < end; group++) {
      const used = Math.min(this.inodesPerGroup, end - group * this.inodesPerGroup);
      const before = group === 0 ? FIRST_INODE - 1 : 0;
      // what is behind the last inode counts as taken
      const bitmap = Buffer.alloc(BLOCK_BYTES, 0xff);
      bitmap.fill(0, 0, this.inodesPerGroup / 8);
      for (let bit = 0; bit < used; bit++) bitmap[bit >> 3] = (bitmap[bit >> 3] ?? 0) | (1 << (bit & 7));
      await writeAll(this.#file, bitmap, this.#at(group, 0x04) * BLOCK_BYTES);
      this.#setFlag(group, INODE_UNINIT, false);
      this.#setChecksum(group, 0x1a, 0x3a, crc32c(this.seed, bitmap, 0, this.inodesPerGroup / 8));
      this.#addFree(group, 0x0e, 0x2e, -(used - before));
      this.#addFree(group, 0x10, 0x30, this.#dirsIn.get(group) ?? 0);
      const unused = this.inodesPerGroup - used;
      const at = group * DESCRIPTOR_BYTES;
      this.#descriptors.writeUInt16LE(unused & 0xffff, at + 0x1c);
      this.#descriptors.writeUInt16LE(unused >>> 16, at + 0x32);
    }
  }

  /** Block number in a descriptor whose two halves stand 0x20 apart. */
  #at(group: number, offset: number): number {
    const at = group * DESCRIPTOR_BYTES + offset;
    return this.#descriptors.readUInt32LE(at) + this.#descriptors.readUInt32LE(at + 0x20) * 2 ** 32;
  }

  #addFree(group: number, low: number, high: number, amount: number): void {
    const at = group * DESCRIPTOR_BYTES;
    const value =
      this.#descriptors.readUInt16LE(at + low) + this.#descriptors.readUInt16LE(at + high) * 65_536 + amount;
    this.#descriptors.writeUInt16LE(value & 0xffff, at + low);
    this.#descriptors.writeUInt16LE(value >>> 16, at + high);
  }

  #setFlag(group: number, flag: number, on: boolean): void {
    const at = group * DESCRIPTOR_BYTES + 0x12;
    const flags = this.#descriptors.readUInt16LE(at);
    this.#descriptors.writeUInt16LE(on ? flags | flag : flags & ~flag, at);
  }

  #setChecksum(group: number, low: number, high: number, sum: number): void {
    this.#descriptors.writeUInt16LE(sum & 0xffff, group * DESCRIPTOR_BYTES + low);
    this.#descriptors.writeUInt16LE(sum >>> 16, group * DESCRIPTOR_BYTES + high);
  }

  #sealDescriptor(group: number): void {
    const at = group * DESCRIPTOR_BYTES;
    this.#descriptors.writeUInt16LE(0, at + 0x1e);
    const sum = crc32c(crc32cOfNumber(this.seed, group), this.#descriptors, at, at + DESCRIPTOR_BYTES);
    this.#descriptors.writeUInt16LE(sum & 0xffff, at + 0x1e);
  }

  async #loadBitmap(group: number): Promise<Buffer> {
    const bitmap = Buffer.alloc(BLOCK_BYTES);
    if (this.#descriptors.readUInt16LE(group * DESCRIPTOR_BYTES + 0x12) & BLOCK_UNINIT)
      this.#deriveBitmap(group, bitmap);
    else await this.#file.read(bitmap, 0, BLOCK_BYTES, this.#at(group, 0x00) * BLOCK_BYTES);
    this.#bitmaps.set(group, bitmap);
    await this.#turn();
    return bitmap;
  }

  /** Of a group that mke2fs wrote none for: only tables are in it, and a copy of the superblock. */
  #deriveBitmap(group: number, bitmap: Buffer): void {
    const first = group * this.blocksPerGroup;
    const set = (start: number, count: number) => {
      const from = Math.max(start, first);
      const to = Math.min(start + count, first + this.blocksPerGroup);
      for (let bit = from - first; bit < to - first; bit++)
        bitmap[bit >> 3] = (bitmap[bit >> 3] ?? 0) | (1 << (bit & 7));
    };
    if (hasSuperblock(group)) {
      const copies = Math.ceil((this.groups * DESCRIPTOR_BYTES) / BLOCK_BYTES) + this.#superblock.readUInt16LE(0xce);
      set(first, 1 + copies);
    }
    for (const { start, count } of this.#tables) set(start, count);
    if (first + this.blocksPerGroup > this.blocks) set(this.blocks, this.blocksPerGroup);
  }

  #full(what: string): BangerError {
    return new BangerError('internal', `The file system in ${this.#path} was made too small: it has no ${what} left.`);
  }
}

/** Of `sparse_super`: groups 0 and 1, and the powers of 3, 5 and 7. */
function hasSuperblock(group: number): boolean {
  if (group <= 1) return true;
  return [3, 5, 7].some((base) => {
    let power = base;
    while (power < group) power *= base;
    return power === group;
  });
}
