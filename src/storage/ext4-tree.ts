/**
 * Reads names and inodes of an ext4 file system from its image, as far as telling two of them apart takes; content of files is not
 * read. What an image says is not believed: numbers are checked, and what is read is limited.
 * Layout: Linux, fs/ext4/ext4.h.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { BangerError } from '../errors.ts';

export type NodeKind = 'file' | 'directory' | 'link' | 'other';

export interface TreeNode {
  /** number of its inode */
  inode: number;
  kind: NodeKind;
  /** changes with everything that is changed about the file itself; of a directory, not with what is in it */
  mark: string;
}

export interface Ext4Tree extends AsyncDisposable {
  root: TreeNode;
  /** What is in a directory by its name, a character for each byte of it; without `.` and `..`. */
  entries(directory: TreeNode): Promise<Map<string, TreeNode>>;
}

/** More than any file system here holds; a larger number is an attempt on our time and memory. */
const MAX_NODES = 4_000_000;
const MAX_DIRECTORY_BYTES = 2 * 1024 ** 3;
/** In one directory, all of which is held and put in order at once; each takes half a kilobyte. */
const MAX_ENTRIES = 200_000;
/** Pieces in which tables of inodes are read, and how many of them are kept. */
const PIECE_BYTES = 64 * 1024;
const KEPT_PIECES = 256;
/** Kept busy for so many nodes, the daemon looks after others. */
const NODES_AT_ONCE = 1000;

const MAGIC = 0xef53;
const EXTENT_MAGIC = 0xf30a;
const ROOT_INODE = 2;
const MAX_EXTENT_DEPTH = 5;

const INCOMPAT = { recover: 0x4, journalDevice: 0x8, metaGroups: 0x10, wide: 0x80, inlineData: 0x8000 };
const FLAG_EXTENTS = 0x80000;
const FLAG_INLINE = 0x10000000;

const KINDS: Readonly<Record<number, NodeKind>> = { 4: 'directory', 8: 'file', 10: 'link' };

interface Geometry {
  blockBytes: number;
  blocks: number;
  inodes: number;
  inodesPerGroup: number;
  inodeBytes: number;
  descriptorBytes: number;
  /** where the group descriptors begin */
  descriptorsAt: number;
}

/**
 * @throws BangerError `corrupt` when it is none that can be read: damaged, of a kind that is not known here, or with a journal that
 *   was not written back
 * @param maxEntries how many names one directory may have
 */
