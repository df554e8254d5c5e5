/** Everything that an ext4 file system says of a file: owners, modes, attributes, where a link leads, which parts of it are data. */
import type { DataPiece, FileKind } from '../core/file-tree.ts';
import { type BlockRun, damaged, type Ext4Reader } from './ext4-reader.ts';
import { parseAttributes } from './ext4-xattrs.ts';

export interface FileFacts {
  /** undefined for sockets, and for what is nothing */
  kind: FileKind | undefined;
  /** the lower 12 bits */
  mode: number;
  uid: number;
  gid: number;
  /** whole seconds since 1970 */
  mtime: number;
  size: number;
  /** how many names it has */
  links: number;
  xattrs: Map<string, Buffer>;
  /** of a link, a character for each byte */
  target?: string;
  device?: { major: number; minor: number };
}

/** A part of a file that is no hole, and where it is. */
export interface StoredPiece extends DataPiece {
  run: BlockRun;
}

const FAST_LINK_BYTES = 60;
const MAX_LINK_BYTES = 4096;
const FLAG_EXTENTS = 0x80000;
/** Of one file, all of which are held at once; a file of 100 GiB that was written in random order has fewer. */
const MAX_PIECES = 250_000;

const KINDS: ReadonlyMap<number, FileKind> = new Map([
  ...([
    [1, 'fifo'],
    [2, 'char'],
    [4, 'directory'],
    [6, 'block'],
    [8, 'file'],
    [10, 'link'],
  ] as const),
]);

/** @throws BangerError `corrupt` */
export async function factsOf(reader: Ext4Reader, inode: number): Promise<FileFacts> {
  const raw = await reader.inode(inode);
  const { inodeBytes } = reader.geometry;
  const mode = raw.readUInt16LE(0x00);
  const kind = KINDS.get(mode >> 12);
  const extra = inodeBytes > 128 ? raw.readUInt16LE(0x80) : 0;
  // two bits more than 32 for what comes after 2038
  const later = extra >= 12 ? raw.readUInt32LE(0x88) & 3 : 0;
  const facts: FileFacts = {
    kind,
    mode: mode & 0o7777,
    uid: raw.readUInt16LE(0x02) + raw.readUInt16LE(0x78) * 2 ** 16,
    gid: raw.readUInt16LE(0x18) + raw.readUInt16LE(0x7a) * 2 ** 16,
    mtime: raw.readInt32LE(0x10) + later * 2 ** 32,
    size: kind === 'file' ? raw.readUInt32LE(0x04) + raw.readUInt32LE(0x6c) * 2 ** 32 : 0,
    links: raw.readUInt16LE(0x1a),
    xattrs: await attributesOf(reader, raw, extra),
  };
  if (!Number.isSafeInteger(facts.size)) throw damaged(reader.path, `the file ${inode} is longer than any`);
  if (kind === 'link') return { ...facts, target: await targetOf(reader, inode, raw) };
  if (kind === 'char' || kind === 'block') return { ...facts, device: deviceOf(raw) };
  return facts;
}

/** @throws BangerError `corrupt` for a map that goes back, or has more parts than any */
export async function storedPieces(
  reader: Ext4Reader,
  inode: number,
  size: number,
  maxPieces = MAX_PIECES,
): Promise<StoredPiece[]> {
  const { blockBytes } = reader.geometry;
  const pieces: StoredPiece[] = [];
  let end = 0;
  let runs = 0;
  for await (const run of reader.runs(inode)) {
    runs += 1;
    if (runs > maxPieces) throw damaged(reader.path, `the file ${inode} is in more than ${maxPieces} parts`);
    const offset = run.logical * blockBytes;
    if (offset < end) throw damaged(reader.path, `the file ${inode} has a part twice`);
    end = offset + run.count * blockBytes;
    // blocks beyond the end are kept for what is to come
    const length = Math.min(end, size) - offset;
    if (length > 0) pieces.push({ offset, length, run });
  }
  return pieces;
}

async function targetOf(reader: Ext4Reader, inode: number, raw: Buffer): Promise<string> {
  const length = raw.readUInt32LE(0x04);
  if (length > MAX_LINK_BYTES) throw damaged(reader.path, `the link ${inode} is longer than any`);
  if (length < FAST_LINK_BYTES && !(raw.readUInt32LE(0x20) & FLAG_EXTENTS)) {
    return raw.toString('latin1', 0x28, 0x28 + length);
  }
  for await (const { start } of reader.runs(inode)) return (await reader.block(start)).toString('latin1', 0, length);
  throw damaged(reader.path, `the link ${inode} leads nowhere`);
}

/** As `init_special_inode` and its callers have it: 8 bits each, or 12 and 20. */
function deviceOf(raw: Buffer): { major: number; minor: number } {
  const old = raw.readUInt32LE(0x28);
  if (old !== 0) return { major: (old >>> 8) & 0xff, minor: old & 0xff };
  const wide = raw.readUInt32LE(0x2c);
  return { major: (wide >>> 8) & 0xfff, minor: (wide & 0xff) | ((wide >>> 12) & 0xfff00) };
}

async function attributesOf(reader: Ext4Reader, raw: Buffer, extra: number): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  const wrong = () => damaged(reader.path, 'extended attributes contradict themselves');
  if (128 + extra + 4 <= raw.length && extra > 0) parseAttributes(raw.subarray(128 + extra), 'inside', found, wrong);
  const block = raw.readUInt32LE(0x68) + raw.readUInt16LE(0x76) * 2 ** 32;
  if (block !== 0) parseAttributes(await reader.block(block), 'block', found, wrong);
  return found;
}
