/**
 * Fills an ext4 file system with a tree of files, without mounting it and without a file of the tree ever being one of the host's.
 * mke2fs makes it empty; owners, modes, attributes, links and devices are written into it as they are to be in the guest.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { eachNode, type FileNode, piecesOf } from '../core/file-tree.ts';
import { turnsAfter } from '../system/turns.ts';
import { MIB } from '../units.ts';
import { crc32c, crc32cOfNumber } from './crc32c.ts';
import { BLOCK_BYTES, Ext4Groups, INODE_BYTES, type Run } from './ext4-groups.ts';
import {
  directoryBlocks,
  type Extent,
  encodeDirectory,
  encodeExtents,
  encodeInode,
  INSIDE_BYTES,
  inlineMap,
  inodeSeed,
  MAX_INLINE_LINK,
  mapBlocks,
} from './ext4-inode.ts';
import { storeAttributes, XATTR_CHECKSUM_AT } from './ext4-xattrs.ts';
import { HoleWriter } from './hole-writer.ts';

const ROOT = 2;
const LOST_FOUND = 11;
/** More names than this a directory's count of links does not tell. */
const MAX_LINKS = 65_000;
/** So many names at once, then others have a turn. */
const NAMES_AT_ONCE = 1000;

/** Features every kernel since 4.x reads. */
const FEATURES = [
  ...['has_journal', 'ext_attr', 'resize_inode', 'dir_index', 'filetype', 'extent', '64bit', 'flex_bg'],
  ...['sparse_super', 'large_file', 'huge_file', 'dir_nlink', 'extra_isize', 'metadata_csum'],
];

/** What mke2fs is told after its name, for a file of the right size that is one hole. */
export function mke2fsOptions(inodes: number, path: string): string[] {
  return [
    ...['-q', '-F', '-t', 'ext4', '-m', '0', '-b', String(BLOCK_BYTES), '-I', String(INODE_BYTES)],
    ...['-N', String(inodes), '-L', 'banger-root', '-O', `none,${FEATURES.join(',')}`],
    ...['-E', 'root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1,assume_storage_prezeroed=1,nodiscard'],
    path,
  ];
}

export interface TreeSize {
  /** `bytes` a file system needs for it */
  bytes: number;
  inodes: number;
}

/** What a file system for a tree must have, and room to live in. */
export async function sizeOfTree(root: FileNode): Promise<TreeSize> {
  const turn = turnsAfter(NAMES_AT_ONCE);
  let blocks = 0;
  let inodes = 0;
  for (const node of eachNode(root)) {
    inodes += 1;
    if (node.children) blocks += directoryBlocks(node.children.keys());
    else blocks += dataRanges(node).reduce((sum, { count }) => sum + count, 0);
    if (node.xattrs) blocks += 1;
    if ((node.target?.length ?? 0) > MAX_INLINE_LINK) blocks += 1;
    if (node.pieces) blocks += mapBlocks(node.pieces.length);
    const pending = turn(1 + (node.children?.size ?? 0));
    if (pending) await pending;
  }
  const withRoom = Math.ceil(inodes * 1.25) + 4096;
  const content = blocks * BLOCK_BYTES + withRoom * INODE_BYTES;
  // tables, a journal of up to 128 MiB, and what a guest writes before it is given a larger disk
  const bytes = content + Math.ceil(content / 8) + 96 * MIB + (content > 512 * MIB ? 128 * MIB : 0);
  return { bytes: Math.ceil(bytes / (4 * MIB)) * 4 * MIB, inodes: withRoom };
}

/** Blocks of a file that hold data, by their number in the file. */
function dataRanges(node: FileNode): { first: number; count: number }[] {
  const ranges: { first: number; count: number }[] = [];
  for (const { offset, length } of piecesOf(node)) {
    const first = Math.floor(offset / BLOCK_BYTES);
    const end = Math.ceil((offset + length) / BLOCK_BYTES);
    const last = ranges.at(-1);
    if (last && last.first + last.count >= first) last.count = Math.max(last.count, end - last.first);
    else ranges.push({ first, count: end - first });
  }
  return ranges;
}

interface Placed {
  inode: number;
  links: number;
  extents: Extent[];
  /** of a directory: inode of the one it is in */
  parent: number;
}

