/** Streamed answers of one JSON value a line, no faster than the client reads them. */
import { once } from 'node:events';
import type { FastifyReply } from 'fastify';

/** Sends each value as it comes; ends with the values or with the client. */
export async function sendLines(
  reply: FastifyReply,
  values: AsyncIterable<unknown>,
  signal: AbortSignal,
): Promise<void> {
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, { 'Content-Type': 'application/x-ndjson' });
  // a reader that waits for the first value must learn that it is being served
  raw.flushHeaders();
  for await (const value of values) {
    if (!raw.write(`${JSON.stringify(value)}\n`)) await once(raw, 'drain', { signal }).catch(() => {});
    if (signal.aborted) break;
  }
  raw.end();
}
