/**
 * Checksums of a bundle's files and of its module tree. Disk images, which are mostly holes, have the fs-verity digest and
 * those of their parts; everything else, and all of older bundles, has the SHA-256 that `sha256sum` prints.
 */
import { createHash } from 'node:crypto';
import { open, opendir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfCancelled } from '../../system/abort.ts';
import { PART_BYTES, partedDigest } from '../../system/verity.ts';
import { MIB } from '../../units.ts';

export interface PlainSum {
  sha256: string;
  /** bytes */
  size: number;
}

export interface DiskSum {
  /** fs-verity digest, in hexadecimal */
  fsverity: string;
  /** bytes */
  size: number;
  /** digest of each part by its offset, see `PartedDigest`; undefined where they are not known */
  parts?: Record<string, string> | undefined;
}

export type FileSum = PlainSum | DiskSum;

export interface TreeSum extends PlainSum {
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

/** Digest of a disk image; holes cost nothing. */
export async function sumDisk(path: string, options: SumOptions = {}): Promise<DiskSum & { parts: object }> {
  const { digest, size, parts } = await partedDigest(path, options);
  return { fsverity: digest, size, parts };
}

/**
 * Reads a file to its end and compares it with a sum of either kind, but for the size.
 * @param document where the sum is from, for the text
 * @returns undefined when it is the same; otherwise a text like "checksum is X, bundle.json says Y", without a full stop
 */
export async function sumProblem(
  path: string,
  wanted: FileSum,
  document: string,
  options: SumOptions = {},
): Promise<string | undefined> {
  if ('sha256' in wanted) {
    const { sha256 } = await sumFile(path, options);
    return sha256 === wanted.sha256 ? undefined : `checksum is ${sha256}, ${document} says ${wanted.sha256}`;
  }
  const found = await sumDisk(path, options);
  if (found.fsverity === wanted.fsverity) return undefined;
  const where = found.size === wanted.size && wanted.parts ? differentParts(found.parts, wanted.parts, found.size) : [];
  const place = where.length === 0 ? '' : `; it differs in ${where.join(', ')}`;
  return `checksum is ${found.fsverity}, ${document} says ${wanted.fsverity}${place}`;
}

type Parts = Readonly<Record<string, string>>;

/** Ranges of parts that differ, in order and joined where they touch, such as "64 to 192 MiB". */
function differentParts(found: Parts, wanted: Parts, sizeBytes: number): string[] {
  const offsets = [...new Set([...Object.keys(found), ...Object.keys(wanted)])]
    .filter((offset) => found[offset] !== wanted[offset])
    .map(Number)
    .sort((a, b) => a - b);
  const ranges: { start: number; end: number }[] = [];
  for (const start of offsets) {
    const last = ranges.at(-1);
    if (last?.end === start) last.end += PART_BYTES;
    else ranges.push({ start, end: start + PART_BYTES });
  }
  return ranges.map(({ start, end }) => {
    return end < sizeBytes ? `${start / MIB} to ${end / MIB} MiB` : `${start / MIB} MiB to its end`;
  });
}

/** SHA-256 and size of a file. */
export async function sumFile(path: string, options: SumOptions = {}): Promise<PlainSum> {
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
