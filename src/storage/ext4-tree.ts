/**
 * Reads names and inodes of an ext4 file system from its image, as far as telling two of them apart takes; content of files is not
 * read. What an image says is not believed: numbers are checked, and what is read is limited.
 * Layout: Linux, fs/ext4/ext4.h.
 */
import { BangerError } from '../errors.ts';
import { turnsAfter } from '../system/turns.ts';
import { damaged, Ext4Reader, ROOT_INODE } from './ext4-reader.ts';

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
/** Kept busy for so many nodes, and blocks of directories that may have none, the daemon looks after others. */
const NODES_AT_ONCE = 1000;

const KINDS: Readonly<Record<number, NodeKind>> = { 4: 'directory', 8: 'file', 10: 'link' };

/**
 * @throws BangerError `corrupt` when it is none that can be read: damaged, of a kind that is not known here, or with a journal that
 *   was not written back
 * @param maxEntries how many names one directory may have
 */
export async function openExt4Tree(path: string, maxEntries = MAX_ENTRIES): Promise<Ext4Tree> {
  const reader = await Ext4Reader.open(path);
  try {
    return await new Names(reader, maxEntries).tree();
  } catch (error) {
    await reader[Symbol.asyncDispose]();
    throw error;
  }
}

class Names {
  readonly #reader: Ext4Reader;
  readonly #path: string;
  readonly #maxEntries: number;
  /** directories that were read: none is in two places */
  readonly #read = new Set<number>();
  readonly #turn = turnsAfter(NODES_AT_ONCE);
  #nodes = 0;
  #directoryBytes = 0;

  constructor(reader: Ext4Reader, maxEntries: number) {
    this.#maxEntries = maxEntries;
    this.#reader = reader;
    this.#path = reader.path;
  }

  async tree(): Promise<Ext4Tree> {
    const root = await this.#node(ROOT_INODE);
    if (root.kind !== 'directory') throw damaged(this.#path, 'it has no root directory');
    return {
      root,
      entries: (directory) => this.#entries(directory),
      [Symbol.asyncDispose]: () => this.#reader[Symbol.asyncDispose](),
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
        const pending = this.#turn();
        if (pending) await pending;
        found.set(name, await this.#node(number));
        if (found.size > this.#maxEntries)
          throw tooMuch(this.#path, `more than ${this.#maxEntries} names in one directory`);
      }
    }
    return found;
  }

  /** The blocks of a directory, in the order in which they stand in its map. */
  async *#blocks(inode: number): AsyncGenerator<Buffer> {
    for await (const { start, count } of this.#reader.runs(inode)) {
      for (let block = start; block < start + count; block++) {
        this.#directoryBytes += this.#reader.geometry.blockBytes;
        if (this.#directoryBytes > MAX_DIRECTORY_BYTES) throw tooMuch(this.#path, 'directories of more than 2 GiB');
        const pending = this.#turn();
        if (pending) await pending;
        yield await this.#reader.block(block);
      }
    }
  }

  async #node(number: number): Promise<TreeNode> {
    const raw = await this.#reader.inode(number);
    const mode = raw.readUInt16LE(0x00);
    const kind = KINDS[mode >> 12] ?? 'other';
    const extra = this.#reader.geometry.inodeBytes > 128 ? raw.readUInt16LE(0x80) : 0;
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
      const name = block.toString('latin1', at + 8, at + 8 + nameLength);
      // the kernel makes none of these; whoever writes them past it wants to be somewhere else
      if (/[/\0]/.test(name)) throw damaged(path, 'a directory holds a name with a slash or a zero byte');
      entries.push({ name, number });
    }
    at += length;
  }
  return entries;
}

function tooMuch(path: string, what: string): BangerError {
  return new BangerError('corrupt', `The file system in ${path} has more than is compared: ${what}.`, {
    hint: `Look at it: dumpe2fs -h ${path}`,
  });
}
