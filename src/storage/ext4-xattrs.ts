/**
 * Extended attributes as ext4 stores them: in the inode where they fit, else in a block of their own.
 * Layout: Linux, fs/ext4/xattr.h; hashes: fs/ext4/xattr.c (ext4_xattr_hash_entry, ext4_xattr_rehash).
 */
import { BangerError } from '../errors.ts';

const MAGIC = 0xea020000;
const ENTRY_BYTES = 16;
const HEADER_BYTES = 32;

/** Names are stored without what most of them begin with. */
const PREFIXES: readonly { index: number; prefix: string; whole?: true }[] = [
  { index: 2, prefix: 'system.posix_acl_access', whole: true },
  { index: 3, prefix: 'system.posix_acl_default', whole: true },
  { index: 1, prefix: 'user.' },
  { index: 4, prefix: 'trusted.' },
  { index: 6, prefix: 'security.' },
  { index: 7, prefix: 'system.' },
];

interface Attribute {
  index: number;
  name: Buffer;
  value: Buffer;
}

export interface StoredAttributes {
  /** what follows the fixed part of an inode, of the length that there is */
  inside?: Buffer;
  /** a block whose checksum and reference are the writer's */
  block?: Buffer;
}

/** @throws BangerError `corrupt` when they do not fit into one block */
export function storeAttributes(
  xattrs: ReadonlyMap<string, Buffer>,
  insideBytes: number,
  blockBytes: number,
): StoredAttributes {
  const attributes = [...xattrs].flatMap(([name, value]) => split(name, value));
  if (attributes.length === 0) return {};
  attributes.sort((a, b) => a.index - b.index || a.name.length - b.name.length || Buffer.compare(a.name, b.name));
  const bytes = sizeOf(attributes);
  if (4 + bytes <= insideBytes) {
    const inside = Buffer.alloc(insideBytes);
    inside.writeUInt32LE(MAGIC, 0);
    write(inside, attributes, 4, 4, false);
    return { inside };
  }
  if (HEADER_BYTES + bytes > blockBytes) {
    const names = [...xattrs.keys()].join(', ').slice(0, 200);
    throw new BangerError('corrupt', `A file has more extended attributes than ext4 can hold: ${names}.`);
  }
  const block = Buffer.alloc(blockBytes);
  block.writeUInt32LE(MAGIC, 0);
  block.writeUInt32LE(1, 4); // references
  block.writeUInt32LE(1, 8); // blocks
  block.writeUInt32LE(write(block, attributes, HEADER_BYTES, 0, true), 12);
  return { block };
}

/** Where the checksum of such a block stands. */
export const XATTR_CHECKSUM_AT = 16;

function split(name: string, value: Buffer): Attribute[] {
  const known = PREFIXES.find(({ prefix, whole }) => (whole ? name === prefix : name.startsWith(prefix)));
  // what has no known prefix no file system of the guest could hold either
  if (!known) return [];
  const { index, prefix, whole } = known;
  const rest = whole ? '' : name.slice(prefix.length);
  if ((rest === '' && !whole) || rest.length > 255) return [];
  const stored = whole ? storedAcl(value) : value;
  return stored === undefined ? [] : [{ index, name: Buffer.from(rest, 'latin1'), value: stored }];
}

/** Version 2 of the kernel's interface (posix_acl_xattr.h) in version 1 of the disk (fs/ext4/acl.h): ids only where they count. */
function storedAcl(value: Buffer): Buffer | undefined {
  if (value.length < 4 || (value.length - 4) % 8 !== 0 || value.readUInt32LE(0) !== 2) return undefined;
  const parts: Buffer[] = [Buffer.from([1, 0, 0, 0])];
  for (let at = 4; at < value.length; at += 8) {
    const hasId = [0x02, 0x08].includes(value.readUInt16LE(at));
    parts.push(value.subarray(at, at + (hasId ? 8 : 4)));
  }
  return Buffer.concat(parts);
}

/**
 * Reads them back.
 * @param bytes what follows the fixed part of an inode, or a block
 * @param wrong makes the error for what contradicts itself
 */
