import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { readJsonLines, writeJsonLines } from '../../src/system/json-lines.ts';

async function values(chunks: (string | Buffer)[]): Promise<unknown[]> {
  return await Array.fromAsync(readJsonLines(Readable.from(chunks.map((chunk) => Buffer.from(chunk)))));
}

describe('lines of JSON', () => {
  it('are read however the stream is cut', async () => {
    const bytes = Buffer.from('{"a":"ä"}\n\n{"b":2}\n3');
    for (let cut = 1; cut < bytes.length; cut++) {
      assert.deepEqual(await values([bytes.subarray(0, cut), bytes.subarray(cut)]), [{ a: 'ä' }, { b: 2 }, 3]);
    }
  });

  it('fail on a line that is no JSON', async () => {
    await assert.rejects(values(['{"a":1}\n{oops\n']), SyntaxError);
  });

  it('are written no faster than they are read, and no further than the reader stays', async () => {
    const stream = new PassThrough({ highWaterMark: 10 });
    const gone = new AbortController();
    let made = 0;
    async function* endless() {
      for (;;) yield { n: made++ };
    }
    const writing = writeJsonLines(stream, endless(), gone.signal);
    await new Promise(setImmediate);
    assert.ok(made < 10, `${made} were made before any was read`);
    assert.equal(String(stream.read()).split('\n')[0], '{"n":0}');
    gone.abort();
    await writing;
    assert.ok(stream.writableEnded);
  });
});
