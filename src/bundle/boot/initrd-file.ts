/** Whether a file can be an initrd, from its first bytes. */
import { open } from 'node:fs/promises';

/** Beginnings of what a kernel accepts as an initrd: cpio newc with and without checksum, and its compressions. */
const INITRD_STARTS = [
  '303730373031',
  '303730373032',
  '1f8b',
  'fd377a585a00',
  '28b52ffd',
  '02214c18',
  '5d0000',
  '425a68',
];

/** True for a cpio archive, compressed or not. */
export async function looksLikeInitrd(path: string): Promise<boolean> {
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(6), 0, 6, 0);
  const start = buffer.subarray(0, bytesRead).toString('hex');
  return INITRD_STARTS.some((known) => start.startsWith(known));
}
