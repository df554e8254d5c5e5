/** Which parts of a guest's RAM hold something, and where each is read with the least work. */
import { read } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { type Libc, loadLibc } from '../libc.ts';

const PAGE_BYTES = 4096;

/** An entry of /proc/PID/pagemap, and bits in its last byte. */
const PAGE_ENTRY_BYTES = 8;
const PAGE_PRESENT = 0x80;
const PAGE_SWAPPED = 0x40;
/** The page is a file's, or shared: the process has written nothing there. */
const PAGE_OF_FILE = 0x20;

/** Reading through a gap this small costs less than another read behind it. */
const SMALL_GAP_BYTES = 128 * 1024;

/** Bytes of the memory; `end` is the first behind them. */
export interface Range {
  start: number;
  end: number;
}

/** Where it is read: in QEMU's address space, or in the file behind what QEMU has not written. */
export interface Part extends Range {
  from: 'process' | 'file';
}

const readFile = promisify(read);

/** @returns how many bytes there were, fewer than there is room for only at the end of the file */
export async function readAt(fd: number, into: Buffer, position: number | bigint): Promise<number> {
  let at = 0;
  while (at < into.length) {
    const where = typeof position === 'bigint' ? position + BigInt(at) : position + at;
    const { bytesRead } = await readFile(fd, into, at, into.length - at, where);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return at;
}

/** Writes all of it: a file system that is about to be full takes a part and says no only to the next one. */
export async function writeAt(file: Pick<FileHandle, 'write'>, bytes: Buffer, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, position + at);
    if (bytesWritten === 0) throw new Error('failed to write whole buffer');
    at += bytesWritten;
  }
}

/**
 * All that may be something else than zeros, in order.
 * @param begin address of the memory in that process
 * @param file descriptor of the memory file that it has mapped privately; undefined for anonymous memory
 */
export async function partsOf(pid: number, begin: bigint, size: number, file: number | undefined): Promise<Part[]> {
  const own = await ownRanges(pid, begin, size);
  const behind = file === undefined ? [] : dataRanges(file, size, await loadLibc());
  // small pieces of the file are read where the rest around them is
  const [kept, passed] = [[...without(behind, own)], [...own]];
  const large = kept.filter(({ start, end }) => {
    if (end - start >= SMALL_GAP_BYTES) return true;
    passed.push({ start, end });
    return false;
  });
  const parts: Part[] = [
    ...joined(passed.sort(byStart)).map((range): Part => ({ ...range, from: 'process' })),
    ...large.map((range): Part => ({ ...range, from: 'file' })),
  ];
  return parts.sort(byStart);
}

/** What the process has of its own: what was written, or all there is. */
async function ownRanges(pid: number, begin: bigint, size: number): Promise<Range[]> {
  await using pages = await open(`/proc/${pid}/pagemap`, 'r');
  const entries = Buffer.alloc((size / PAGE_BYTES) * PAGE_ENTRY_BYTES);
  const offset = (begin / BigInt(PAGE_BYTES)) * BigInt(PAGE_ENTRY_BYTES);
  if ((await readAt(pages.fd, entries, offset)) < entries.length) return [{ start: 0, end: size }];
  const ranges: Range[] = [];
  for (let at = 0; at < size; at += PAGE_BYTES) {
    const bits = entries[(at / PAGE_BYTES + 1) * PAGE_ENTRY_BYTES - 1] ?? PAGE_PRESENT;
    const isOwn = (bits & PAGE_SWAPPED) !== 0 || (bits & (PAGE_PRESENT | PAGE_OF_FILE)) === PAGE_PRESENT;
    if (!isOwn) continue;
    const last = ranges.at(-1);
    if (last?.end === at) last.end += PAGE_BYTES;
    else ranges.push({ start: at, end: at + PAGE_BYTES });
  }
  return ranges;
}

/** Where a sparse file has data, as the file system tells it; all of it where it cannot be asked. */
function dataRanges(fd: number, size: number, libc: Libc | undefined): Range[] {
  const ranges: Range[] = [];
  for (let at = 0; at < size; ) {
    const start = libc ? libc.seekData(fd, at) : at;
    if (start === undefined || start >= size) break;
    const end = Math.min(size, libc ? libc.seekHole(fd, start) : size);
    ranges.push({ start, end });
    at = end;
  }
  return ranges;
}

/** What of `ranges` is in none of `others`; both are in order. */
function* without(ranges: readonly Range[], others: readonly Range[]): Generator<Range> {
  let next = 0;
  for (const { start, end } of ranges) {
    let at = start;
    while (next < others.length && (others[next]?.end ?? 0) <= at) next++;
    for (let other = next; other < others.length; other++) {
      const hole = others[other];
      if (!hole || hole.start >= end) break;
      if (hole.start > at) yield { start: at, end: hole.start };
      at = Math.max(at, hole.end);
    }
    if (at < end) yield { start: at, end };
  }
}

/** Ranges that touch each other are one. */
function joined(ranges: readonly Range[]): Range[] {
  const result: Range[] = [];
  for (const { start, end } of ranges) {
    const last = result.at(-1);
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else result.push({ start, end });
  }
  return result;
}

function byStart(one: Range, other: Range): number {
  return one.start - other.start;
}
