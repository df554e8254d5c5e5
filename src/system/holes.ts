/** Where a sparse file holds data: the file system knows (lseek(2), `SEEK_DATA`), so that holes need not be read. */
import { loadLibc } from './libc.ts';

/** `SEEK_DATA` and `SEEK_HOLE` of Linux' unistd.h. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** Reading through a gap this small costs less than another read behind it. */
const SMALL_GAP_BYTES = 128 * 1024;

/** A part of a file in bytes; `end` is the first byte behind it. */
export interface DataRange {
  start: number;
  end: number;
}

/** lseek of the C library; -1 for any failure. */
export type Seek = (fd: number, offset: bigint, whence: number) => bigint;

let loading: Promise<{ lseek: Seek } | undefined> | undefined;

/** @returns undefined where the C library cannot be called */
export async function loadSeek(): Promise<Seek | undefined> {
  loading ??= loadLibc({ lseek: { arguments: ['int32', 'int64', 'int32'], return: 'int64' } });
  return (await loading)?.lseek;
}

/**
 * Ranges outside of which a file has zeros alone, in order; they may hold zeros too. What the file system cannot say,
 * or says in a way that makes no sense, is data. Moves the file's offset.
 * @param seek undefined: all of it is data
 * @param from where to begin
 */
export function* dataRanges(fd: number, sizeBytes: number, seek: Seek | undefined, from = 0): Generator<DataRange> {
  let current: DataRange | undefined;
  for (const range of rawRanges(fd, sizeBytes, seek, from)) {
    if (current !== undefined && range.start - current.end < SMALL_GAP_BYTES) {
      current.end = range.end;
      continue;
    }
    if (current !== undefined) yield current;
    current = range;
  }
  if (current !== undefined) yield current;
}

function* rawRanges(fd: number, sizeBytes: number, seek: Seek | undefined, from: number): Generator<DataRange> {
  const ask = (offset: number, whence: number) => (seek ? Number(seek(fd, BigInt(offset), whence)) : -1);
  let offset = from;
  while (offset < sizeBytes) {
    const start = ask(offset, SEEK_DATA);
    // the same -1 means that no data follow and that seeking failed; only in a hole is the next hole right here
    if (start === -1 && ask(offset, SEEK_HOLE) === offset) return;
    const end = start === -1 ? -1 : Math.min(ask(start, SEEK_HOLE), sizeBytes);
    if (!(start >= offset && end > start)) {
      yield { start: offset, end: sizeBytes };
      return;
    }
    yield { start, end };
    offset = end;
  }
}
