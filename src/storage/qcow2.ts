/**
 * Reads a qcow2 image without its program: what such a file says is not believed, and nothing but the file itself is opened.
 * Format: QEMU, docs/interop/qcow2.txt.
 */
import type { FileHandle } from 'node:fs/promises';
import { inflateRawSync, zstdDecompressSync } from 'node:zlib';
import { BangerError } from '../errors.ts';
import type { Turns } from '../system/turns.ts';

const MAGIC = 0x514649fb;
const HEADER_BYTES = 112;
/** Clusters of 512 bytes to 2 MiB, as QEMU has them. */
const CLUSTER_BITS = { min: 9, max: 21 };
/** Of the table of tables: 2 PiB with clusters of 64 KiB. */
const MAX_TABLES = 4 * 1024 * 1024;
/** In the upper and the lower half of an entry: billions of them may be looked at, which numbers of 64 bits are slow for. */
const OFFSET = { high: 0x00ffffff, low: 0xfffffe00 };
const COMPRESSED = 0x40000000;
const ALL_ZEROS = 1;
/** Tables without data that are remembered: an image may have the same one everywhere. */
const MAX_EMPTY = 65_536;

const INCOMPATIBLE = { dirty: 1, corrupt: 2, externalData: 4, compression: 8, subclusters: 16 };

export function isQcow2(head: Buffer): boolean {
  return head.length >= 8 && head.readUInt32BE(0) === MAGIC;
}

interface Header {
  version: number;
  clusterBits: number;
  /** of the disk in `bytes` */
  sizeBytes: number;
  tables: number;
  tablesAt: number;
  zstd: boolean;
}

export class Qcow2 {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #is: Header;
  readonly #tables: Buffer;
  #table: { at: number; entries: Buffer } | undefined;
  /** places of tables that lead to nothing but zeros */
  readonly #empty = new Set<number>();

  private constructor(file: FileHandle, path: string, header: Header, tables: Buffer) {
    this.#file = file;
    this.#path = path;
    this.#is = header;
    this.#tables = tables;
  }

  /**
   * @throws BangerError `corrupt` for a damaged image, `invalid_input` for one that leads to other files or has a feature that is not
   *   read here
   */
  static async open(file: FileHandle, path: string): Promise<Qcow2> {
    const header = readHeader(await readAt(file, 0, HEADER_BYTES), path);
    const tables = await readAt(file, header.tablesAt, header.tables * 8);
    if (tables.length < header.tables * 8) throw damaged(path, 'it is cut short');
    return new Qcow2(file, path, header, tables);
  }

  get sizeBytes(): number {
    return this.#is.sizeBytes;
  }

  get clusterBytes(): number {
    return 2 ** this.#is.clusterBits;
  }