export async function openExt4Tree(path: string, maxEntries = MAX_ENTRIES): Promise<Ext4Tree> {
  const file = await open(path, 'r');
  try {
    const reader = new Reader(file, path, await readGeometry(file, path), maxEntries);
    return await reader.tree();
  } catch (error) {
    await file.close();
    throw error;
  }
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

class Reader {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #is: Geometry;
  readonly #maxEntries: number;
  readonly #pieces = new Map<number, Buffer>();
  /** directories that were read: none is in two places */
  readonly #read = new Set<number>();
  #nodes = 0;
  #directoryBytes = 0;

  constructor(file: FileHandle, path: string, geometry: Geometry, maxEntries: number) {
    this.#maxEntries = maxEntries;
    this.#file = file;
    this.#path = path;
    this.#is = geometry;
  }

  async tree(): Promise<Ext4Tree> {
    const root = await this.#node(ROOT_INODE);
    if (root.kind !== 'directory') throw damaged(this.#path, 'it has no root directory');
    return {
      root,
      entries: (directory) => this.#entries(directory),
      [Symbol.asyncDispose]: () => this.#file.close(),
    };
  }

  async #entries({ inode, kind }: TreeNode): Promise<Map<string, TreeNode>> {
    if (kind !== 'directory') return new Map();
    if (this.#read.has(inode)) throw damaged(this.#path, `the directory ${inode} is in more than one place`);
    this.#read.add(inode);
    const found = new Map<string, TreeNode>();
    for await (const block of this.#blocks(inode)) {
      for (const { name, number } of entriesOf(block, this.#path)) {
        if (name === '.' || name === '..') continue;
        this.#nodes += 1;
        if (this.#nodes > MAX_NODES) throw tooMuch(this.#path, `more than ${MAX_NODES} files`);
        if (this.#nodes % NODES_AT_ONCE === 0) await setImmediate();
        found.set(name, await this.#node(number));
        if (found.size > this.#maxEntries)
          throw tooMuch(this.#path, `more than ${this.#maxEntries} names in one directory`);
      }
    }
    return found;
  }

  async #node(number: number): Promise<TreeNode> {
    const raw = await this.#inode(number);
    const mode = raw.readUInt16LE(0x00);
    const kind = KINDS[mode >> 12] ?? 'other';
    const extra = this.#is.inodeBytes > 128 ? raw.readUInt16LE(0x80) : 0;
    const owner = [0x02, 0x78, 0x18, 0x7a].map((at) => raw.readUInt16LE(at));
    const own = [mode, ...owner];
    const size = [raw.readUInt32LE(0x04), raw.readUInt32LE(0x6c)];
    const changed = [raw.readUInt32LE(0x0c), extra >= 8 ? raw.readUInt32LE(0x84) : 0];
    const written = [raw.readUInt32LE(0x10), extra >= 12 ? raw.readUInt32LE(0x88) : 0];
    // device numbers and the targets of short links stand where others have their blocks
    const inside = kind === 'other' ? raw.toString('hex', 0x28, 0x28 + 60) : '';
    const mark = kind === 'directory' ? own : [...own, ...size, ...changed, ...written, inside];
    return { inode: number, kind, mark: mark.join(' ') };
  }

  async #inode(number: number): Promise<Buffer> {
    const { inodes, inodesPerGroup, inodeBytes, descriptorBytes, descriptorsAt, blockBytes } = this.#is;
    if (number < 1 || number > inodes) throw damaged(this.#path, `it names the inode ${number}, which it has not`);
    const group = Math.floor((number - 1) / inodesPerGroup);
    const descriptor = await this.#bytes(descriptorsAt + group * descriptorBytes, descriptorBytes);
    const table = descriptor.readUInt32LE(0x08) + (descriptorBytes >= 64 ? descriptor.readUInt32LE(0x28) * 2 ** 32 : 0);
    const at = table * blockBytes + ((number - 1) % inodesPerGroup) * inodeBytes;
    return await this.#bytes(at, inodeBytes);
  }

  /** The blocks of a directory, in the order in which they stand in its map. */
  async *#blocks(inode: number): AsyncGenerator<Buffer> {
    const raw = await this.#inode(inode);
    const flags = raw.readUInt32LE(0x20);
    if (flags & FLAG_INLINE)
      throw damaged(this.#path, `the directory ${inode} is in its inode, which is not read here`);
    const map = raw.subarray(0x28, 0x28 + 60);
    const seen = new Set<number>();
    const runs = flags & FLAG_EXTENTS ? this.#extents(map, MAX_EXTENT_DEPTH, seen) : this.#oldMap(map, seen);
    for await (const { start, count } of runs) {
      for (let block = start; block < start + count; block++) {
        this.#directoryBytes += this.#is.blockBytes;
        if (this.#directoryBytes > MAX_DIRECTORY_BYTES) throw tooMuch(this.#path, 'directories of more than 2 GiB');
        yield await this.#block(block);
      }
    }
  }

  async *#extents(
    node: Buffer,
    depthLeft: number,
    seen: Set<number>,
  ): AsyncGenerator<{ start: number; count: number }> {
    const [magic, entries, depth] = [node.readUInt16LE(0), node.readUInt16LE(2), node.readUInt16LE(6)];
    if (magic !== EXTENT_MAGIC || depth > depthLeft || 12 + entries * 12 > node.length) {
      throw damaged(this.#path, 'a map of extents contradicts itself');
    }
    for (let index = 0; index < entries; index++) {
      const at = 12 + index * 12;
      if (depth === 0) {
        const length = node.readUInt16LE(at + 4);
        const start = node.readUInt16LE(at + 6) * 2 ** 32 + node.readUInt32LE(at + 8);
        // a length above this stands for blocks that were never written
        if (length <= 32_768) yield { start, count: length };
      } else {
        const child = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
        yield* this.#extents(await this.#mapBlock(child, seen), depth - 1, seen);
      }
    }
  }

  /** Of file systems that were ext2 or ext3: 12 blocks, then blocks of block numbers, one to three deep. */
  async *#oldMap(map: Buffer, seen: Set<number>): AsyncGenerator<{ start: number; count: number }> {
    for (let index = 0; index < 15; index++) {
      const block = map.readUInt32LE(index * 4);
      if (block !== 0) yield* this.#indirect(block, Math.max(0, index - 11), seen);
    }
  }

  async *#indirect(block: number, depth: number, seen: Set<number>): AsyncGenerator<{ start: number; count: number }> {
    if (depth === 0) {
      yield { start: block, count: 1 };
      return;
    }
    const numbers = await this.#mapBlock(block, seen);
    for (let at = 0; at < numbers.length; at += 4) {
      const next = numbers.readUInt32LE(at);
      if (next !== 0) yield* this.#indirect(next, depth - 1, seen);
    }
  }

  async #mapBlock(block: number, seen: Set<number>): Promise<Buffer> {
    if (seen.has(block)) throw damaged(this.#path, `the block ${block} is in a map twice`);
    seen.add(block);
    return await this.#block(block);
  }

  async #block(block: number): Promise<Buffer> {
    const { blocks, blockBytes } = this.#is;
    if (block < 1 || block >= blocks) throw damaged(this.#path, `it names the block ${block}, which it has not`);
    return await this.#bytes(block * blockBytes, blockBytes);
  }

  async #bytes(at: number, length: number): Promise<Buffer> {
    if (!Number.isSafeInteger(at + length)) throw damaged(this.#path, 'it names a place beyond its end');
    const first = Math.floor(at / PIECE_BYTES);
    const offset = at - first * PIECE_BYTES;
    const piece = await this.#piece(first);
    if (offset + length <= piece.length) return piece.subarray(offset, offset + length);
    const next = offset + length > PIECE_BYTES ? await this.#piece(first + 1) : Buffer.alloc(0);
    const both = Buffer.concat([piece, next]).subarray(offset, offset + length);
    if (both.length < length) throw damaged(this.#path, 'it is cut short');
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

/** Entries of one block; those without an inode are gaps, and what a hash index lies in. */
function entriesOf(block: Buffer, path: string): { name: string; number: number }[] {
  const entries: { name: string; number: number }[] = [];
  for (let at = 0; at + 8 <= block.length; ) {
    const number = block.readUInt32LE(at);
    const coded = block.readUInt16LE(at + 4);
    // 64 KiB do not fit into 16 bits
    const length = block.length === 65_536 && (coded === 0 || coded === 65_535) ? 65_536 : coded;
    const nameLength = block.readUInt8(at + 6);
    if (length < 8 || length % 4 !== 0 || at + length > block.length || 8 + nameLength > length) {
      throw damaged(path, 'a directory contradicts itself');
    }
    if (number !== 0 && nameLength > 0) {
      entries.push({ name: block.toString('latin1', at + 8, at + 8 + nameLength), number });
    }
    at += length;
  }
  return entries;
}

function damaged(path: string, why: string): BangerError {
  return new BangerError('corrupt', `The file system in ${path} cannot be read: ${why}.`, {
    hint: `Look at it: dumpe2fs -h ${path}   e2fsck -fn ${path}`,
  });
}

function tooMuch(path: string, what: string): BangerError {
  return new BangerError('corrupt', `The file system in ${path} has more than is compared: ${what}.`, {
    hint: `Look at it: dumpe2fs -h ${path}`,
  });
}
