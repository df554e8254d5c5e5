/**
 * A whole ext4 file system as one tar archive: in the order of names, whole seconds, nothing of when or where it was made. File systems
 * with the same files give the same bytes.
 */
import { setImmediate } from 'node:timers/promises';
import type { DataPiece } from '../../core/file-tree.ts';
import { BangerError } from '../../errors.ts';
import { TAR_END, type TarMember, tarHeader, tarPadding } from '../../oci/tar-writer.ts';
import { type FileFacts, factsOf, type StoredPiece, storedPieces } from '../../storage/ext4-files.ts';
import { damaged, Ext4Reader } from '../../storage/ext4-reader.ts';
import { openExt4Tree, type TreeNode } from '../../storage/ext4-tree.ts';

/** Holes of a file that are worth a map; smaller ones are zeros. */
const HOLES_BYTES = 1024 * 1024;
/** Parts begin and end at these, whatever the blocks of the file system are. */
const PART_BYTES = 4096;
/** Linux takes no longer ones. */
const MAX_PATH_BYTES = 4096;
/** Files at once, then others have a turn. */
const FILES_AT_ONCE = 200;
const ZEROS = Buffer.alloc(1024 * 1024);

/** @throws BangerError `corrupt` for a file system that is damaged or cannot be read here; `invalid_input` for paths longer than any */
export async function* archiveOf(image: string, signal: AbortSignal): AsyncGenerator<Buffer> {
  await using tree = await openExt4Tree(image);
  await using reader = await Ext4Reader.open(image);
  const state: ArchiveState = { names: new Map(), leftBytes: reader.geometry.blocks * reader.geometry.blockBytes };
  const waiting: { path: string; node: TreeNode }[] = [{ path: '', node: tree.root }];
  let files = 0;
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    signal.throwIfAborted();
    const { path, node } = next;
    if (path.length > MAX_PATH_BYTES) {
      const begins = path.slice(0, 100).replace(/[^\x20-\x7e]/g, '?');
      throw new BangerError('invalid_input', `A path in ${image} is longer than ${MAX_PATH_BYTES} bytes: ${begins}…`, {
        hint: 'Remove it in a VM of the image, or move the whole image as one file: banger image export NAME FILE',
      });
    }
    const below = node.kind === 'directory' ? [...(await tree.entries(node))] : [];
    // of the file system itself: the next one has its own
    if (path === 'lost+found' && node.kind === 'directory' && below.length === 0) continue;
    // the last one goes first
    below.sort(([a], [b]) => (a < b ? 1 : -1));
    for (const [name, child] of below) waiting.push({ path: path === '' ? name : `${path}/${name}`, node: child });
    const facts = await factsOf(reader, node.inode);
    yield* memberOf(reader, path, node.inode, facts, state);
    files += 1;
    if (files % FILES_AT_ONCE === 0) await setImmediate();
  }
  yield TAR_END;
}

interface ArchiveState {
  /** by inode, the first name of a file with several */
  names: Map<number, string>;
  /** of data that the file system has room for: no two files share a block */
  leftBytes: number;
}

async function* memberOf(
  reader: Ext4Reader,
  path: string,
  inode: number,
  facts: FileFacts,
  state: ArchiveState,
): AsyncGenerator<Buffer> {
  const { kind, links, ...rest } = facts;
  // sockets are of processes
  if (kind === undefined) return;
  const first = state.names.get(inode);
  if (first !== undefined) {
    const { xattrs: _, device: __, ...own } = rest;
    yield tarHeader({ ...own, path, kind: 'hard-link', target: first, size: 0 });
    return;
  }
  if (kind !== 'directory' && links > 1) state.names.set(inode, path);
  const member: TarMember = { ...rest, path, kind };
  if (kind !== 'file') {
    yield tarHeader(member);
    return;
  }
  const stored = await storedPieces(reader, inode, facts.size);
  for (const { length } of stored) state.leftBytes -= length;
  if (state.leftBytes < 0) throw damaged(reader.path, 'its files are larger together than it is');
  const parts = partsOf(stored, facts.size);
  const bytes = parts.reduce((sum, { length }) => sum + length, 0);
  if (facts.size - bytes >= HOLES_BYTES) {
    yield tarHeader({ ...member, pieces: parts });
    yield* filled(reader, stored, parts);
    yield tarPadding(bytes);
    return;
  }
  yield tarHeader(member);
  yield* filled(reader, stored, [{ offset: 0, length: facts.size }]);
  yield tarPadding(facts.size);
}

/** Wherever they are on disk, and in blocks of whatever size: parts of whole pages, of which those that follow each other are one. */
function partsOf(stored: readonly StoredPiece[], size: number): DataPiece[] {
  const parts: DataPiece[] = [];
  for (const { offset, length } of stored) {
    const from = offset - (offset % PART_BYTES);
    const end = Math.min(size, Math.ceil((offset + length) / PART_BYTES) * PART_BYTES);
    const last = parts.at(-1);
    if (last && last.offset + last.length >= from) last.length = end - last.offset;
    else parts.push({ offset: from, length: end - from });
  }
  return parts;
}

/** These parts of a file, zeros where nothing is stored. */
async function* filled(
  reader: Ext4Reader,
  stored: readonly StoredPiece[],
  parts: readonly DataPiece[],
): AsyncGenerator<Buffer> {
  let next = 0;
  for (const { offset, length } of parts) {
    let at = offset;
    for (let piece = stored[next]; piece && piece.offset < offset + length; piece = stored[++next]) {
      yield* zeros(piece.offset - at);
      yield* dataOf(reader, piece);
      at = piece.offset + piece.length;
    }
    yield* zeros(offset + length - at);
  }
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
