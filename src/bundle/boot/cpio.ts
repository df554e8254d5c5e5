/**
 * The cpio "newc" archive the kernel unpacks as its first root.
 * Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst and cpio(5).
 */
import { BangerError } from '../../errors.ts';

export type CpioEntry =
  | { type: 'directory'; path: string; mode?: number }
  | { type: 'file'; path: string; data: Uint8Array; mode?: number }
  | { type: 'symlink'; path: string; target: string }
  | { type: 'device'; path: string; kind: 'char' | 'block'; major: number; minor: number; mode?: number };

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;

/** The archive's size is a multiple of this, as GNU cpio makes it. */
const BLOCK_BYTES = 512;

/**
 * A newc archive of the entries in the order given, all owned by root and dated 0 so that equal input gives equal
 * bytes. Directories must come before what is in them.
 * @throws BangerError `internal` when an entry's directory is missing or a path appears twice
 */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const directories = new Set(['']);
  const seen = new Set<string>();
  const parts: Buffer[] = [];
  for (const [index, entry] of entries.entries()) {
    const parent = entry.path.slice(0, Math.max(0, entry.path.lastIndexOf('/')));
    if (entry.path === '' || entry.path.startsWith('/') || seen.has(entry.path) || !directories.has(parent)) {
      throw new BangerError('internal', `The cpio entry "${entry.path}" is out of order or not relative.`);
    }
    seen.add(entry.path);
    if (entry.type === 'directory') directories.add(entry.path);
    // inode numbers only have to differ: equal ones with several links would be hard links
    parts.push(record(entry, index + 1, linkCount(entry, entries)));
  }
  parts.push(header({ path: 'TRAILER!!!', inode: 0, mode: 0, links: 1, size: 0, major: 0, minor: 0 }));
  const archive = Buffer.concat(parts);
  return Buffer.concat([archive, Buffer.alloc(-archive.length & (BLOCK_BYTES - 1))]);
}

function record(entry: CpioEntry, inode: number, links: number): Buffer {
  const { path } = entry;
  const none = { major: 0, minor: 0 };
  switch (entry.type) {
    case 'directory':
      return header({ path, inode, mode: S_IFDIR | (entry.mode ?? 0o755), links, size: 0, ...none });
    case 'file': {
      const mode = S_IFREG | (entry.mode ?? 0o644);
      return withData(header({ path, inode, mode, links, size: entry.data.length, ...none }), entry.data);
    }
    case 'symlink': {
      const target = Buffer.from(entry.target, 'utf8');
      return withData(header({ path, inode, mode: S_IFLNK | 0o777, links, size: target.length, ...none }), target);
    }
    case 'device': {
      const mode = (entry.kind === 'char' ? S_IFCHR : S_IFBLK) | (entry.mode ?? 0o600);
      return header({ path, inode, mode, links, size: 0, major: entry.major, minor: entry.minor });
    }
  }
}

/** A directory is linked by its own `.`, by its parent and by the `..` of each directory in it. */
function linkCount(entry: CpioEntry, entries: readonly CpioEntry[]): number {
  if (entry.type !== 'directory') return 1;
  const inside = (other: CpioEntry) =>
    other.type === 'directory' && other.path.slice(0, other.path.lastIndexOf('/')) === entry.path;
  return 2 + entries.filter((other) => other.path.includes('/') && inside(other)).length;
}

interface Header {
  path: string;
  inode: number;
  mode: number;
  links: number;
  size: number;
  major: number;
  minor: number;
}

function header(entry: Header): Buffer {
  const name = Buffer.from(`${entry.path}\0`, 'utf8');
  const { inode, mode, links, size, major, minor } = entry;
  // inode, mode, uid, gid, links, mtime, size, device (2), device node (2), name size, checksum
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name.length, 0];
  const text = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return padded(Buffer.concat([Buffer.from(text, 'latin1'), name]));
}

function withData(head: Buffer, data: Uint8Array): Buffer {
  return Buffer.concat([head, padded(Buffer.from(data.buffer, data.byteOffset, data.byteLength))]);
}

function padded(part: Buffer): Buffer {
  return part.length % 4 === 0 ? part : Buffer.concat([part, Buffer.alloc(-part.length & 3)]);
}
