/** Output of guests, cut into lines. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLineSplitter } from '../../src/guest/line-splitter.ts';

function split(...chunks: (string | Buffer)[]): string[] {
  const lines: string[] = [];
  const splitter = createLineSplitter((line) => lines.push(line));
  for (const chunk of chunks) splitter.push(Buffer.from(chunk));
  splitter.end();
  return lines;
}

describe('lines of output', () => {
  it('are whole whatever the chunks, and the last one needs no end', () => {
    assert.deepEqual(split('on', 'e\ntw', 'o\n', '\nthree'), ['one', 'two', '', 'three']);
  });

  it('keep characters that chunks cut in two', () => {
    const bytes = Buffer.from('grün\n');
    assert.deepEqual(split(bytes.subarray(0, 3), bytes.subarray(3)), ['grün']);
  });

  it('show what a terminal would: the last state of a progress line, without control characters', () => {
    assert.deepEqual(split('10%\r50%\r100%\r\n\x1b[31mred\x1b[0m\x07\n'), ['100%', 'red']);
  });

  it('are bounded, also when no end ever comes', () => {
    const lines = split('x'.repeat(1_000_000), 'y'.repeat(1_000_000));
    assert.deepEqual(
      lines.map((line) => line.length),
      [2000],
    );
  });
});
