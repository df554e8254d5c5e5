import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createFrameDecoder, encodeFrame, FRAME } from '../../src/api/exec-frames.ts';

describe('exec frames', () => {
  it('survive any cut of the byte stream', () => {
    const frame = fc.record({
      type: fc.constantFrom(...Object.values(FRAME)),
      payload: fc.uint8Array({ maxLength: 200 }),
    });
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 8 }), fc.integer({ min: 1, max: 50 }), (frames, step) => {
        const bytes = Buffer.concat(frames.map(({ type, payload }) => encodeFrame(type, Buffer.from(payload))));
        const decode = createFrameDecoder();
        const seen = [];
        for (let i = 0; i < bytes.length; i += step) seen.push(...decode(bytes.subarray(i, i + step)));
        assert.deepEqual(
          seen.map(({ type, payload }) => [type, Buffer.from(payload)]),
          frames.map(({ type, payload }) => [type, Buffer.from(payload)]),
        );
      }),
    );
  });

  it('of an absurd length are refused before they are gathered', () => {
    assert.throws(() => createFrameDecoder()(Buffer.from([0, 0xff, 0xff, 0xff, 0xff])), RangeError);
  });
});
