/**
 * The fs-verity digest of a file, as the kernel's Documentation/filesystems/fsverity.rst defines it: a Merkle tree of
 * SHA-256 over blocks of 4096 bytes. Unlike a sum over the whole file it costs only what the file really holds,
 * because every hole of a size has the same digest. The tree's branches give the digests of parts of the file too.
 */
import { hash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import { throwIfCancelled } from './abort.ts';
import { type DataRange, dataRanges, loadSeek, type Seek } from './holes.ts';

/** Says in front of a digest what it is; `fsverity digest` prints the rest. */
export const VERITY_PREFIX = 'fsverity-sha256:';

const BLOCK_BYTES = 4096;
const HASH_BYTES = 32;
const HASHES_PER_BLOCK = BLOCK_BYTES / HASH_BYTES;
const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

/** What one hash of the tree's third level stands for, so that the digests of parts cost nothing: 64 MiB. */
export const PART_BYTES = BLOCK_BYTES * HASHES_PER_BLOCK ** 2;
/** The lowest level of the tree is 0. */
const PART_LEVEL = 2;

/** Hashed in 1 to 2 ms, for which nothing else is answered; whole blocks. */
const PIECE_BYTES = 1024 * 1024;

/** `struct fsverity_descriptor`, with version 1 and `FS_VERITY_HASH_ALG_SHA256`; no salt, no signature. */
const DESCRIPTOR = { bytes: 256, version: 1, algorithm: 1, logBlockSize: 12, sizeAt: 8, rootAt: 16 };

export interface VerityOptions {
  signal?: AbortSignal;
  /** called with the bytes dealt with since the last call, holes included */
  onBytes?: (bytes: number) => void;
  /** how holes are found; the C library's lseek by default, without which everything is read */
  seek?: Seek;
}

export interface PartedDigest {
  /** 64 hexadecimal digits, those that `fsverity digest FILE` prints */
  digest: string;
  /** bytes of the file */
  size: number;
  /**
   * Digests of its parts of 64 MiB, each as if it were a file of its own, by the offset of their first byte. Whole parts
   * of zeros are left out; a file of one part has none.
   */
  parts: Record<string, string>;
}

/**
 * @returns `fsverity-sha256:` and 64 hexadecimal digits, which are those that `fsverity digest FILE` prints
 * @throws BangerError `conflict` when the file becomes shorter meanwhile
 */
export async function verityDigest(path: string, options: VerityOptions = {}): Promise<string> {
  return `${VERITY_PREFIX}${(await partedDigest(path, options)).digest}`;
}

/** @throws BangerError `conflict` when the file becomes shorter meanwhile */
export async function partedDigest(path: string, options: VerityOptions = {}): Promise<PartedDigest> {
  await using file = await open(path);
  const { size } = await file.stat();
  const tree = createTree(size);
  const pieces = piecesOf(dataRanges(file.fd, size, options.seek ?? (await loadSeek())), size);
  const bufferBytes = Math.min(PIECE_BYTES, size);
  let buffer = Buffer.allocUnsafe(bufferBytes);
  let spare = Buffer.allocUnsafe(bufferBytes);
  const read = (into: Buffer) => {
    const { value: piece } = pieces.next();
    return piece && { ...piece, done: readWhole(file, into.subarray(0, piece.end - piece.start), piece.start, path) };
  };
  let told = 0;
  const tell = (end: number) => {
    options.onBytes?.(end - told);
    told = end;
  };
  let reading = read(buffer);
  while (reading) {
    const { start, end, done } = reading;
    await done;
    throwIfCancelled(options.signal);
    tell(end);
    // the next piece is read by another thread while this one is hashed
    reading = read(spare);
    tree.addHole(start);
    tree.addData(buffer.subarray(0, end - start));
    [buffer, spare] = [spare, buffer];
  }
  if (told < size) tell(size);
  return { digest: digestOf(size, tree.root()), size, parts: tree.parts() };
}

/** Whole blocks of the ranges (the last one of the file as long as it is), no piece longer than a buffer. */
function* piecesOf(ranges: Iterable<DataRange>, sizeBytes: number): Generator<DataRange> {
  for (const range of ranges) {
    const end = Math.min(Math.ceil(range.end / BLOCK_BYTES) * BLOCK_BYTES, sizeBytes);
    let start = Math.floor(range.start / BLOCK_BYTES) * BLOCK_BYTES;
    for (; start < end; start += PIECE_BYTES) yield { start, end: Math.min(start + PIECE_BYTES, end) };
  }
}

async function readWhole(file: FileHandle, into: Buffer, position: number, path: string): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0)
      throw new BangerError('conflict', `${path} became shorter while it was read.`, {
        hint: `Let whatever writes to it end first: fuser -v ${path}`,
      });
    done += bytesRead;
  }
}

interface Tree {
  /** Zeros up to an offset, which is that of a block. */
  addHole(end: number): void;
  /** What follows: whole blocks, or the end of the file. */
  addData(data: Buffer): void;
  /** Root hash once all is added; what is missing of the file is a hole. */
  root(): string;
  /** After `root`: the digests of parts, as `PartedDigest` has them. */
  parts(): Record<string, string>;
}

