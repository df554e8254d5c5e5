/** DNS over TCP: many queries per connection, and limits that keep idle, slow or numerous clients harmless. */
import { createServer, type Server, type Socket } from 'node:net';
import { FrameReader, frame, MAX_QUERY_BYTES } from './frames.ts';

/** Connections open at once; one more closes the one of the busiest client that has been quiet longest. */
const MAX_CONNECTIONS = 256;
/** How long a connection may be without a complete query, in `ms` (RFC 7766 asks for a few seconds). */
const IDLE_MS = 10_000;
/** Unanswered queries of one connection; reading waits above it. */
const MAX_PENDING = 64;
/** Answers a client has not read yet, in bytes; reading waits above it. */
const MAX_UNREAD_BYTES = 256 * 1024;

export interface TcpQuery {
  message: Buffer;
  /** announced length; larger than the message when that was too long to be a query and was cut */
  length: number;
  /** address of the client */
  peer: string;
  /** Sends the answer, once and at any time; nothing when none is due. The bytes are copied. */
  respond(response: Uint8Array | undefined): void;
}

export interface TcpOptions {
  onQuery(query: TcpQuery): void;
  /** whose connections are taken; default everyone's */
  acceptsPeer?(address: string): boolean;
  maxConnections?: number;
  idleMs?: number;
}

interface Connection {
  socket: Socket;
  peer: string;
  frames: FrameReader;
  /** when the last complete query came or the connection was made, in `ms` */
  activeAt: number;
  pending: number;
}

/** The connections of one listening socket. */
export class TcpService {
  readonly server: Server;
  readonly #options: TcpOptions;
  readonly #idleMs: number;
  /** quietest first: a query moves its connection to the end */
  readonly #connections = new Set<Connection>();
  #sweeper: NodeJS.Timeout | undefined;

  constructor(options: TcpOptions) {
    this.#options = options;
    this.#idleMs = options.idleMs ?? IDLE_MS;
    this.server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Closes the listening socket and every connection. */
  close(): Promise<void> {
    clearInterval(this.#sweeper);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.server.close(() => resolve());
    for (const { socket } of this.#connections) socket.destroy();
    return promise;
  }

  #accept(socket: Socket): void {
    // clients that vanish or reset are everyday; 'close' follows and tidies up
    socket.on('error', () => {});
    const peer = socket.remoteAddress;
    if (peer === undefined || this.#options.acceptsPeer?.(peer) === false) {
      socket.destroy();
      return;
    }
    if (this.#connections.size >= (this.#options.maxConnections ?? MAX_CONNECTIONS)) {
      const spare = this.#spare();
      if (spare) this.#drop(spare);
    }
    const frames = new FrameReader(MAX_QUERY_BYTES);
    const connection: Connection = { socket, peer, frames, activeAt: performance.now(), pending: 0 };
    this.#connections.add(connection);
    this.#sweeper ??= setInterval(() => this.#sweep(), Math.min(1000, this.#idleMs)).unref();
    socket.on('data', (chunk) => {
      if (typeof chunk !== 'string') this.#read(connection, peer, chunk);
    });
    socket.on('drain', () => resumeIfQuiet(connection));
    socket.on('close', () => this.#forget(connection));
  }

  /** Who opens many must not take those of others: the quietest of the client that has the most. */
  #spare(): Connection | undefined {
    const counts = new Map<string, number>();
    for (const { peer } of this.#connections) counts.set(peer, (counts.get(peer) ?? 0) + 1);
    const most = Math.max(...counts.values());
    for (const connection of this.#connections) if (counts.get(connection.peer) === most) return connection;
    return undefined;
  }

  #read(connection: Connection, peer: string, chunk: Buffer): void {
    const { socket } = connection;
    socket.cork();
    connection.frames.push(chunk, (message, length) => {
      this.#connections.delete(connection);
      this.#connections.add(connection);
      connection.activeAt = performance.now();
      connection.pending++;
      let answered = false;
      const respond = (response: Uint8Array | undefined) => {
        if (answered) return;
        answered = true;
        connection.pending--;
        if (response !== undefined && !socket.destroyed) socket.write(frame(response));
        resumeIfQuiet(connection);
      };
      this.#options.onQuery({ message, length, peer, respond });
    });
    socket.uncork();
    if (!isQuiet(connection)) socket.pause();
  }

  #sweep(): void {
    const oldest = performance.now() - this.#idleMs;
    for (const connection of this.#connections) {
      if (connection.activeAt > oldest) break;
      this.#drop(connection);
    }
  }

  #drop(connection: Connection): void {
    connection.socket.destroy();
    this.#forget(connection);
  }

  #forget(connection: Connection): void {
    this.#connections.delete(connection);
    if (this.#connections.size > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}

function isQuiet({ socket, pending }: Connection): boolean {
  return pending < MAX_PENDING && socket.writableLength < MAX_UNREAD_BYTES;
}

function resumeIfQuiet(connection: Connection): void {
  if (connection.socket.isPaused() && isQuiet(connection)) connection.socket.resume();
}
