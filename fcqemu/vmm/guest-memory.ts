/** The guest's RAM as it lies in QEMU, for snapshots. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { MicroVm } from './micro-vm.ts';

/** Memory copied at a time. */
const CHUNK_BYTES = 1024 * 1024;

/** What has to be zero to become a hole. */
const BLOCK_BYTES = 16 * 1024;

const PAGE_BYTES = 4096;

/** An entry of /proc/PID/pagemap, and in its last byte whether the page is in memory or swapped out. */
const PAGE_ENTRY_BYTES = 8;
const PAGE_EXISTS = 0xc0;

const ZEROS = Buffer.alloc(BLOCK_BYTES);

/**
 * Copies the RAM as the guest sees it. Of a restored machine that is a private mapping of a memory file, which may have
 * been deleted or replaced, with what was written since.
 * @param isAnonymous there is nothing behind pages that QEMU does not have
 * @throws Error when the memory cannot be found or read
 */
export async function copyMemory(vm: MicroVm, size: number, isAnonymous: boolean, to: string): Promise<void> {
  const begin = await addressOfMemory(vm);
  await using source = await open(`/proc/${vm.pid}/mem`, 'r');
  await using pages = isAnonymous ? await open(`/proc/${vm.pid}/pagemap`, 'r') : undefined;
  await using target = await open(to, constants.O_RDWR | constants.O_CREAT, 0o600);
  const isFresh = await makeRoom(target, size);
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  for (let at = 0; at < size; ) {
    const position = begin + BigInt(at);
    const length = Math.min(CHUNK_BYTES, size - at);
    // what stays unwritten of a fresh file is a hole
    if (isFresh && pages && !(await exists(pages, position, length))) {
      at += length;
      continue;
    }
    const { bytesRead } = await source.read({ buffer: chunk, length, position });
    if (bytesRead === 0) throw new Error(`the memory of process ${vm.pid} cannot be read`);
    const read = chunk.subarray(0, bytesRead);
    for (const [from, end] of isFresh ? nonZero(read) : [[0, bytesRead] as const]) {
      await target.write(read, from, end - from, at + from);
    }
    at += bytesRead;
  }
}

/** Whether any page of a range exists. */
async function exists(pages: FileHandle, position: bigint, length: number): Promise<boolean> {
  const entries = Buffer.alloc((length / PAGE_BYTES) * PAGE_ENTRY_BYTES);
  const offset = (position / BigInt(PAGE_BYTES)) * BigInt(PAGE_ENTRY_BYTES);
  const { bytesRead } = await pages.read({ buffer: entries, position: offset });
  if (bytesRead < entries.length) return true;
  for (let at = PAGE_ENTRY_BYTES - 1; at < entries.length; at += PAGE_ENTRY_BYTES) {
    if ((entries[at] ?? 0) & PAGE_EXISTS) return true;
  }
  return false;
}

/** Ranges of blocks that are not all zero. */
function nonZero(bytes: Buffer): (readonly [from: number, end: number])[] {
  const ranges: [number, number][] = [];
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    const block = bytes.subarray(at, at + BLOCK_BYTES);
    if (block.equals(ZEROS.subarray(0, block.length))) continue;
    const last = ranges.at(-1);
    if (last?.[1] === at) last[1] += block.length;
    else ranges.push([at, at + block.length]);
  }
  return ranges;
}

/**
 * A file of the right size is written over as it is: it may be the one this machine runs from, and would lose its
 * memory with it.
 */
async function makeRoom(file: FileHandle, size: number): Promise<boolean> {
  if ((await file.stat()).size === size) return false;
  await file.truncate(0);
  await file.truncate(size);
  return true;
}

/** Where the first byte of the guest's RAM is in QEMU, which keeps it in one piece however the guest sees it. */
async function addressOfMemory(vm: MicroVm): Promise<bigint> {
  const answer = await vm.execute<string>('human-monitor-command', { 'command-line': 'gpa2hva 0' });
  const [, address] = / is (0x[0-9a-f]+)/.exec(answer) ?? [];
  if (address === undefined) throw new Error(`QEMU does not tell where the guest's memory is: ${answer.trim()}`);
  return BigInt(address);
}
