/**
 * Reads inodes, maps of blocks and blocks of an ext4 file system (ext2 and ext3 too) from its image. What an image says is not
 * believed: numbers are checked, and what is read at once is limited. Layout: Linux, fs/ext4/ext4.h.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import { turnsAfter } from '../system/turns.ts';

/** Pieces in which tables of inodes are read, and how many of them are kept. */
const PIECE_BYTES = 64 * 1024;
const KEPT_PIECES = 256;
/** What is read at once of what is not kept. */
const CONTENT_BYTES = 1024 * 1024;

const MAGIC = 0xef53;
const EXTENT_MAGIC = 0xf30a;
const MAX_EXTENT_DEPTH = 5;
/** So many blocks of maps at once, each with hundreds of entries, then others have a turn. */
const MAP_BLOCKS_AT_ONCE = 16;

const INCOMPAT = { recover: 0x4, journalDevice: 0x8, metaGroups: 0x10, wide: 0x80, inlineData: 0x8000 };
const FLAG_EXTENTS = 0x80000;
const FLAG_INLINE = 0x10000000;
/** A length of an extent above this stands for blocks that were never written. */
const MAX_WRITTEN = 32_768;

export const ROOT_INODE = 2;

/** Blocks of a file that follow each other, in the file and on disk. */
export interface BlockRun {
  /** number of the first in the file */
  logical: number;
  start: number;
  count: number;
}

export interface Geometry {
  blockBytes: number;
  blocks: number;
  inodes: number;
  inodesPerGroup: number;
  inodeBytes: number;
  descriptorBytes: number;
  /** where the group descriptors begin */
  descriptorsAt: number;
}

async function readGeometry(file: FileHandle, path: string): Promise<Geometry> {
  const block = Buffer.alloc(1024);
  await file.read(block, 0, 1024, 1024);
  if (block.readUInt16LE(0x38) !== MAGIC) throw damaged(path, 'it holds no ext4 file system');
  const incompat = block.readUInt32LE(0x60);
  if (incompat & INCOMPAT.recover) throw damaged(path, 'its journal was not written back');
  if (incompat & (INCOMPAT.journalDevice | INCOMPAT.metaGroups | INCOMPAT.inlineData)) {
    throw damaged(path, `it has features that are not read here (${incompat.toString(16)})`);
  }
  const wide = (incompat & INCOMPAT.wide) !== 0;
  const logBlock = block.readUInt32LE(0x18);
  const blockBytes = 1024 * 2 ** logBlock;
  const blocks = block.readUInt32LE(0x04) + (wide ? block.readUInt32LE(0x150) * 2 ** 32 : 0);
  const geometry: Geometry = {
    ...{ blockBytes, blocks },
    inodes: block.readUInt32LE(0x00),
    inodesPerGroup: block.readUInt32LE(0x28),
    inodeBytes: block.readUInt32LE(0x4c) === 0 ? 128 : block.readUInt16LE(0x58),
    descriptorBytes: wide ? Math.max(64, block.readUInt16LE(0xfe)) : 32,
    descriptorsAt: (block.readUInt32LE(0x14) + 1) * blockBytes,
  };
  const { size } = await file.stat();
  const { inodeBytes, inodesPerGroup, descriptorBytes } = geometry;
  const possible =
    logBlock <= 6 &&
    blocks * blockBytes <= size &&
    inodesPerGroup > 0 &&
    inodesPerGroup <= 8 * blockBytes &&
    inodeBytes >= 128 &&
    inodeBytes <= blockBytes &&
    Number.isInteger(Math.log2(inodeBytes)) &&
    descriptorBytes <= 1024;
  if (!possible) throw damaged(path, 'its superblock contradicts itself');
  return geometry;
}

export class Ext4Reader implements AsyncDisposable {
  readonly path: string;
  readonly geometry: Geometry;
  readonly #file: FileHandle;
  readonly #pieces = new Map<number, Buffer>();
  readonly #turn = turnsAfter(MAP_BLOCKS_AT_ONCE);
  /** blocks of maps that were read: no two inodes share one */
  #mapBlocks = 0;

  private constructor(file: FileHandle, path: string, geometry: Geometry) {
    this.#file = file;
    this.path = path;
    this.geometry = geometry;
  }

