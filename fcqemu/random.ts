/** Random bytes from the kernel. Node's own way brings OpenSSL into memory, 5 MB in every process. */
import { openSync, readSync } from 'node:fs';

/** Open from the start: later there may be no descriptor left, and a guest that uses them up must not end its VMM. */
const device = openSync('/dev/urandom', 'r');

export function randomBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  // up to 256 bytes come in one piece
  readSync(device, bytes, 0, length, null);
  return bytes;
}
