/** One JSON value a line, as long answers of the daemon are sent (application/x-ndjson). */
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';

/** Throws a SyntaxError for a line that is no JSON. */
export async function* readJsonLines(stream: Readable): AsyncGenerator<unknown> {
  // Buffers, not strings: a chunk may end inside a character
  let pending: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, from)) {
      const line = Buffer.concat([...pending, chunk.subarray(from, end)]).toString('utf8');
      pending = [];
      from = end + 1;
      if (line.trim() !== '') yield JSON.parse(line);
    }
    if (from < chunk.length) pending.push(chunk.subarray(from));
  }
  const rest = Buffer.concat(pending).toString('utf8');
  if (rest.trim() !== '') yield JSON.parse(rest);
}

/** Writes values as they come, no faster than they are read; ends with the values or when the reader is gone. */
export async function writeJsonLines(
  stream: Writable,
  values: AsyncIterable<unknown>,
  readerGone: AbortSignal,
): Promise<void> {
  for await (const value of values) {
    if (!stream.write(`${JSON.stringify(value)}\n`)) {
      await once(stream, 'drain', { signal: readerGone }).catch(() => {});
    }
    if (readerGone.aborted) break;
  }
  stream.end();
}
