/** Random bytes from the kernel. Node's own way brings OpenSSL into memory, 5 MB in every process. */
import { closeSync, openSync, readSync } from 'node:fs';

export function randomBytes(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const device = openSync('/dev/urandom', 'r');
  try {
    // up to 256 bytes come in one piece
    readSync(device, bytes, 0, length, null);
  } finally {
    closeSync(device);
  }
  return bytes;
}
