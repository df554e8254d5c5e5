/** The guest's RAM as it lies in QEMU, for snapshots. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { type Part, partsOf, type Range, readAt, writeAt } from './memory-parts.ts';
import type { MicroVm } from './micro-vm.ts';

/** Memory copied at a time. */
const CHUNK_BYTES = 1024 * 1024;

/** Copies that go on at a time, because the guest stands still meanwhile: one reads what another writes. */
const SIDE_BY_SIDE = 3;

/** What has to be zero to become a hole. */
const BLOCK_BYTES = 16 * 1024;

const ZEROS = Buffer.alloc(BLOCK_BYTES);

/**
 * Copies the RAM as the guest sees it. Of a restored machine that is a private mapping of a memory file, with what was
 * written since.
 * @param file descriptor of that memory file, which may have been deleted or replaced; undefined for a machine that was
 *   booted, which has nothing behind pages that QEMU does not have
 * @param to a file that is empty
 * @throws Error when the memory cannot be found or read
 */
export async function copyMemory(vm: MicroVm, size: number, file: number | undefined, to: string): Promise<void> {
  const begin = await addressOfMemory(vm);
  await using memory = await open(`/proc/${vm.pid}/mem`, 'r');
  await using target = await open(to, constants.O_RDWR | constants.O_CREAT, 0o600);
  await target.truncate(size);
  const chunks = chunksOf(await partsOf(vm.pid, begin, size, file));
  const copy = async () => {
    const room = Buffer.allocUnsafe(CHUNK_BYTES);
    for (let next = chunks.next(); !next.done; next = chunks.next()) {
      const { start, end, from } = next.value;
      const bytes = room.subarray(0, end - start);
      const length =
        from === 'file' && file !== undefined
          ? await readAt(file, bytes, start)
          : await readAt(memory.fd, bytes, begin + BigInt(start));
      if (length < bytes.length) throw new Error(`the memory of process ${vm.pid} cannot be read`);
      // what stays unwritten is a hole
      for (const range of nonZero(bytes)) {
        await writeAt(target, bytes.subarray(range.start, range.end), start + range.start);
      }
    }
  };
  // all are over before the file is closed, whichever fails
  const copies = await Promise.allSettled(Array.from({ length: SIDE_BY_SIDE }, copy));
  for (const each of copies) if (each.status === 'rejected') throw each.reason;
}

function* chunksOf(parts: readonly Part[]): Generator<Part, undefined> {
  for (const { start, end, from } of parts) {
    for (let at = start; at < end; at += CHUNK_BYTES) yield { start: at, end: Math.min(end, at + CHUNK_BYTES), from };
  }
  return undefined;
}

/** Ranges of blocks that are not all zero. */
function nonZero(bytes: Buffer): Range[] {
  const ranges: Range[] = [];
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    const block = bytes.subarray(at, at + BLOCK_BYTES);
    if (block.equals(ZEROS.subarray(0, block.length))) continue;
    const last = ranges.at(-1);
    if (last?.end === at) last.end += block.length;
    else ranges.push({ start: at, end: at + block.length });
  }
  return ranges;
}

/** Where the first byte of the guest's RAM is in QEMU, which keeps it in one piece however the guest sees it. */
async function addressOfMemory(vm: MicroVm): Promise<bigint> {
  const answer = await vm.execute<string>('human-monitor-command', { 'command-line': 'gpa2hva 0' });
  const [, address] = / is (0x[0-9a-f]+)/.exec(answer) ?? [];
  if (address === undefined) throw new Error(`QEMU does not tell where the guest's memory is: ${answer.trim()}`);
  return BigInt(address);
}
