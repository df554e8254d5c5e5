/** Listening on Unix sockets with the errors the system and Rust's standard library have, which libuv replaces. */
import { statSync } from 'node:fs';
import type { Server } from 'node:net';
import { dirname } from 'node:path';
import { errorCode, InvalidInput } from './fault.ts';
import { randomBytes } from './random.ts';

/** `sun_path` with its terminating NUL. */
const PATH_BYTES = 108;

/**
 * Binds and listens; an empty path is a socket that nobody can name, as bind(2) makes it.
 * @throws the system error of bind(2), `EADDRINUSE` when the path exists; InvalidInput for a path it never sees
 */
export async function listenOn(server: Server, path: string): Promise<void> {
  if (path.includes('\0')) throw new InvalidInput('paths must not contain interior null bytes');
  if (Buffer.byteLength(path) >= PATH_BYTES) throw new InvalidInput('path must be shorter than SUN_LEN');
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(path || `\0${randomBytes(5).toString('hex').slice(0, 5)}`, resolve);
  try {
    await promise;
  } catch (error) {
    throw errorCode(error) === 'EACCES' ? (lookUp(dirname(path)) ?? error) : error;
  }
  server.off('error', reject);
}

/** Why a directory is not there; libuv reports that as missing rights. */
function lookUp(directory: string): unknown {
  try {
    statSync(directory);
    return undefined;
  } catch (error) {
    return error;
  }
}
