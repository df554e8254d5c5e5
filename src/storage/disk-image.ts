/** A disk in a file, plain or qcow2: parts of it are read, and copied with their holes. */
import { open } from 'node:fs/promises';
import { dataRanges, loadSeek } from '../system/holes.ts';
import { turnsAfter } from '../system/turns.ts';
import { requireDiskSize } from './disk.ts';
import { HoleWriter } from './hole-writer.ts';
import { isQcow2, Qcow2 } from './qcow2.ts';

export interface DiskImage extends AsyncDisposable {
  format: 'raw' | 'qcow2';
  sizeBytes: number;
  /** Shorter where the disk ends before. */
  read(at: number, length: number): Promise<Buffer>;
  /** What is there from `at` on, in order; what is left out is zeros. Pieces are not kept. */
  pieces(at: number, length: number, signal?: AbortSignal): AsyncGenerator<{ at: number; bytes: Buffer }>;
}

const PIECE_BYTES = 1024 * 1024;
/** So many pieces at once, then others have a turn. */
const PIECES_AT_ONCE = 64;
/** The same of entries of tables. */
const ENTRIES_AT_ONCE = 65_536;

/** @throws BangerError as `Qcow2.open` */
export async function openDiskImage(path: string): Promise<DiskImage> {
  const file = await open(path, 'r');
  try {
    const { buffer: head } = await file.read(Buffer.alloc(8), 0, 8, 0);
    if (!isQcow2(head)) {
      const { size } = await file.stat();
      const plain = plainPieces(file, size);
      return diskOf('raw', size, plain, () => file.close());
    }
    const image = await Qcow2.open(file, path);
    requireDiskSize(image.sizeBytes);
    return diskOf('qcow2', image.sizeBytes, clusterPieces(image), () => file.close());
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Writes a part of a disk to the beginning of a file that does not exist yet. */
export async function copyOut(
  disk: DiskImage,
  part: { at: number; length: number },
  target: string,
  options: { signal: AbortSignal; onBytes?: (bytes: number) => void },
): Promise<void> {
  await using file = await open(target, 'wx', 0o600);
  await file.truncate(part.length);
  const writer = new HoleWriter(file);
  const turn = turnsAfter(PIECES_AT_ONCE);
  let done = 0;
  for await (const { at, bytes } of disk.pieces(part.at, part.length, options.signal)) {
    options.signal.throwIfAborted();
    const offset = at - part.at;
    // holes are looked for in what it puts together
    for (let from = 0; from < bytes.length; from += PIECE_BYTES) {
      const pending = writer.write(offset + from, bytes.subarray(from, from + PIECE_BYTES));
      if (pending) await pending;
    }
    options.onBytes?.(offset + bytes.length - done);
    done = offset + bytes.length;
    const pending = turn();
    if (pending) await pending;
  }
  await writer.flush();
  if (done < part.length) options.onBytes?.(part.length - done);
}

type Pieces = DiskImage['pieces'];

function diskOf(format: DiskImage['format'], sizeBytes: number, pieces: Pieces, close: () => Promise<void>): DiskImage {
  return {
    ...{ format, sizeBytes, pieces },
    async read(at, length) {
      const bytes = Buffer.alloc(Math.max(0, Math.min(length, sizeBytes - at)));
      for await (const piece of pieces(at, bytes.length)) piece.bytes.copy(bytes, piece.at - at);
      return bytes;
    },
    [Symbol.asyncDispose]: close,
  };
}

function plainPieces(file: Awaited<ReturnType<typeof open>>, size: number): Pieces {
  return async function* (from, length) {
    const buffer = Buffer.alloc(Math.min(PIECE_BYTES, length));
    // a file of holes can be as large as any, and reading them takes as long as reading data
    for (const range of dataRanges(file.fd, Math.min(from + length, size), await loadSeek(), from)) {
      for (let at = range.start; at < range.end; ) {
        const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, range.end - at), at);
        if (bytesRead === 0) return;
        yield { at, bytes: buffer.subarray(0, bytesRead) };
        at += bytesRead;
      }
    }
  };
}

function clusterPieces(image: Qcow2): Pieces {
  return async function* (from, length, signal) {
    const { clusterBytes } = image;
    const end = Math.min(from + length, image.sizeBytes);
    const turn = turnsAfter(ENTRIES_AT_ONCE, signal);
    for (let at = from - (from % clusterBytes); ; at += clusterBytes) {
      at = await image.nextWithData(at, end, turn);
      if (at >= end) return;
      const cluster = await image.cluster(at);
      const [first, last] = [Math.max(from - at, 0), Math.min(end - at, cluster?.length ?? 0)];
      if (cluster && last > first) yield { at: at + first, bytes: cluster.subarray(first, last) };
    }
  };
}
