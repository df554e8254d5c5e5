/** Inodes, maps of extents and blocks of directories in the form that ext4 has them on disk (Linux, fs/ext4/ext4.h). */
import type { FileNode } from '../core/file-tree.ts';
import { crc32c, crc32cOfNumber } from './crc32c.ts';
import { BLOCK_BYTES, INODE_BYTES } from './ext4-groups.ts';

/** Blocks of a file that follow each other on disk, too. */
export interface Extent {
  /** number of its first block in the file */
  logical: number;
  start: number;
  count: number;
}

const TYPE_BITS: Readonly<Record<FileNode['kind'], number>> = {
  ...{ fifo: 0o010000, char: 0o020000, directory: 0o040000, block: 0o060000, file: 0o100000, link: 0o120000 },
};
/** In entries of directories. */
const TYPE_CODES: Readonly<Record<FileNode['kind'], number>> = {
  ...{ file: 1, directory: 2, char: 3, block: 4, fifo: 5, link: 7 },
};

const EXTENTS_FLAG = 0x80000;
const EXTRA_BYTES = 32;
/** Where attributes inside of an inode begin, and what there is for them. */
const INSIDE_AT = 128 + EXTRA_BYTES;
export const INSIDE_BYTES = INODE_BYTES - INSIDE_AT;
/** Extents in an inode, and in a block. */
const INODE_EXTENTS = 4;
const BLOCK_EXTENTS = Math.floor((BLOCK_BYTES - 12) / 12);
/** A link up to this length is in the inode. */
export const MAX_INLINE_LINK = 59;
const DIRECTORY_TAIL = 12;

export interface InodeContent {
  links: number;
  sizeBytes: number;
  /** the 60 bytes that lead to its data */
  map: Buffer;
  hasExtents: boolean;
  /** blocks it takes, those of its map and attributes included */
  blocks: number;
  inside?: Buffer | undefined;
  /** number of the block with its attributes */
  attributeBlock?: number | undefined;
}

/** What checksums of an inode's blocks begin with; every generation is 0. */
export function inodeSeed(seed: number, inode: number): number {
  return crc32cOfNumber(crc32cOfNumber(seed, inode), 0);
}

export function encodeInode(seed: number, inode: number, node: FileNode, content: InodeContent): Buffer {
  const raw = Buffer.alloc(INODE_BYTES);
  raw.writeUInt16LE(TYPE_BITS[node.kind] | node.mode, 0x00);
  raw.writeUInt16LE(node.uid & 0xffff, 0x02);
  raw.writeUInt32LE(content.sizeBytes % 2 ** 32, 0x04);
  raw.writeUInt16LE(node.gid & 0xffff, 0x18);
  raw.writeUInt16LE(content.links, 0x1a);
  const sectors = content.blocks * (BLOCK_BYTES / 512);
  raw.writeUInt32LE(sectors % 2 ** 32, 0x1c);
  raw.writeUInt32LE(content.hasExtents ? EXTENTS_FLAG : 0, 0x20);
  content.map.copy(raw, 0x28);
  raw.writeUInt32LE(Math.floor(content.sizeBytes / 2 ** 32), 0x6c);
  raw.writeUInt16LE(Math.floor(sectors / 2 ** 32), 0x74);
  raw.writeUInt16LE(node.uid >>> 16, 0x78);
  raw.writeUInt16LE(node.gid >>> 16, 0x7a);
  raw.writeUInt16LE(EXTRA_BYTES, 0x80);
  // access, change, modification and birth, each with what 32 bits do not hold
  const seconds = Math.floor(node.mtime);
  const extra =
    ((Math.floor((node.mtime - seconds) * 1e9) << 2) | (Math.floor((seconds + 2 ** 31) / 2 ** 32) & 3)) >>> 0;
  for (const [at, extraAt] of [
    [0x08, 0x8c],
    [0x0c, 0x84],
    [0x10, 0x88],
    [0x90, 0x94],
  ] as const) {
    raw.writeInt32LE(seconds | 0, at);
    raw.writeUInt32LE(extra, extraAt);
  }
  if (content.attributeBlock !== undefined) {
    raw.writeUInt32LE(content.attributeBlock % 2 ** 32, 0x68);
    raw.writeUInt16LE(Math.floor(content.attributeBlock / 2 ** 32), 0x76);
  }
  content.inside?.copy(raw, INSIDE_AT);
  const sum = crc32c(inodeSeed(seed, inode), raw);
  raw.writeUInt16LE(sum & 0xffff, 0x7c);
  raw.writeUInt16LE(sum >>> 16, 0x82);
  return raw;
}