  /**
   * Where the next cluster with data begins: at `at`, which is the beginning of one, or behind it; `end` when none is before that.
   * @param turn counts entries that are looked at: an image of a few KiB can have billions of clusters without data
   */
  async nextWithData(at: number, end: number, turn: Turns): Promise<number> {
    const { clusterBytes } = this;
    const perTable = this.#perTable;
    for (let number = at / clusterBytes; number * clusterBytes < end; ) {
      const { index, first } = this.#placeOf(number);
      const tableAt = offsetOf(this.#tables, index);
      let looked = 1;
      if (tableAt !== 0 && !this.#empty.has(tableAt)) {
        const entries = await this.#entries(tableAt);
        let next = first;
        while (next < perTable && !this.#hasData(entries, next)) next += 1;
        if (next < perTable) return Math.min((index * perTable + next) * clusterBytes, end);
        if (first === 0 && this.#empty.size < MAX_EMPTY) this.#empty.add(tableAt);
        looked += next - first;
      }
      number = (index + 1) * perTable;
      const pending = turn(looked);
      if (pending) await pending;
    }
    return end;
  }

  /** The cluster that begins at `at`, undefined when it is nothing but zeros. */
  async cluster(at: number): Promise<Buffer | undefined> {
    const { index, first } = this.#placeOf(at / this.clusterBytes);
    const tableAt = offsetOf(this.#tables, index);
    if (tableAt === 0) return undefined;
    const entries = await this.#entries(tableAt);
    if (!this.#hasData(entries, first)) return undefined;
    if (entries.readUInt32BE(first * 8) & COMPRESSED) return await this.#compressed(entries.readBigUInt64BE(first * 8));
    const bytes = await readAt(this.#file, offsetOf(entries, first), this.clusterBytes);
    // the last cluster of a file may be shorter than the others
    if (bytes.length === 0) throw damaged(this.#path, 'it is cut short');
    return bytes;
  }

  get #perTable(): number {
    return this.clusterBytes / 8;
  }

  /** Number of the table of a cluster, and of its entry in that. */
  #placeOf(number: number): { index: number; first: number } {
    const perTable = this.#perTable;
    return { index: Math.floor(number / perTable), first: number % perTable };
  }

  #hasData(entries: Buffer, index: number): boolean {
    if (entries.readUInt32BE(index * 8) & COMPRESSED) return true;
    if (this.#is.version >= 3 && entries.readUInt32BE(index * 8 + 4) & ALL_ZEROS) return false;
    return offsetOf(entries, index) !== 0;
  }

  async #entries(at: number): Promise<Buffer> {
    if (this.#table?.at === at) return this.#table.entries;
    const entries = await readAt(this.#file, at, this.clusterBytes);
    if (entries.length < this.clusterBytes) throw damaged(this.#path, 'it is cut short');
    this.#table = { at, entries };
    return entries;
  }

  async #compressed(entry: bigint): Promise<Buffer> {
    const offsetBits = 62n - BigInt(this.#is.clusterBits - 8);
    const from = Number(entry & ((1n << offsetBits) - 1n));
    const sectors = Number(BigInt.asUintN(62, entry) >> offsetBits) + 1;
    const bytes = await readAt(this.#file, from, sectors * 512 - (from % 512));
    try {
      const options = { maxOutputLength: this.clusterBytes };
      return this.#is.zstd ? zstdDecompressSync(firstFrame(bytes), options) : inflateRawSync(bytes, options);
    } catch (cause) {
      throw damaged(this.#path, 'a compressed cluster cannot be unpacked', cause);
    }
  }
}

function readHeader(head: Buffer, path: string): Header {
  if (head.length < 72 || !isQcow2(head)) throw damaged(path, 'it has no header');
  const version = head.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw unread(path, `is of version ${version} of its format`);
  const isNew = version === 3 && head.length >= 104;
  if (version === 3 && !isNew) throw damaged(path, 'it is cut short');
  if (head.readBigUInt64BE(8) !== 0n) {
    throw new BangerError('invalid_input', `${path} has only what differs from another file: it has a backing file.`, {
      hint: `Make one that is complete, where you trust it: qemu-img convert -O qcow2 ${path} ${path}.complete`,
    });
  }
  if (head.readUInt32BE(32) !== 0) throw unread(path, 'is encrypted');
  const incompatible = isNew ? Number(head.readBigUInt64BE(72) & 0xffffffffn) : 0;
  if (isNew && head.readBigUInt64BE(72) >> 5n !== 0n) throw unread(path, 'has features that are not known here');
  if (incompatible & INCOMPATIBLE.externalData) throw unread(path, 'keeps its data in another file');
  if (incompatible & INCOMPATIBLE.subclusters) throw unread(path, 'has clusters in parts');
  if (incompatible & INCOMPATIBLE.corrupt) throw damaged(path, 'it is marked so');
  const clusterBits = head.readUInt32BE(20);
  const size = head.readBigUInt64BE(24);
  const tables = head.readUInt32BE(36);
  const tablesAt = head.readBigUInt64BE(40);
  const known = clusterBits >= CLUSTER_BITS.min && clusterBits <= CLUSTER_BITS.max;
  const needed = known ? Math.ceil(Number(size) / 2 ** (2 * clusterBits - 3)) : 0;
  const whole = size <= BigInt(Number.MAX_SAFE_INTEGER) && tablesAt <= BigInt(Number.MAX_SAFE_INTEGER);
  if (!known || !whole || tables > MAX_TABLES || tables < needed) throw damaged(path, 'its header contradicts itself');
  const headerBytes = isNew ? head.readUInt32BE(100) : 72;
  const compression = incompatible & INCOMPATIBLE.compression && headerBytes > 104 ? head.readUInt8(104) : 0;
  if (compression > 1) throw unread(path, 'is compressed in a way that is not known here');
  return {
    ...{ version, clusterBits, tables },
    ...{ sizeBytes: Number(size), tablesAt: Number(tablesAt), zstd: compression === 1 },
  };
}

/** Without what follows it up to the end of its sector: RFC 8878, 3.1.1. */
function firstFrame(bytes: Buffer): Buffer {
  const flags = bytes.readUInt8(4);
  const single = (flags & 0x20) !== 0;
  const sizeBytes = [single ? 1 : 0, 2, 4, 8][flags >> 6] ?? 0;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3] ?? 0;
  let at = 5 + (single ? 0 : 1) + dictionaryBytes + sizeBytes;
  for (let last = false; !last; ) {
    const header = bytes.readUIntLE(at, 3);
    last = (header & 1) === 1;
    at += 3 + (((header >> 1) & 3) === 1 ? 1 : header >> 3);
  }
  return bytes.subarray(0, at + (flags & 4 ? 4 : 0));
}

function offsetOf(table: Buffer, index: number): number {
  const high = table.readUInt32BE(index * 8) & OFFSET.high;
  return high * 2 ** 32 + ((table.readUInt32BE(index * 8 + 4) & OFFSET.low) >>> 0);
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  // no file has so much
  if (!Number.isSafeInteger(position + length)) return Buffer.alloc(0);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function unread(path: string, what: string): BangerError {
  return new BangerError('invalid_input', `${path} is a qcow2 disk image that ${what}.`, {
    hint: `Make a plain one of it: qemu-img convert -O raw ${path} ${path}.raw`,
  });
}

function damaged(path: string, why: string, cause?: unknown): BangerError {
  return new BangerError('corrupt', `The qcow2 disk image ${path} is damaged: ${why}.`, {
    ...(cause === undefined ? {} : { cause }),
    hint: `Get it again, or look at it: qemu-img check ${path}`,
  });
}
