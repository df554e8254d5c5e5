/**
 * One question and its whole answer over a Unix socket, in HTTP/1.0: no connection is kept and no body comes in
 * chunks, so that reading to the end is all there is to it. Node's own client takes a process that asks once 10 ms
 * to load and set up, a third of what the whole command takes.
 */
import { connect } from 'node:net';

export interface PlainRequest {
  socketPath: string;
  method: string;
  path: string;
  /** sent as JSON */
  body?: unknown;
  signal?: AbortSignal;
}

export interface PlainAnswer {
  status: number;
  /** names in lower case */
  headers: ReadonlyMap<string, string>;
  text: string;
}

/** Rejects with Node's own error when the socket does not answer, or `ECONNRESET` when the answer is cut short. */
export function plainRequest({ socketPath, method, path, body, signal }: PlainRequest): Promise<PlainAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<PlainAnswer>();
  const payload = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
  const head = [
    `${method} ${path} HTTP/1.0`,
    'Host: localhost',
    ...(payload ? ['Content-Type: application/json', `Content-Length: ${payload.length}`] : []),
  ];
  const socket = connect({ path: socketPath, ...(signal ? { signal } : {}) });
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.once('error', reject);
  socket.once('end', () => {
    try {
      resolve(parseAnswer(Buffer.concat(chunks)));
    } catch (error) {
      reject(error);
    }
  });
  socket.write(`${head.join('\r\n')}\r\n\r\n`);
  if (payload) socket.write(payload);
  return promise;
}

/** @throws Error with the code `ECONNRESET` when it is no whole answer */
function parseAnswer(bytes: Buffer): PlainAnswer {
  const end = bytes.indexOf('\r\n\r\n');
  const [statusLine = '', ...lines] = bytes.toString('latin1', 0, Math.max(end, 0)).split('\r\n');
  const status = Number(/^HTTP\/1\.[01] (\d{3})\b/.exec(statusLine)?.[1] ?? 0);
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const text = bytes.toString('utf8', end + 4);
  const length = headers.get('content-length');
  if (end < 0 || status === 0 || (length !== undefined && Number(length) !== bytes.length - end - 4)) {
    throw Object.assign(new Error('the answer is cut short'), { code: 'ECONNRESET' });
  }
  return { status, headers, text };
}
