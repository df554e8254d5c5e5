/** Fields of tar headers: numbers in octal or base 256, text, PAX records, maps of sparse files. */
import type { DataPiece } from '../core/file-tree.ts';
import { BangerError } from '../errors.ts';

export function isZeros(block: Buffer): boolean {
  return block.equals(ZEROS);
}

const ZEROS = Buffer.alloc(512);

/** Up to the first zero byte, a character for each byte. */
export function textOf(block: Buffer, at: number, length: number): string {
  const text = block.toString('latin1', at, at + length);
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
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
    else if (value === '' && !key.startsWith('SCHILY.xattr.')) into.delete(key);
    else into.set(key, value);
    at += length;
  }
  if (map.length > 0) into.set('GNU.sparse.map', map.join(','));
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

/** Decimal numbers, one a line, the first of them how many pairs follow; undefined while some are missing. */
export function parseSparseText(text: string): number[] | undefined {
  const first = text.indexOf('\n');
  if (first < 0) return undefined;
  const pairs = Number(text.slice(0, first));
  if (!/^\d{1,7}$/.test(text.slice(0, first))) throw malformed('a map of a sparse file has no length');
  const lines = text.slice(first + 1).split('\n');
  // the last one has no end yet
  if (lines.length - 1 < pairs * 2) return undefined;
  return lines.slice(0, pairs * 2).map(Number);
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

function printable(text: string): string {
  return text.replace(/[^ -~]/g, '?').slice(0, 20);
}

function malformed(why: string): BangerError {
  return new BangerError('corrupt', `The archive cannot be read: ${why}.`);
}
