import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FrameReader, frame, MAX_QUERY_BYTES } from '../../src/dns/frames.ts';

interface Seen {
  length: number;
  kept: number;
  first: number | undefined;
}

function readAll(chunks: readonly Buffer[]): Seen[] {
  const reader = new FrameReader(MAX_QUERY_BYTES);
  const seen: Seen[] = [];
  for (const chunk of chunks) {
    reader.push(chunk, (message, length) => seen.push({ length, kept: message.length, first: message[0] }));
  }
  return seen;
}

describe('frames', () => {
  it('come out whole and in order however the stream is cut', () => {
    const sizes = fc.array(fc.oneof(fc.nat(40), fc.integer({ min: 4090, max: 9000 }), fc.constant(65_535)), {
      maxLength: 6,
    });
    const cuts = fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(sizes, cuts, (lengths, steps) => {
        const stream = Buffer.concat(lengths.map((length, index) => frame(Buffer.alloc(length, index + 1))));
        const chunks: Buffer[] = [];
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const step = steps[turn % steps.length] ?? 1;
          chunks.push(stream.subarray(at, at + step));
          at += step;
        }
        const expected = lengths.map((length, index) => ({
          length,
          kept: Math.min(length, MAX_QUERY_BYTES),
          first: length === 0 ? undefined : index + 1,
        }));
        assert.deepEqual(readAll(chunks), expected);
      }),
    );
  });

  it('come out although they arrive byte by byte', () => {
    const stream = Buffer.concat([frame(Buffer.from('ab')), frame(Buffer.from('c'))]);
    const chunks = Array.from(stream, (byte) => Buffer.from([byte]));
    assert.deepEqual(
      readAll(chunks).map(({ length }) => length),
      [2, 1],
    );
  });
});
