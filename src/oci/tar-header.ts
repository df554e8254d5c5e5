/** Fields of tar headers: numbers in octal or base 256, text, PAX records, maps of sparse files. */
import type { DataPiece } from '../core/file-tree.ts';
import { BangerError } from '../errors.ts';

const BLOCK = 512;
const ZEROS = Buffer.alloc(BLOCK);
const LINE_END = 0x0a;

export function isZeros(block: Buffer): boolean {
  return block.equals(ZEROS);
}

/** Up to the first zero byte, a character for each byte. Not cut out of a longer text, which would be kept for its sake. */
export function textOf(block: Buffer, at: number, length: number): string {
  const zero = block.indexOf(0, at);
  return block.toString('latin1', at, zero < 0 ? at + length : Math.min(zero, at + length));
}

/** Octal digits between blanks, or base 256 where the first bit is set. */
export function readNumber(block: Buffer, at: number, length: number): number {
  const first = block.readUInt8(at);
  if ((first & 0x80) !== 0) {
    let value = BigInt(first & 0x40 ? -1 : 0);
    for (let index = 0; index < length; index++) {
      const byte = index === 0 ? first & 0x7f : block.readUInt8(at + index);
      value = index === 0 ? BigInt(first & 0x40 ? byte - 0x80 : byte) : value * 256n + BigInt(byte);
    }
    const number = Number(value);
    if (!Number.isSafeInteger(number)) throw malformed(`a number of it is too large`);
    return number;
  }
  const text = textOf(block, at, length).trim();
  if (text === '') return 0;
  if (!/^[0-7]{1,12}$/.test(text)) throw malformed(`"${printable(text)}" is no number`);
  return Number.parseInt(text, 8);
}

/** Keys of extended attributes begin with it. */
export const XATTR_PREFIX = 'SCHILY.xattr.';
const SPARSE_MAP = 'GNU.sparse.map';
/** What is read here of others; the rest would only take room. */
const KEYS = new Set([
  ...['path', 'linkpath', 'size', 'uid', 'gid', 'mtime'],
  ...[SPARSE_MAP, 'GNU.sparse.name', 'GNU.sparse.size', 'GNU.sparse.realsize', 'GNU.sparse.major'],
]);

/** Records of the form `LENGTH KEY=VALUE\n`; an empty value takes an earlier one away. */
export function parsePax(body: Buffer, into: Map<string, string>): void {
  let at = 0;
  // numbers of a map in format 0.0 come under one key, again and again
  const map: string[] = [];
  while (at < body.length) {
    const space = body.indexOf(0x20, at);
    const length = space < 0 ? Number.NaN : Number(body.toString('latin1', at, space));
    if (!Number.isInteger(length) || length < 5 || at + length > body.length || space >= at + length) {
      throw malformed('a PAX record has a wrong length');
    }
    const record = body.toString('latin1', space + 1, at + length - 1);
    if (body.readUInt8(at + length - 1) !== 0x0a) throw malformed('a PAX record has no end');
    const equals = record.indexOf('=');
    if (equals < 1) throw malformed('a PAX record has no key');
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)];
    if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') map.push(value);
    else if (key.startsWith(XATTR_PREFIX)) into.set(key, value);
    else if (value === '') into.delete(key);
    else if (KEYS.has(key)) into.set(key, value);
    at += length;
  }
  if (map.length > 0) into.set(SPARSE_MAP, map.join(','));
}

/** Pairs of offset and length in the header of a sparse file and the blocks behind it (format "oldgnu"). */
export function parseOldSparse(blocks: readonly Buffer[]): number[] {
  const numbers: number[] = [];
  for (const block of blocks) {
    for (let at = 0; at + 24 <= block.length; at += 24) {
      if (block.readUInt8(at) === 0 && block.readUInt8(at + 12) === 0) return numbers;
      numbers.push(readNumber(block, at, 12), readNumber(block, at + 12, 12));
    }
  }
  return numbers;
}

/** A map in front of a file's data: decimal numbers, one a line, the first of them how many pairs follow (format 1.0). */
export class SparseText {
  readonly #blocks: Buffer[] = [];
  #lines = 0;
  /** lines there must be, the first included */
  #wanted = Number.POSITIVE_INFINITY;

  /** `bytes` that have come */
  get length(): number {
    return this.#blocks.length * BLOCK;
  }

  /** Takes the next block. @returns the numbers when all have come */
  push(block: Buffer): number[] | undefined {
    if (this.#blocks.length === 0) this.#wanted = 1 + 2 * pairsOf(block);
    this.#blocks.push(Buffer.from(block));
    // each block is looked at once: a map may have thousands
    for (let at = block.indexOf(LINE_END); at >= 0; at = block.indexOf(LINE_END, at + 1)) this.#lines += 1;
    if (this.#lines < this.#wanted) return undefined;
    return Buffer.concat(this.#blocks).toString('latin1').split('\n', this.#wanted).slice(1).map(Number);
  }
}

function pairsOf(block: Buffer): number {
  const first = block.toString('latin1', 0, Math.max(block.indexOf(LINE_END), 0));
  if (!/^\d{1,7}$/.test(first)) throw malformed('a map of a sparse file has no length');
  return Number(first);
}

/**
 * The parts of a file that are stored.
 * @param stored bytes of data there are for them
 */
export function sparsePieces(numbers: readonly number[], size: number, stored: number): DataPiece[] {
  const pieces: DataPiece[] = [];
  let end = 0;
  let sum = 0;
  for (let index = 0; index + 1 < numbers.length; index += 2) {
    const [offset = -1, length = -1] = [numbers[index], numbers[index + 1]];
    const ok = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= end && length >= 0;
    if (!ok || offset + length > size) throw malformed('a map of a sparse file contradicts itself');
    if (length > 0) pieces.push({ offset, length });
    end = offset + length;
    sum += length;
  }
  if (sum !== stored) throw malformed('a map of a sparse file does not fit its data');
  return pieces;
}

/** For messages. @param path a character for each byte */
export function shownPath(path: string): string {
  const text = Buffer.from(path, 'latin1').toString('utf8');
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}…` : text);
}

function printable(text: string): string {
  return text.replace(/[^ -~]/g, '?').slice(0, 20);
}

function malformed(why: string): BangerError {
  return new BangerError('corrupt', `The archive cannot be read: ${why}.`);
}
