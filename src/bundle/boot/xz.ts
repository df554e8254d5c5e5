/**
 * The .xz container around LZMA2, with the x86 filter that kernels use.
 * Format: https://tukaani.org/xz/xz-file-format.txt. The npm packages for .xz are native or lack that filter.
 */
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { BangerError } from '../../errors.ts';
import { Lzma2Decoder, X86Filter } from './lzma.ts';

const MAGIC = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]);
const FILTER_X86 = 0x04n;
const FILTER_LZMA2 = 0x21n;

/** Compressed kernels and modules stay far below; the whole of one is held in memory. */
const MAX_COMPRESSED_BYTES = 256 * 1024 * 1024;

/** The largest dictionary the `xz` program itself asks for (preset 9). */
const MAX_DICT_BYTES = 64 * 1024 * 1024;

interface Check {
  update(chunk: Buffer): void;
  digest(): Buffer;
}

interface BlockHeader {
  /** first byte of the compressed data */
  dataStart: number;
  dictBytes: number;
  x86: boolean;
}

/**
 * The decompressed bytes of the first .xz stream in `input`; bytes after it are ignored.
 * Checks CRC32 and SHA-256; CRC64 is left to whoever knows the content's own checksum.
 * @throws BangerError `corrupt` when it is damaged, cut short or uses a filter other than LZMA2 and x86
 */
export async function* decompressXz(input: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const data = await gather(input);
  if (data.length < 12 || !data.subarray(0, 6).equals(MAGIC)) throw corrupt('it has no xz header');
  checkCrc(data, 6, 2, 'header');
  const checkType = (data[7] ?? 0) & 0x0f;
  let at = 12;
  while (data[at] !== 0) {
    if (at >= data.length) throw corrupt('it is cut short');
    const header = readBlockHeader(data, at);
    const check = createCheck(checkType);
    const filter = header.x86 ? new X86Filter() : undefined;
    const chunks = new Lzma2Decoder(header.dictBytes).decode(data, header.dataStart);
    let step = chunks.next();
    while (!step.done) {
      const plain = filter ? filter.push(step.value) : step.value;
      check?.update(plain);
      yield plain;
      step = chunks.next();
    }
    const rest = filter?.finish();
    if (rest && rest.length > 0) {
      check?.update(rest);
      yield rest;
    }
    // blocks are padded to four bytes, counted from their own start
    const checkStart = step.value + ((4 - ((step.value - header.dataStart) % 4)) % 4);
    at = checkStart + checkBytes(checkType);
    if (at > data.length) throw corrupt('it is cut short');
    if (check && !check.digest().equals(data.subarray(checkStart, at))) throw corrupt('a checksum does not match');
  }
}

async function gather(input: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of input) {
    size += chunk.length;
    if (size > MAX_COMPRESSED_BYTES) throw corrupt('it is too large to be a kernel or module');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

function readBlockHeader(data: Buffer, start: number): BlockHeader {
  const size = ((data[start] ?? 0) + 1) * 4;
  if (start + size > data.length) throw corrupt('it is cut short');
  checkCrc(data, start, size - 4, 'block header');
  const flags = data[start + 1] ?? 0;
  let at = start + 2;
  const number = () => {
    const [value, next] = readNumber(data, at);
    at = next;
    return value;
  };
  if (flags & 0x40) number();
  if (flags & 0x80) number();
  let dictBytes = 0;
  let x86 = false;
  for (let left = (flags & 3) + 1; left > 0; left--) {
    const id = number();
    const propsSize = Number(number());
    if (id === FILTER_X86 && propsSize === 0) x86 = true;
    else if (id === FILTER_LZMA2 && propsSize === 1) dictBytes = dictionaryBytes(data[at] ?? 0);
    else throw corrupt(`it uses the filter 0x${id.toString(16)}, which banger does not know`);
    at += propsSize;
  }
  if (dictBytes === 0) throw corrupt('it is not LZMA2');
  return { dataStart: start + size, dictBytes, x86 };
}

function dictionaryBytes(props: number): number {
  if (props > 40) throw corrupt('its dictionary has an impossible size');
  const size = props === 40 ? 2 ** 32 - 1 : (2 | (props & 1)) * 2 ** ((props >> 1) + 11);
  if (size > MAX_DICT_BYTES) throw corrupt(`it needs a dictionary of ${size} bytes`);
  return size;
}

/** A variable-length integer: seven bits a byte, lowest first. */
function readNumber(data: Buffer, start: number): [bigint, number] {
  let value = 0n;
  for (let index = 0; index < 9; index++) {
    const byte = data[start + index];
    if (byte === undefined) break;
    value |= BigInt(byte & 0x7f) << BigInt(7 * index);
    if ((byte & 0x80) === 0) return [value, start + index + 1];
  }
  throw corrupt('it holds an unreadable number');
}

function checkCrc(data: Buffer, start: number, size: number, what: string): void {
  if (crc32(data.subarray(start, start + size)) !== data.readUInt32LE(start + size)) {
    throw corrupt(`its ${what} has a wrong checksum`);
  }
}

/** Sizes by check type, https://tukaani.org/xz/xz-file-format.txt section 2.1.1.2. */
function checkBytes(type: number): number {
  return type === 0 ? 0 : 4 * 2 ** Math.floor((type - 1) / 3);
}

function createCheck(type: number): Check | undefined {
  if (type === 1) {
    let sum = 0;
    return {
      update: (chunk) => {
        sum = crc32(chunk, sum);
      },
      digest: () => {
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32LE(sum);
        return bytes;
      },
    };
  }
  if (type !== 10) return undefined;
  const hash = createHash('sha256');
  return { update: (chunk) => void hash.update(chunk), digest: () => hash.digest() };
}

function corrupt(what: string): BangerError {
  return new BangerError('corrupt', `The xz data is damaged: ${what}.`);
}