/** Hashes that wait for their block to be full, which then goes up as one hash. */
interface Level {
  block: Buffer;
  filledBytes: number;
  /** hashes that were added, those of closed blocks included */
  count: number;
  /** hash at this level of a part of the file that is all zeros, in hexadecimal */
  zeroHash: string;
  /** undefined for the root, which is one hash */
  above: Level | undefined;
  /** told each hash that is not `zeroHash`, and how many were before it */
  onHash?: (hex: string, index: number) => void;
}

function createTree(sizeBytes: number): Tree {
  const [lowest, ...higher] = createLevels(sizeBytes);
  const roots = new Map<number, string>();
  const partLevel = higher[PART_LEVEL - 1];
  if (partLevel && sizeBytes > PART_BYTES) partLevel.onHash = (hex, index) => roots.set(index, hex);
  let blocks = 0;
  const addHole = (end: number) => {
    const count = Math.ceil(end / BLOCK_BYTES) - blocks;
    blocks += count;
    addZeros(lowest, count);
  };
  return {
    addHole,
    addData(data) {
      for (let offset = 0; offset < data.length; offset += BLOCK_BYTES) {
        const block = data.subarray(offset, offset + BLOCK_BYTES);
        const isZero = block.equals(ZERO_BLOCK);
        addHash(lowest, isZero ? lowest.zeroHash : sha256(padded(block)));
        blocks++;
      }
    },
    root() {
      addHole(sizeBytes);
      let level = lowest;
      for (; level.above; level = level.above) {
        if (level.filledBytes > 0) closeBlock(level, level.above);
      }
      return firstHash(level);
    },
    parts() {
      const digests: Record<string, string> = {};
      for (const [index, root] of roots) {
        const offset = index * PART_BYTES;
        const bytes = Math.min(PART_BYTES, sizeBytes - offset);
        digests[offset] = digestOf(bytes, shortRoot(bytes) ?? root);
      }
      return digests;
    },
  };

  /** Root hash of a part of few blocks at the end: as a file of its own it has fewer levels than its branch has. */
  function shortRoot(partBytes: number): string | undefined {
    if (partBytes <= BLOCK_BYTES) return firstHash(lowest);
    return partBytes <= BLOCK_BYTES * HASHES_PER_BLOCK && higher[0] ? firstHash(higher[0]) : undefined;
  }
}

/** @returns first the level of the hashes of data blocks; for a file of one block it is the root as well */
function createLevels(sizeBytes: number): [Level, ...Level[]] {
  const create = (zeroHash: string): Level => ({
    block: Buffer.alloc(BLOCK_BYTES),
    filledBytes: 0,
    count: 0,
    zeroHash,
    above: undefined,
  });
  let level = create(sha256(ZERO_BLOCK));
  const levels: [Level, ...Level[]] = [level];
  for (let n = Math.ceil(sizeBytes / BLOCK_BYTES); n > 1; n = Math.ceil(n / HASHES_PER_BLOCK)) {
    level.above = create(sha256(Buffer.alloc(BLOCK_BYTES, level.zeroHash, 'hex')));
    level = level.above;
    levels.push(level);
  }
  return levels;
}

/** What the block that was begun or closed last begins with. */
function firstHash(level: Level): string {
  return level.block.toString('hex', 0, HASH_BYTES);
}

function addHash(level: Level, hex: string): void {
  if (hex !== level.zeroHash) level.onHash?.(hex, level.count);
  level.count++;
  level.filledBytes += level.block.write(hex, level.filledBytes, 'hex');
  if (level.filledBytes === BLOCK_BYTES && level.above) closeBlock(level, level.above);
}

function closeBlock(level: Level, above: Level): void {
  level.block.fill(0, level.filledBytes);
  level.filledBytes = 0;
  addHash(above, sha256(level.block));
}

/** Whole blocks of hashes of zeros have one constant hash too, so a hole of any size takes a few hundred steps. */
function addZeros(level: Level, count: number): void {
  for (let left = count; left > 0; ) {
    const whole = level.filledBytes === 0 && level.above ? Math.floor(left / HASHES_PER_BLOCK) : 0;
    if (whole > 0 && level.above) {
      addZeros(level.above, whole);
      level.count += whole * HASHES_PER_BLOCK;
    } else addHash(level, level.zeroHash);
    left -= whole > 0 ? whole * HASHES_PER_BLOCK : 1;
  }
}

function padded(block: Buffer): Buffer {
  return block.length === BLOCK_BYTES ? block : Buffer.concat([block], BLOCK_BYTES);
}

/** In hexadecimal: a string is made faster than a buffer, by a quarter of all of this. */
function sha256(block: Buffer): string {
  return hash('sha256', block, 'hex');
}

function digestOf(sizeBytes: number, root: string): string {
  const descriptor = Buffer.alloc(DESCRIPTOR.bytes);
  descriptor.set([DESCRIPTOR.version, DESCRIPTOR.algorithm, DESCRIPTOR.logBlockSize]);
  descriptor.writeBigUInt64LE(BigInt(sizeBytes), DESCRIPTOR.sizeAt);
  descriptor.write(root, DESCRIPTOR.rootAt, 'hex');
  return sha256(descriptor);
}