  /**
   * @throws BangerError `corrupt` when it is none that can be read: damaged, of a kind that is not known here, or with a journal that
   *   was not written back
   */
  static async open(path: string): Promise<Ext4Reader> {
    const file = await open(path, 'r');
    try {
      return new Ext4Reader(file, path, await readGeometry(file, path));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async inode(number: number): Promise<Buffer> {
    const { inodes, inodesPerGroup, inodeBytes, descriptorBytes, descriptorsAt, blockBytes } = this.geometry;
    if (number < 1 || number > inodes) throw damaged(this.path, `it names the inode ${number}, which it has not`);
    const group = Math.floor((number - 1) / inodesPerGroup);
    const descriptor = await this.bytes(descriptorsAt + group * descriptorBytes, descriptorBytes);
    const table = descriptor.readUInt32LE(0x08) + (descriptorBytes >= 64 ? descriptor.readUInt32LE(0x28) * 2 ** 32 : 0);
    const at = table * blockBytes + ((number - 1) % inodesPerGroup) * inodeBytes;
    return await this.bytes(at, inodeBytes);
  }

  /** What of an inode's content is on disk, in the order of its map; asked for once for each inode. */
  async *runs(number: number): AsyncGenerator<BlockRun> {
    const raw = await this.inode(number);
    const flags = raw.readUInt32LE(0x20);
    if (flags & FLAG_INLINE)
      throw damaged(this.path, `the content of ${number} is in its inode, which is not read here`);
    const map = raw.subarray(0x28, 0x28 + 60);
    const seen = new Set<number>();
    yield* flags & FLAG_EXTENTS ? this.#extents(map, MAX_EXTENT_DEPTH, seen) : this.#oldMap(map, seen);
  }

  async *#extents(node: Buffer, depthLeft: number, seen: Set<number>): AsyncGenerator<BlockRun> {
    const [magic, entries, depth] = [node.readUInt16LE(0), node.readUInt16LE(2), node.readUInt16LE(6)];
    if (magic !== EXTENT_MAGIC || depth > depthLeft || 12 + entries * 12 > node.length) {
      throw damaged(this.path, 'a map of extents contradicts itself');
    }
    for (let index = 0; index < entries; index++) {
      const at = 12 + index * 12;
      if (depth === 0) {
        const length = node.readUInt16LE(at + 4);
        if (length === 0) throw damaged(this.path, 'a map of extents has one of no length');
        const start = node.readUInt16LE(at + 6) * 2 ** 32 + node.readUInt32LE(at + 8);
        if (length <= MAX_WRITTEN) yield { logical: node.readUInt32LE(at), start, count: length };
      } else {
        const child = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
        yield* this.#extents(await this.#mapBlock(child, seen), depth - 1, seen);
      }
    }
  }

  /** Of file systems that were ext2 or ext3: 12 blocks, then blocks of block numbers, one to three deep. */
  async *#oldMap(map: Buffer, seen: Set<number>): AsyncGenerator<BlockRun> {
    const each = this.geometry.blockBytes / 4;
    let logical = 0;
    for (let index = 0; index < 15; index++) {
      const block = map.readUInt32LE(index * 4);
      const depth = Math.max(0, index - 11);
      if (block !== 0) yield* this.#indirect(block, depth, logical, seen);
      logical += each ** depth;
    }
  }

  async *#indirect(block: number, depth: number, logical: number, seen: Set<number>): AsyncGenerator<BlockRun> {
    if (depth === 0) {
      yield { logical, start: block, count: 1 };
      return;
    }
    const below = (this.geometry.blockBytes / 4) ** (depth - 1);
    const numbers = await this.#mapBlock(block, seen);
    for (let at = 0; at < numbers.length; at += 4) {
      const next = numbers.readUInt32LE(at);
      if (next !== 0) yield* this.#indirect(next, depth - 1, logical + (at / 4) * below, seen);
    }
  }

  /** Blocks that follow each other on disk, piece by piece; nothing of it is kept. */
  async *content({ start, count }: BlockRun): AsyncGenerator<Buffer> {
    const { blocks, blockBytes } = this.geometry;
    if (start < 1 || start + count > blocks) throw damaged(this.path, `it names the block ${start}, which it has not`);
    const at = start * blockBytes;
    const end = at + count * blockBytes;
    for (let from = at; from < end; ) {
      const buffer = Buffer.alloc(Math.min(CONTENT_BYTES, end - from));
      const { bytesRead } = await this.#file.read(buffer, 0, buffer.length, from);
      if (bytesRead === 0) throw damaged(this.path, 'it is cut short');
      yield buffer.subarray(0, bytesRead);
      from += bytesRead;
    }
  }

  async #mapBlock(block: number, seen: Set<number>): Promise<Buffer> {
    if (seen.has(block)) throw damaged(this.path, `the block ${block} is in a map twice`);
    seen.add(block);
    this.#mapBlocks += 1;
    if (this.#mapBlocks > this.geometry.blocks) throw damaged(this.path, 'files of it have the same map');
    const pending = this.#turn();
    if (pending) await pending;
    return await this.block(block);
  }

  async block(block: number): Promise<Buffer> {
    const { blocks, blockBytes } = this.geometry;
    if (block < 1 || block >= blocks) throw damaged(this.path, `it names the block ${block}, which it has not`);
    return await this.bytes(block * blockBytes, blockBytes);
  }

  async bytes(at: number, length: number): Promise<Buffer> {
    if (!Number.isSafeInteger(at + length)) throw damaged(this.path, 'it names a place beyond its end');
    const first = Math.floor(at / PIECE_BYTES);
    const offset = at - first * PIECE_BYTES;
    const piece = await this.#piece(first);
    if (offset + length <= piece.length) return piece.subarray(offset, offset + length);
    const next = offset + length > PIECE_BYTES ? await this.#piece(first + 1) : Buffer.alloc(0);
    const both = Buffer.concat([piece, next]).subarray(offset, offset + length);
    if (both.length < length) throw damaged(this.path, 'it is cut short');
    return both;
  }

  async #piece(index: number): Promise<Buffer> {
    const kept = this.#pieces.get(index);
    if (kept) {
      // the one that was used last goes last
      this.#pieces.delete(index);
      this.#pieces.set(index, kept);
      return kept;
    }
    const buffer = Buffer.alloc(PIECE_BYTES);
    const { bytesRead } = await this.#file.read(buffer, 0, PIECE_BYTES, index * PIECE_BYTES);
    const piece = buffer.subarray(0, bytesRead);
    this.#pieces.set(index, piece);
    const [oldest] = this.#pieces.keys();
    if (this.#pieces.size > KEPT_PIECES && oldest !== undefined) this.#pieces.delete(oldest);
    return piece;
  }
}

export function damaged(path: string, why: string): BangerError {
  return new BangerError('corrupt', `The file system in ${path} cannot be read: ${why}.`, {
    hint: `Look at it: dumpe2fs -h ${path}   e2fsck -fn ${path}`,
  });
}