/** What leads to the data of links, devices and the like, which have no blocks. */
export function inlineMap(node: FileNode): Buffer {
  const map = Buffer.alloc(60);
  if (node.kind === 'link') map.write(node.target ?? '', 0, 'latin1');
  if (node.device) {
    const { major, minor } = node.device;
    if (major < 256 && minor < 256) map.writeUInt32LE((major << 8) | minor, 0);
    else map.writeUInt32LE(((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0, 4);
  }
  return map;
}

/** How many blocks the map of so many extents takes beside the inode. */
export function mapBlocks(extents: number): number {
  if (extents <= INODE_EXTENTS) return 0;
  const leaves = Math.ceil(extents / BLOCK_EXTENTS);
  return leaves + mapBlocks(leaves);
}

/**
 * The map of a file's extents: 60 bytes in its inode, and blocks of their own where there are more than four.
 * @param numbers of as many blocks as `mapBlocks` says
 */
export function encodeExtents(
  seed: number,
  extents: readonly Extent[],
  numbers: readonly number[],
): { map: Buffer; blocks: { number: number; bytes: Buffer }[] } {
  const blocks: { number: number; bytes: Buffer }[] = [];
  const left = [...numbers];
  let depth = 0;
  let entries: Buffer[] = extents.map(({ logical, start, count }) => {
    const entry = Buffer.alloc(12);
    entry.writeUInt32LE(logical, 0);
    entry.writeUInt16LE(count, 4);
    entry.writeUInt16LE(Math.floor(start / 2 ** 32), 6);
    entry.writeUInt32LE(start % 2 ** 32, 8);
    return entry;
  });
  while (entries.length > INODE_EXTENTS) {
    const above: Buffer[] = [];
    for (let at = 0; at < entries.length; at += BLOCK_EXTENTS) {
      const part = entries.slice(at, at + BLOCK_EXTENTS);
      const number = left.shift() ?? 0;
      const bytes = Buffer.alloc(BLOCK_BYTES);
      writeNode(bytes, part, BLOCK_EXTENTS, depth);
      bytes.writeUInt32LE(crc32c(seed, bytes, 0, BLOCK_BYTES - 4), BLOCK_BYTES - 4);
      blocks.push({ number, bytes });
      const index = Buffer.alloc(12);
      index.writeUInt32LE(part[0]?.readUInt32LE(0) ?? 0, 0);
      index.writeUInt32LE(number % 2 ** 32, 4);
      index.writeUInt16LE(Math.floor(number / 2 ** 32), 8);
      above.push(index);
    }
    entries = above;
    depth += 1;
  }
  const map = Buffer.alloc(60);
  writeNode(map, entries, INODE_EXTENTS, depth);
  return { map, blocks };
}

function writeNode(into: Buffer, entries: readonly Buffer[], max: number, depth: number): void {
  into.writeUInt16LE(0xf30a, 0);
  into.writeUInt16LE(entries.length, 2);
  into.writeUInt16LE(max, 4);
  into.writeUInt16LE(depth, 6);
  for (const [index, entry] of entries.entries()) entry.copy(into, 12 + index * 12);
}

interface DirectoryEntry {
  name: string;
  inode: number;
  kind: FileNode['kind'];
}

/** How many blocks a directory takes. */
export function directoryBlocks(names: Iterable<string>): number {
  let blocks = 1;
  let at = 24;
  for (const name of names) {
    const bytes = entryBytes(name);
    if (at + bytes > BLOCK_BYTES - DIRECTORY_TAIL) {
      blocks += 1;
      at = 0;
    }
    at += bytes;
  }
  return blocks;
}

/** Blocks of a directory, as many as `directoryBlocks` says, without an index; the kernel makes one where it grows. */
export function* encodeDirectory(
  seed: number,
  self: number,
  parent: number,
  entries: readonly DirectoryEntry[],
): Generator<Buffer, undefined> {
  let block = Buffer.alloc(BLOCK_BYTES);
  let at = 0;
  let last = 0;
  const sealed = () => {
    block.writeUInt16LE(BLOCK_BYTES - DIRECTORY_TAIL - last, last + 4);
    const tail = BLOCK_BYTES - DIRECTORY_TAIL;
    block.writeUInt16LE(DIRECTORY_TAIL, tail + 4);
    block.writeUInt8(0xde, tail + 7);
    block.writeUInt32LE(crc32c(seed, block, 0, tail), tail + 8);
    return block;
  };
  const own: DirectoryEntry[] = [
    { name: '.', inode: self, kind: 'directory' },
    { name: '..', inode: parent, kind: 'directory' },
  ];
  for (const { name, inode, kind } of [...own, ...entries]) {
    const bytes = entryBytes(name);
    if (at + bytes > BLOCK_BYTES - DIRECTORY_TAIL) {
      yield sealed();
      block = Buffer.alloc(BLOCK_BYTES);
      at = 0;
    }
    block.writeUInt32LE(inode, at);
    block.writeUInt16LE(bytes, at + 4);
    block.writeUInt8(name.length, at + 6);
    block.writeUInt8(TYPE_CODES[kind], at + 7);
    block.write(name, at + 8, 'latin1');
    last = at;
    at += bytes;
  }
  yield sealed();
}

function entryBytes(name: string): number {
  return (8 + name.length + 3) & ~3;
}