export function parseAttributes(
  bytes: Buffer,
  where: 'inside' | 'block',
  into: Map<string, Buffer>,
  wrong: () => Error,
): void {
  if (bytes.readUInt32LE(0) !== MAGIC) {
    if (where === 'block') throw wrong();
    return;
  }
  const base = where === 'inside' ? 4 : 0;
  for (let at = where === 'inside' ? 4 : HEADER_BYTES; at + 4 <= bytes.length && bytes.readUInt32LE(at) !== 0; ) {
    if (at + ENTRY_BYTES > bytes.length) throw wrong();
    const nameLength = bytes.readUInt8(at);
    const known = PREFIXES.find(({ index }) => index === bytes.readUInt8(at + 1));
    const offset = base + bytes.readUInt16LE(at + 2);
    const length = bytes.readUInt32LE(at + 8);
    const inOther = bytes.readUInt32LE(at + 4) !== 0;
    const nameAt = at + ENTRY_BYTES;
    if (inOther || nameAt + nameLength > bytes.length || offset + length > bytes.length) throw wrong();
    const value = Buffer.from(bytes.subarray(offset, offset + length));
    if (known) {
      const name = known.prefix + bytes.toString('latin1', nameAt, nameAt + nameLength);
      const whole = known.whole ? kernelAcl(value) : value;
      if (whole) into.set(name, whole);
    }
    at = nameAt + padded(nameLength);
  }
}

/** Of the disk in the form of the kernel's interface: every entry has an id, -1 where it does not count. */
function kernelAcl(stored: Buffer): Buffer | undefined {
  if (stored.length < 4 || stored.readUInt32LE(0) !== 1) return undefined;
  const parts: Buffer[] = [Buffer.from([2, 0, 0, 0])];
  for (let at = 4; at + 4 <= stored.length; ) {
    const hasId = [0x02, 0x08].includes(stored.readUInt16LE(at));
    if (hasId && at + 8 > stored.length) return undefined;
    parts.push(stored.subarray(at, at + (hasId ? 8 : 4)));
    if (!hasId) parts.push(Buffer.from([0xff, 0xff, 0xff, 0xff]));
    at += hasId ? 8 : 4;
  }
  return Buffer.concat(parts);
}

const padded = (bytes: number) => (bytes + 3) & ~3;

/** With the four zero bytes that end the list. */
function sizeOf(attributes: readonly Attribute[]): number {
  return attributes.reduce((sum, { name, value }) => sum + ENTRY_BYTES + padded(name.length) + padded(value.length), 4);
}

/**
 * Entries from `at` on, values from the end.
 * @param base offset that values count from
 * @returns the hash of the whole
 */
function write(into: Buffer, attributes: readonly Attribute[], at: number, base: number, hashed: boolean): number {
  let end = into.length;
  let whole = 0;
  for (const { index, name, value } of attributes) {
    end -= padded(value.length);
    value.copy(into, end);
    into.writeUInt8(name.length, at);
    into.writeUInt8(index, at + 1);
    into.writeUInt16LE(value.length === 0 ? 0 : end - base, at + 2);
    into.writeUInt32LE(value.length, at + 8);
    const hash = hashed ? hashOf(name, value) : 0;
    into.writeUInt32LE(hash, at + 12);
    name.copy(into, at + ENTRY_BYTES);
    at += ENTRY_BYTES + padded(name.length);
    whole = ((whole << 16) ^ (whole >>> 16) ^ hash) >>> 0;
  }
  return whole;
}

function hashOf(name: Buffer, value: Buffer): number {
  let hash = 0;
  for (const byte of name) hash = ((hash << 5) ^ (hash >>> 27) ^ byte) >>> 0;
  const words = Buffer.alloc(padded(value.length));
  value.copy(words);
  for (let at = 0; at < words.length; at += 4) hash = ((hash << 16) ^ (hash >>> 16) ^ words.readUInt32LE(at)) >>> 0;
  return hash;
}
