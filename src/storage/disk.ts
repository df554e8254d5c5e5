/** Sizes of disk images: what they claim, what they take, and growing the claim. */
import { open, stat } from 'node:fs/promises';

/** Bytes a file really takes on its file system. */
export async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512; // st_blocks counts 512-byte units whatever the file system
}

/** Bytes the file claims to have. */
export async function apparentBytes(path: string): Promise<number> {
  return (await stat(path)).size;
}

/** Makes a file at least `bytes` long and safe on disk; the new part is a hole and takes no space. Never shortens. */
export async function growFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    const { size } = await file.stat();
    if (size < bytes) await file.truncate(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}