export class Ext4Writer implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #groups: Ext4Groups;
  readonly #writer: HoleWriter;
  readonly #placed = new Map<FileNode, Placed>();
  readonly #root: FileNode;

  private constructor(file: FileHandle, groups: Ext4Groups, root: FileNode) {
    this.#file = file;
    this.#groups = groups;
    this.#writer = new HoleWriter(file);
    this.#root = root;
  }

  /**
   * Gives everything in the tree its place.
   * @param path what mke2fs has made as `mke2fsOptions` says, of at least `sizeOfTree`
   */
  static async open(path: string, root: FileNode): Promise<Ext4Writer> {
    const file = await open(path, 'r+');
    try {
      const writer = new Ext4Writer(file, await Ext4Groups.open(file, path), root);
      await writer.#place();
      return writer;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Writes a part of a file's data.
   * @param offset from the beginning of the file; the bytes must be in one of its pieces
   */
  write(node: FileNode, offset: number, bytes: Buffer): Promise<void> | undefined {
    const extents = this.#placed.get(node)?.extents ?? [];
    const at = extentAt(extents, Math.floor(offset / BLOCK_BYTES));
    const extent = extents[at];
    if (!extent) return undefined;
    const inside = offset - extent.logical * BLOCK_BYTES;
    const room = extent.count * BLOCK_BYTES - inside;
    const position = extent.start * BLOCK_BYTES + inside;
    if (bytes.length <= room) return this.#writer.write(position, bytes);
    return this.#writeAcross(node, offset, bytes, position, room);
  }

  /** Writes all that is not data of files. */
  async finish(): Promise<void> {
    // in the order of their inodes, but for `lost+found`
    for (const [node, placed] of this.#placed) {
      const raw = await this.#content(node, placed);
      // between them are inodes of mke2fs
      await this.#writer.write(this.#groups.inodeAt(placed.inode), raw, false);
    }
    await this.#writer.flush();
    await this.#groups.finish();
    await this.#file.sync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async #writeAcross(node: FileNode, offset: number, bytes: Buffer, position: number, room: number): Promise<void> {
    await this.#writer.write(position, bytes.subarray(0, room));
    await this.write(node, offset + room, bytes.subarray(room));
  }

  async #place(): Promise<void> {
    this.#placed.set(this.#root, { inode: ROOT, links: 2, extents: [], parent: ROOT });
    const files: FileNode[] = [];
    const turn = turnsAfter(NAMES_AT_ONCE);
    for (const node of eachNode(this.#root)) {
      const { inode } = this.#placed.get(node) as Placed;
      for (const [name, child] of node.children ?? []) {
        const pending = turn();
        if (pending) await pending;
        const there = this.#placed.get(child);
        if (there) {
          there.links += 1;
          continue;
        }
        const isDirectory = child.kind === 'directory';
        const isLostFound = node === this.#root && name === 'lost+found' && isDirectory;
        const number = isLostFound ? LOST_FOUND : this.#groups.takeInode(isDirectory);
        this.#placed.set(child, { inode: number, links: isDirectory ? 2 : 1, extents: [], parent: inode });
        if (isDirectory) (this.#placed.get(node) as Placed).links += 1;
        else if (child.source) files.push(child);
      }
    }
    await this.#keepBlocks(this.#root, ROOT);
    const lostFound = this.#root.children?.get('lost+found');
    if (lostFound?.kind === 'directory') await this.#keepBlocks(lostFound, LOST_FOUND);
    // in the order in which it will come
    files.sort((a, b) => order(a) - order(b) || (a.source?.entry ?? 0) - (b.source?.entry ?? 0));
    for (const node of files) {
      const placed = this.#placed.get(node) as Placed;
      for (const { first, count } of dataRanges(node)) {
        let logical = first;
        for (const { start, count: length } of await this.#groups.takeBlocks(count)) {
          placed.extents.push({ logical, start, count: length });
          logical += length;
        }
      }
      const pending = turn();
      if (pending) await pending;
    }
  }

  /** Directories that mke2fs has made keep the blocks they have. */
  async #keepBlocks(node: FileNode, inode: number): Promise<void> {
    const raw = Buffer.alloc(INODE_BYTES);
    await this.#file.read(raw, 0, INODE_BYTES, this.#groups.inodeAt(inode));
    const placed = this.#placed.get(node) as Placed;
    for (let index = 0; index < raw.readUInt16LE(0x28 + 2); index++) {
      const at = 0x28 + 12 + index * 12;
      const start = raw.readUInt16LE(at + 6) * 2 ** 32 + raw.readUInt32LE(at + 8);
      placed.extents.push({ logical: raw.readUInt32LE(at), start, count: raw.readUInt16LE(at + 4) });
    }
  }

  /** Writes what belongs to an inode beside the data of files. @returns the inode */
  async #content(node: FileNode, placed: Placed): Promise<Buffer> {
    const seed = inodeSeed(this.#groups.seed, placed.inode);
    let { sizeBytes, blocks } = { sizeBytes: node.kind === 'file' ? node.size : 0, blocks: 0 };
    if (node.children) sizeBytes = await this.#writeDirectory(seed, node, placed);
    if (node.kind === 'link') sizeBytes = node.target?.length ?? 0;
    if (sizeBytes > MAX_INLINE_LINK && node.kind === 'link') await this.#writeLink(node, placed);
    blocks += placed.extents.reduce((sum, { count }) => sum + count, 0);
    const hasExtents = node.kind === 'file' || node.kind === 'directory' || placed.extents.length > 0;
    let map = inlineMap(node);
    if (hasExtents) {
      const numbers = numbersOf(await this.#groups.takeBlocks(mapBlocks(placed.extents.length)));
      const encoded = encodeExtents(seed, placed.extents, numbers);
      map = encoded.map;
      blocks += numbers.length;
      for (const { number, bytes } of encoded.blocks) await this.#writer.write(number * BLOCK_BYTES, bytes);
    }
    const { inside, block } = storeAttributes(node.xattrs ?? new Map(), INSIDE_BYTES, BLOCK_BYTES);
    const attributeBlock = block && (await this.#writeAttributes(block));
    if (block) blocks += 1;
    // a directory with more directories in it than can be counted says that it does not count them
    const links = node.children && placed.links > MAX_LINKS ? 1 : placed.links;
    const content = { links, sizeBytes, map, hasExtents, blocks, inside, attributeBlock };
    return encodeInode(this.#groups.seed, placed.inode, node, content);
  }

  async #writeDirectory(seed: number, node: FileNode, placed: Placed): Promise<number> {
    const entries = [...(node.children ?? [])].map(([name, child]) => {
      const { inode } = this.#placed.get(child) as Placed;
      return { name, inode, kind: child.kind };
    });
    if (node === this.#root && !node.children?.has('lost+found')) {
      entries.push({ name: 'lost+found', inode: LOST_FOUND, kind: 'directory' });
      placed.links += 1;
    }
    const needed = directoryBlocks(entries.map(({ name }) => name));
    const had = placed.extents.reduce((sum, { count }) => sum + count, 0);
    let logical = had;
    for (const { start, count } of await this.#groups.takeBlocks(Math.max(0, needed - had))) {
      placed.extents.push({ logical, start, count });
      logical += count;
    }
    const encoded = encodeDirectory(seed, placed.inode, placed.parent, entries);
    for (const number of numbersOf(placed.extents)) {
      // what mke2fs gave it beyond that stays, empty
      const { value: block = emptyBlock(seed) } = encoded.next();
      await this.#writer.write(number * BLOCK_BYTES, block);
    }
    return logical * BLOCK_BYTES;
  }

  async #writeLink(node: FileNode, placed: Placed): Promise<void> {
    const [run] = await this.#groups.takeBlocks(1);
    const { start } = run as Run;
    placed.extents.push({ logical: 0, start, count: 1 });
    const block = Buffer.alloc(BLOCK_BYTES);
    block.write(node.target ?? '', 0, 'latin1');
    await this.#writer.write(start * BLOCK_BYTES, block);
  }

  async #writeAttributes(block: Buffer): Promise<number> {
    const [run] = await this.#groups.takeBlocks(1);
    const { start } = run as Run;
    const { seed } = this.#groups;
    const high = Math.floor(start / 2 ** 32);
    block.writeUInt32LE(crc32c(crc32cOfNumber(crc32cOfNumber(seed, start), high), block), XATTR_CHECKSUM_AT);
    await this.#writer.write(start * BLOCK_BYTES, block);
    return start;
  }
}

function order({ source }: FileNode): number {
  return source?.layer ?? 0;
}

function numbersOf(runs: readonly Run[]): number[] {
  return runs.flatMap(({ start, count }) => Array.from({ length: count }, (_, index) => start + index));
}

/** The extent a block of the file is in, by bisection; -1 for a hole. */
function extentAt(extents: readonly Extent[], block: number): number {
  let [low, high] = [0, extents.length - 1];
  while (low <= high) {
    const middle = (low + high) >> 1;
    const { logical, count } = extents[middle] as Extent;
    if (block < logical) high = middle - 1;
    else if (block >= logical + count) low = middle + 1;
    else return middle;
  }
  return -1;
}

/** A block of a directory with nothing in it. */
function emptyBlock(seed: number): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.writeUInt16LE(BLOCK_BYTES - 12, 4);
  block.writeUInt16LE(12, BLOCK_BYTES - 12 + 4);
  block.writeUInt8(0xde, BLOCK_BYTES - 12 + 7);
  block.writeUInt32LE(crc32c(seed, block, 0, BLOCK_BYTES - 12), BLOCK_BYTES - 4);
  return block;
}
