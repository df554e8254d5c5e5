/** What the daemon's API needs of HTTP beyond plain requests: lines of JSON as they come, and upgrades. */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import type { Duplex, Readable } from 'node:stream';

export interface UpgradeRequest {
  socketPath: string;
  method: string;
  path: string;
  /** protocol to change to, for the `Upgrade` header */
  protocol: string;
  signal?: AbortSignal;
}

/** A changed protocol, or the ordinary answer that refuses it. */
export type UpgradeAnswer =
  | { socket: Duplex; response: IncomingMessage }
  | { socket?: undefined; response: IncomingMessage };

/** Asks for another protocol on the connection; rejects with Node's own error when the socket does not answer. */
export function openUpgrade(options: UpgradeRequest): Promise<UpgradeAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<UpgradeAnswer>();
  const request = httpRequest({
    socketPath: options.socketPath,
    method: options.method,
    path: options.path,
    createConnection: () => connect(options.socketPath),
    headers: { Connection: 'Upgrade', Upgrade: options.protocol },
    ...(options.signal ? { signal: options.signal } : {}),
  });
  request.once('upgrade', (response, socket, head) => {
    if (head.length > 0) socket.unshift(head);
    resolve({ socket, response });
  });
  request.once('response', (response) => resolve({ response }));
  request.once('error', reject);
  request.end();
  return promise;
}

/** The JSON values of an NDJSON stream, one a line; throws a SyntaxError for a line that is none. */
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
