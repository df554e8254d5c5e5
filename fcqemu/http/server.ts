/**
 * The API socket. Written on `node:net` because the bytes matter to clients (no reason phrase, fixed header
 * order, a transport error that is no valid JSON) and because `node:http` alone costs 17 MB of memory.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { listenOn } from '../unix-socket.ts';
import { type HttpRequest, RequestParser, TransportError } from './request-parser.ts';

export interface HttpAnswer {
  status: 200 | 204 | 400 | 413;
  /** JSON text */
  body?: string;
  /** a deprecated field or endpoint was used */
  deprecated?: boolean;
  /** runs once the answer is on the wire */
  afterwards?: () => void;
}

export type Handler = (request: HttpRequest) => Promise<HttpAnswer>;

/** Connections beyond this are turned away, as Firecracker does. */
const MAX_CONNECTIONS = 10;

const SERVER_FULL =
  'HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n' +
  '{ "error": "Too many open connections" }';

/**
 * Listens on a Unix socket and answers requests strictly one at a time, over all connections.
 * @throws as `listenOn`
 */
export async function serveApi(path: string, payloadLimit: number, handle: Handler): Promise<Server> {
  let connections = 0;
  let queue: Promise<void> = Promise.resolve();

  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    if (connections >= MAX_CONNECTIONS) {
      socket.end(SERVER_FULL);
      return;
    }
    connections += 1;
    socket.on('close', () => {
      connections -= 1;
    });
    const parser = new RequestParser(payloadLimit);
    // after the client's half close its outstanding answers are still written
    socket.on('end', () => {
      queue = queue.then(() => void socket.end());
    });
    socket.on('data', (bytes: Buffer) => receive(socket, parser, bytes));
  });

  function receive(socket: Socket, parser: RequestParser, bytes: Buffer): void {
    try {
      // what comes along with bytes that are no request is not answered either
      for (const event of [...parser.push(bytes)]) {
        if (event.kind === 'continue') {
          socket.write(`${event.version} 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n`);
        } else {
          queue = queue.then(() => answer(socket, event.request));
        }
      }
    } catch (error) {
      if (!(error instanceof TransportError)) throw error;
      // deliberately not JSON: the newline inside the string is what Firecracker sends
      const body = `{ "error": "${error.message}\nAll previous unanswered requests will be dropped." }`;
      queue = queue.then(() => void socket.write(formatAnswer({ status: 400, body })));
    }
  }

  async function answer(socket: Socket, request: HttpRequest): Promise<void> {
    const result = await handle(request);
    if (socket.writable) socket.write(formatAnswer(result), result.afterwards);
    else result.afterwards?.();
  }

  await listenOn(server, path);
  // a connection that cannot be accepted, for want of descriptors, concerns its client only
  server.on('error', () => {});
  return server;
}

function formatAnswer({ status, body, deprecated }: HttpAnswer): string {
  const head = `HTTP/1.1 ${status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n`;
  const deprecation = deprecated ? 'Deprecation: true\r\n' : '';
  if (body === undefined) return `${head}${deprecation}\r\n`;
  const length = Buffer.byteLength(body);
  return `${head}${deprecation}Content-Type: application/json\r\nContent-Length: ${length}\r\n\r\n${body}`;
}
