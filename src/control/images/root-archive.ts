/**
 * A whole ext4 file system as one tar archive: in the order of names, whole seconds, nothing of when or where it was made. File systems
 * with the same files give the same bytes.
 */
import { setImmediate } from 'node:timers/promises';
import { BangerError } from '../../errors.ts';
import { TAR_END, type TarMember, tarHeader, tarPadding } from '../../oci/tar-writer.ts';
import { type FileFacts, factsOf, type StoredPiece, storedPieces } from '../../storage/ext4-files.ts';
import { Ext4Reader } from '../../storage/ext4-reader.ts';
import { openExt4Tree, type TreeNode } from '../../storage/ext4-tree.ts';

/** Holes of a file that are worth a map; smaller ones are zeros. */
const HOLES_BYTES = 1024 * 1024;
/** Linux takes no longer ones. */
const MAX_PATH_BYTES = 4096;
/** Files at once, then others have a turn. */
const FILES_AT_ONCE = 200;
const ZEROS = Buffer.alloc(1024 * 1024);

/** @throws BangerError `corrupt` for a file system that is damaged or cannot be read here */
export async function* archiveOf(image: string, signal: AbortSignal): AsyncGenerator<Buffer> {
  await using tree = await openExt4Tree(image);
  await using reader = await Ext4Reader.open(image);
  /** by inode, the first name of a file with several */
  const names = new Map<number, string>();
  const waiting: { path: string; node: TreeNode }[] = [{ path: '', node: tree.root }];
  let files = 0;
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    signal.throwIfAborted();
    const { path, node } = next;
    if (path.length > MAX_PATH_BYTES) {
      throw new BangerError('corrupt', `A path of more than ${MAX_PATH_BYTES} bytes is in ${image}.`);
    }
    const below = node.kind === 'directory' ? [...(await tree.entries(node))] : [];
    // of the file system itself: the next one has its own
    if (path === 'lost+found' && node.kind === 'directory' && below.length === 0) continue;
    // the last one goes first
    below.sort(([a], [b]) => (a < b ? 1 : -1));
    for (const [name, child] of below) waiting.push({ path: path === '' ? name : `${path}/${name}`, node: child });
    const facts = await factsOf(reader, node.inode);
    yield* memberOf(reader, path, node.inode, facts, names);
    files += 1;
    if (files % FILES_AT_ONCE === 0) await setImmediate();
  }
  yield TAR_END;
}

async function* memberOf(
  reader: Ext4Reader,
  path: string,
  inode: number,
  facts: FileFacts,
  names: Map<number, string>,
): AsyncGenerator<Buffer> {
  const { kind, links, ...rest } = facts;
  // sockets are of processes
  if (kind === undefined) return;
  const first = names.get(inode);
  if (first !== undefined) {
    const { xattrs: _, device: __, ...own } = rest;
    yield tarHeader({ ...own, path, kind: 'hard-link', target: first, size: 0 });
    return;
  }
  if (kind !== 'directory' && links > 1) names.set(inode, path);
  const member: TarMember = { ...rest, path, kind };
  if (kind !== 'file') {
    yield tarHeader(member);
    return;
  }
  const stored = await storedPieces(reader, inode, facts.size);
  const data = stored.reduce((sum, { length }) => sum + length, 0);
  if (facts.size - data >= HOLES_BYTES) {
    const pieces = joined(stored);
    yield tarHeader({ ...member, pieces });
    for (const piece of stored) yield* dataOf(reader, piece);
    yield tarPadding(data);
    return;
  }
  yield tarHeader(member);
  let at = 0;
  for (const piece of stored) {
    yield* zeros(piece.offset - at);
    yield* dataOf(reader, piece);
    at = piece.offset + piece.length;
  }
  yield* zeros(facts.size - at);
  yield tarPadding(facts.size);
}

/** Wherever they are on disk: parts that follow each other in the file are one. */
function joined(stored: readonly StoredPiece[]): { offset: number; length: number }[] {
  const pieces: { offset: number; length: number }[] = [];
  for (const { offset, length } of stored) {
    const last = pieces.at(-1);
    if (last && last.offset + last.length === offset) last.length += length;
    else pieces.push({ offset, length });
  }
  return pieces;
}

async function* dataOf(reader: Ext4Reader, { run, length }: StoredPiece): AsyncGenerator<Buffer> {
  let left = length;
  for await (const bytes of reader.content(run)) {
    if (left <= 0) return;
    yield bytes.subarray(0, left);
    left -= bytes.length;
  }
}

function* zeros(count: number): Generator<Buffer> {
  for (let left = count; left > 0; left -= ZEROS.length) yield ZEROS.subarray(0, Math.min(left, ZEROS.length));
}
