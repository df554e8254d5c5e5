/** Checksums of a bundle's files and of its module tree. */
import { createHash } from 'node:crypto';
import { open, opendir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfCancelled } from '../../system/abort.ts';

export interface FileSum {
  sha256: string;
  /** bytes */
  size: number;
}

export interface TreeSum extends FileSum {
  /** files, directories and links */
  entries: number;
}

export interface SumOptions {
  signal?: AbortSignal;
  /** called with the bytes read since the last call */
  onBytes?: (bytes: number) => void;
}

/** Holes of a disk image cost the kernel as much as the hash; in pieces of this size the two go on side by side. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** SHA-256 and size of a file. */
export async function sumFile(path: string, options: SumOptions = {}): Promise<FileSum> {
  await using file = await open(path);
  const hash = createHash('sha256');
  // one byte more than a small file has, so that its end is found by the second read
  const chunkBytes = Math.min(CHUNK_BYTES, (await file.stat()).size + 1);
  const read = (buffer: Buffer, position: number) => file.read(buffer, 0, chunkBytes, position);
  let current = Buffer.allocUnsafe(chunkBytes);
  let next = Buffer.allocUnsafe(chunkBytes);
  let size = 0;
  let { bytesRead } = await read(current, 0);
  while (bytesRead > 0) {
    throwIfCancelled(options.signal);
    // the next part is read by another thread while this one is hashed
    const reading = read(next, size + bytesRead);
    hash.update(current.subarray(0, bytesRead));
    size += bytesRead;
    options.onBytes?.(bytesRead);
    ({ bytesRead } = await reading);
    [current, next] = [next, current];
  }
  return { sha256: hash.digest('hex'), size };
}

/**
 * One digest over a tree: a line `TYPE SHA256-OR-TARGET PATH` per entry, sorted by path, without owners and times,
 * so that it is the same wherever the tree was unpacked.
 */
export async function sumTree(dir: string, options: SumOptions = {}): Promise<TreeSum> {
  const lines: string[] = [];
  let size = 0;
  for (const { path, kind } of await listTree(dir)) {
    throwIfCancelled(options.signal);
    if (kind === 'file') {
      const sum = await sumFile(join(dir, path), options);
      size += sum.size;
      lines.push(`file ${sum.sha256} ${path}`);
    } else if (kind === 'link') {
      lines.push(`link ${await readlink(join(dir, path))} ${path}`);
    } else {
      lines.push(`${kind} - ${path}`);
    }
  }
  const sha256 = createHash('sha256')
    .update(lines.map((line) => `${line}\n`).join(''))
    .digest('hex');
  return { sha256, size, entries: lines.length };
}

export interface TreeEntry {
  /** path below the tree */
  path: string;
  kind: 'file' | 'directory' | 'link' | 'special';
}

/** Every entry below a directory, sorted by path; links are not followed. */
export async function listTree(dir: string): Promise<TreeEntry[]> {
  const entries: TreeEntry[] = [];
  const visit = async (below: string) => {
    for await (const entry of await opendir(join(dir, below))) {
      const path = below === '' ? entry.name : `${below}/${entry.name}`;
      const kind = entry.isFile()
        ? 'file'
        : entry.isDirectory()
          ? 'directory'
          : entry.isSymbolicLink()
            ? 'link'
            : 'special';
      entries.push({ path, kind });
      if (kind === 'directory') await visit(path);
    }
  };
  await visit('');
  return entries.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}
