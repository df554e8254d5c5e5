/** Where the guest's RAM lies in QEMU, for snapshots. */
import { constants, readdirSync, readlinkSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { MicroVm } from './micro-vm.ts';

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

/**
 * Copies the RAM of a restored machine as QEMU sees it: its private mapping of a memory file, with what was written
 * since. The file itself may have been deleted or replaced.
 * @throws Error when the memory cannot be found or read
 */
export async function copyPrivateMemory(vm: MicroVm, size: number, to: string): Promise<void> {
  const begin = await addressOfMemory(vm);
  const source = await open(`/proc/${vm.pid}/mem`, 'r');
  try {
    const target = await open(to, constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      const isFresh = await makeRoom(target, size);
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const zeros = Buffer.alloc(CHUNK_BYTES);
      for (let at = 0; at < size; ) {
        const length = Math.min(CHUNK_BYTES, size - at);
        const { bytesRead } = await source.read({ buffer: chunk, length, position: begin + BigInt(at) });
        if (bytesRead === 0) throw new Error(`the memory of process ${vm.pid} cannot be read`);
        const read = chunk.subarray(0, bytesRead);
        // what stays unwritten of a fresh file is a hole
        if (!isFresh || !read.equals(zeros.subarray(0, bytesRead))) await target.write(read, 0, bytesRead, at);
        at += bytesRead;
      }
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
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

/** Where the first byte of the guest's RAM is in QEMU, which keeps it in one piece however the guest sees it. */
async function addressOfMemory(vm: MicroVm): Promise<bigint> {
  const answer = await vm.execute<string>('human-monitor-command', { 'command-line': 'gpa2hva 0' });
  const [, address] = / is (0x[0-9a-f]+)/.exec(answer) ?? [];
  if (address === undefined) throw new Error(`QEMU does not tell where the guest's memory is: ${answer.trim()}`);
  return BigInt(address);
}
