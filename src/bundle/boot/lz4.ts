/**
 * The LZ4 legacy frame, which is what the kernel build's `lz4 -l` writes: a magic number, then blocks of at most
 * 8 MiB, each preceded by its compressed size.
 * Format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md (Legacy frame) and lz4_Block_format.md
 */
import { BangerError } from '../../errors.ts';

export const LZ4_LEGACY_MAGIC = 0x184c2102;

const BLOCK_BYTES = 8 * 1024 * 1024;

/** Compressed blocks of random data are larger than what they hold, by at most this much. */
const MAX_COMPRESSED_BYTES = BLOCK_BYTES + Math.ceil(BLOCK_BYTES / 255) + 16;

/**
 * The decompressed blocks of a legacy frame, one at a time; each is overwritten by the next.
 * @throws BangerError `corrupt` when the data is cut short or no LZ4
 */
export async function* decompressLz4Legacy(input: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const reader = createReader(input);
  const magic = await reader.take(4);
  if (magic === undefined || magic.readUInt32LE(0) !== LZ4_LEGACY_MAGIC) throw corrupt('it has no LZ4 legacy header');
  const output = Buffer.allocUnsafe(BLOCK_BYTES);
  for (;;) {
    const header = await reader.take(4);
    if (header === undefined) return;
    const size = header.readUInt32LE(0);
    if (size === LZ4_LEGACY_MAGIC) continue;
    if (size === 0 || size > MAX_COMPRESSED_BYTES) throw corrupt(`a block claims ${size} bytes`);
    const block = await reader.take(size);
    if (block === undefined) throw corrupt('its last block is cut short');
    yield output.subarray(0, decompressBlock(block, output));
  }
}

/** Decompresses one LZ4 block into `output`; returns the number of bytes written. */
export function decompressBlock(input: Uint8Array, output: Uint8Array): number {
  // plain locals, not captured by a helper: V8 14 miscompiles captured counters in hot loops, see docs/decisions
  let from = 0;
  let to = 0;
  while (from < input.length) {
    const token = input[from++] ?? 0;
    let literals = token >> 4;
    if (literals === 15) {
      for (let byte = 255; byte === 255; literals += byte) {
        if (from >= input.length) throw corrupt('a length runs past its end');
        byte = input[from++] ?? 0;
      }
    }
    if (from + literals > input.length || to + literals > output.length) throw corrupt('literals run past its end');
    output.set(input.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    // the last sequence of a block has no match
    if (from === input.length) return to;
    if (from + 2 > input.length) throw corrupt('a match is cut short');
    const distance = (input[from] ?? 0) | ((input[from + 1] ?? 0) << 8);
    from += 2;
    let length = 4 + (token & 15);
    if (length === 19) {
      for (let byte = 255; byte === 255; length += byte) {
        if (from >= input.length) throw corrupt('a length runs past its end');
        byte = input[from++] ?? 0;
      }
    }
    if (distance === 0 || distance > to || to + length > output.length) throw corrupt('a match points outside');
    copyMatch(output, to, distance, length);
    to += length;
  }
  return to;
}

/** Copies from `distance` bytes back; source and target overlap when the match repeats itself. */
function copyMatch(output: Uint8Array, to: number, distance: number, length: number): void {
  if (distance >= length) {
    output.copyWithin(to, to - distance, to - distance + length);
    return;
  }
  for (let index = 0; index < length; index++) output[to + index] = output[to + index - distance] ?? 0;
}

/** Exact counts of bytes out of chunks of any size; `undefined` once fewer than asked for remain. */
function createReader(input: AsyncIterable<Buffer>): { take(size: number): Promise<Buffer | undefined> } {
  const chunks = input[Symbol.asyncIterator]();
  let parts: Buffer[] = [];
  let held = 0;
  return {
    async take(size) {
      while (held < size) {
        const next = await chunks.next();
        if (next.done) {
          if (held === 0) return undefined;
          throw corrupt('it is cut short');
        }
        parts.push(next.value);
        held += next.value.length;
      }
      const all = parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts, held);
      parts = [all.subarray(size)];
      held -= size;
      return all.subarray(0, size);
    },
  };
}

function corrupt(what: string): BangerError {
  return new BangerError('corrupt', `The LZ4 data is damaged: ${what}.`);
}
