/** Whose process is at the other end of a Unix socket, as the kernel says. */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { type Functions, loadLibc } from './libc.ts';

/** The process as it was when it began to listen; unix(7), SO_PEERCRED. */
export interface Peer {
  pid: number;
  uid: number;
}

/** Of socket.h, the same on every machine banger runs on. */
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const UCRED_BYTES = 12;

/** A process that accepts connections does so at once. */
const ANSWER_LIMIT_MS = 1000;

const SIGNATURES = {
  getsockopt: { arguments: ['int32', 'int32', 'int32', 'buffer', 'buffer'], return: 'int32' },
} as const;

/**
 * @param path of the socket; `\0` before an abstract name
 * @returns undefined where it cannot be told: nobody listens or takes connections, or there is no ffi
 */
export async function findListener(path: string): Promise<Peer | undefined> {
  const c = await loadLibc(SIGNATURES);
  if (!c) return undefined;
  const socket = createConnection(path).unref();
  socket.on('error', () => {}); // `once` rejects
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(ANSWER_LIMIT_MS) });
    return credentialsOf(c, socket);
  } catch {
    return undefined;
  } finally {
    socket.destroy();
  }
}

/**
 * A way to tell whose process made a connection, when it did.
 * @returns undefined where there is no ffi
 */
export async function peerReader(): Promise<((connection: Socket) => Peer | undefined) | undefined> {
  const c = await loadLibc(SIGNATURES);
  return c && ((connection) => credentialsOf(c, connection));
}

function credentialsOf(c: Functions<typeof SIGNATURES>, socket: Socket): Peer | undefined {
  // Node tells the descriptor of a connection nowhere else
  const fd: unknown = Reflect.get(Reflect.get(socket, '_handle') ?? {}, 'fd');
  if (typeof fd !== 'number' || fd < 0) return undefined;
  const credentials = Buffer.alloc(UCRED_BYTES);
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(UCRED_BYTES);
  if (c.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, bytes) !== 0) return undefined;
  return { pid: credentials.readInt32LE(0), uid: credentials.readUInt32LE(4) };
}
