/** One query to one resolver, by UDP or TCP, with a fresh id and port: what was not asked for is not believed. */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';
import { endOfQuestion, type Transport } from './answer.ts';
import { FrameReader, frame } from './frames.ts';
import type { Upstream } from './resolv-conf.ts';
import { HEADER_BYTES, MAX_TCP_BYTES } from './wire.ts';

export interface ExchangeOptions {
  transport: Transport;
  /** ends the exchange; its reason is what the exchange throws */
  signal: AbortSignal;
}

/**
 * Sends a well-formed query and gives the answer, which carries the query's own id again.
 * @throws whatever the network reports, or the signal's reason
 */
export async function exchange(query: Buffer, upstream: Upstream, options: ExchangeOptions): Promise<Buffer> {
  const { transport, signal } = options;
  signal.throwIfAborted();
  const outgoing = Buffer.from(query);
  randomBytes(2).copy(outgoing);
  const response = await (transport === 'udp' ? byUdp : byTcp)(outgoing, upstream, signal);
  query.copy(response, 0, 0, 2);
  return response;
}

function byUdp(query: Buffer, { address, port }: Upstream, signal: AbortSignal): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const family = isIPv6(address) ? 6 : 4;
  const socket = createSocket({
    type: family === 6 ? 'udp6' : 'udp4',
    lookup: (host, _options, callback) => callback(null, host, family),
  });
  const stop = () => reject(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  socket.on('error', reject);
  socket.on('message', (message) => {
    if (isAnswerTo(query, message)) resolve(message);
  });
  let open = true;
  // a connected socket hears only this server, and hears at once when nobody listens there or no way leads there: by
  // 'error', where a callback of `connect` would be called as if it were connected
  socket.once('connect', () => {
    if (!open) return;
    socket.send(query, (error) => {
      if (error) reject(error);
    });
  });
  socket.connect(port, address);
  return promise.finally(() => {
    signal.removeEventListener('abort', stop);
    open = false;
    socket.close();
  });
}

function byTcp(query: Buffer, { address, port }: Upstream, signal: AbortSignal): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const frames = new FrameReader(MAX_TCP_BYTES);
  const socket = connect({ host: address, port, noDelay: true });
  const stop = () => reject(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  socket.on('error', reject);
  socket.on('close', () => reject(new Error(`${address} closed the connection without an answer`)));
  socket.on('data', (chunk) => {
    if (typeof chunk === 'string') return;
    frames.push(chunk, (message) => {
      if (isAnswerTo(query, message)) resolve(Buffer.from(message));
    });
  });
  socket.write(frame(query));
  return promise.finally(() => {
    signal.removeEventListener('abort', stop);
    socket.destroy();
  });
}

/** Same id, a response, and the same question in any spelling; servers that fail may leave the question out. */
function isAnswerTo(query: Buffer, message: Buffer): boolean {
  if (message.length < HEADER_BYTES || message.readUInt16BE(0) !== query.readUInt16BE(0)) return false;
  if ((message.readUInt8(2) & 0x80) === 0) return false;
  const failed = (message.readUInt8(3) & 0xf) !== 0;
  if (message.readUInt16BE(4) === 0) return failed;
  const end = endOfQuestion(query);
  return questionText(query, end) === questionText(message, end);
}

function questionText(packet: Buffer, end: number): string {
  return packet.toString('latin1', HEADER_BYTES, end).toLowerCase();
}
