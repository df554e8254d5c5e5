/** Where the guest's RAM lies in QEMU, for snapshots. */
import { constants, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';

/** Memory copied at a time. */
const CHUNK_BYTES = 1024 * 1024;

/** The memfd that is the RAM of a machine that was booted, readable through /proc. */
export function sharedMemoryPath(pid: number): string | undefined {
  const directory = `/proc/${pid}/fd`;
  for (const fd of readdirSync(directory)) {
    const path = join(directory, fd);
    try {
      if (readlinkSync(path).startsWith('/memfd:memory-backend-memfd')) return path;
    } catch {
      // closed in between
    }
  }
  return undefined;
}

interface Mapping {
  start: bigint;
  bytes: number;
  /** place in the memory file */
  offset: number;
}

/**
 * Copies the RAM of a restored machine: its private mapping of a memory file, with what was written since.
 * @throws Error when the mapping cannot be found or read
 */
export async function copyPrivateMemory(pid: number, memoryPath: string, to: string): Promise<void> {
  const mappings = privateMappings(pid, memoryPath);
  if (mappings.length === 0) throw new Error(`QEMU has no private mapping of ${memoryPath}`);
  const source = await open(`/proc/${pid}/mem`, 'r');
  const size = statSync(memoryPath).size;
  const target = await open(to, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    const isFresh = await makeRoom(target, size);
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    const zeros = Buffer.alloc(CHUNK_BYTES);
    for (const { start, bytes, offset } of mappings) {
      for (let done = 0; done < bytes; ) {
        const wanted = Math.min(CHUNK_BYTES, bytes - done);
        const { bytesRead } = await source.read({ buffer: chunk, length: wanted, position: start + BigInt(done) });
        if (bytesRead === 0) throw new Error(`the memory of process ${pid} cannot be read`);
        const read = chunk.subarray(0, bytesRead);
        // what stays unwritten of a fresh file is a hole
        if (!isFresh || !read.equals(zeros.subarray(0, bytesRead)))
          await target.write(read, 0, bytesRead, offset + done);
        done += bytesRead;
      }
    }
  } finally {
    await source.close();
    await target.close();
  }
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

function privateMappings(pid: number, memoryPath: string): Mapping[] {
  const { ino } = statSync(memoryPath);
  const mappings: Mapping[] = [];
  // address range, rights, offset, device, inode, path
  const line = /^([0-9a-f]+)-([0-9a-f]+) rw-p ([0-9a-f]+) \S+ (\d+) /gm;
  for (const [, start, end, offset, inode] of readFileSync(`/proc/${pid}/maps`, 'utf8').matchAll(line)) {
    if (Number(inode) !== ino) continue;
    const from = BigInt(`0x${start}`);
    mappings.push({
      start: from,
      bytes: Number(BigInt(`0x${end}`) - from),
      offset: Number.parseInt(offset ?? '0', 16),
    });
  }
  return mappings;
}
