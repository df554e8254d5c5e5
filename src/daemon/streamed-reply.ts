/** Answers that go on for as long as the client reads them. */
import type { FastifyReply } from 'fastify';
import { writeJsonLines } from '../system/json-lines.ts';

/** Sends each value as it comes, one a line; ends with the values or with the client. */
export async function replyJsonLines(
  reply: FastifyReply,
  values: AsyncIterable<unknown>,
  signal: AbortSignal,
): Promise<void> {
  reply.hijack();
  const { raw } = reply;
  raw.on('error', () => {}); // a reader that left while a value was on its way; the signal says so
  raw.writeHead(200, { 'Content-Type': 'application/x-ndjson' });
  // a reader that waits for the first value must learn that it is being served
  raw.flushHeaders();
  await writeJsonLines(raw, values, signal);
}
