/**
 * How QEMU may treat the memory file of a restored guest. It does not write to it: for each page that the guest gives up, to its balloon
 * or by reporting it free, QEMU punches a hole into the file although it has mapped it privately, and takes the page
 * from all that run from it; then it drops its own copy, which would do. And it asks for no huge pages for this memory: the kernel would
 * read the file by 2 MiB around each page that the guest touches, most of it holes. A seccomp filter answers these calls with
 * success and does nothing. It stays with the thread that installs it and with all children it starts.
 */
import { endianness } from 'node:os';
import type { Libc } from '../libc.ts';

/** By architecture: `AUDIT_ARCH_*` and the numbers of fallocate(2) and madvise(2). */
const ARCHITECTURES: Partial<Record<NodeJS.Architecture, { audit: number; fallocate: number; madvise: number }>> = {
  x64: { audit: 0xc000003e, fallocate: 285, madvise: 28 },
  arm64: { audit: 0xc00000b7, fallocate: 47, madvise: 233 },
};

const FALLOC_FL_PUNCH_HOLE = 2;
const MADV_HUGEPAGE = 14;

/** Offsets in `struct seccomp_data`; of a 64-bit argument the lower half. */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
/** of fallocate(2) what it is to do, of madvise(2) the length */
const SECOND_ARGUMENT_AT = 24;
/** of madvise(2) the advice */
const THIRD_ARGUMENT_AT = 32;

/** Operations of linux/filter.h: load a word, jump if equal or if a bit is set, return. */
const LOAD = 0x20;
const JUMP_EQUAL = 0x15;
const JUMP_SET = 0x45;
const RETURN = 0x06;

const ALLOW = 0x7fff0000;
/** `SECCOMP_RET_ERRNO` with no error: the call is not made and returns 0. */
const SUCCEED = 0x00050000;

let isGuarded = false;

/**
 * From now on no child of this process can punch holes, or has huge pages for its guest's memory.
 * @param bytes length of that memory
 * @throws Error where that cannot be had
 */
export function guardMemoryFile(libc: Libc | undefined, bytes: number): void {
  if (isGuarded) return;
  const architecture = ARCHITECTURES[process.arch];
  if (!libc || !architecture || endianness() !== 'LE') throw new Error('this host has no filter for it');
  libc.filterCalls(
    Buffer.concat([
      instruction(LOAD, ARCHITECTURE_AT),
      instruction(JUMP_EQUAL, architecture.audit, { otherwise: 10 }),
      instruction(LOAD, NUMBER_AT),
      instruction(JUMP_EQUAL, architecture.fallocate, { otherwise: 2 }),
      instruction(LOAD, SECOND_ARGUMENT_AT),
      instruction(JUMP_SET, FALLOC_FL_PUNCH_HOLE, { met: 5, otherwise: 6 }),
      instruction(JUMP_EQUAL, architecture.madvise, { otherwise: 5 }),
      instruction(LOAD, THIRD_ARGUMENT_AT),
      instruction(JUMP_EQUAL, MADV_HUGEPAGE, { otherwise: 3 }),
      instruction(LOAD, SECOND_ARGUMENT_AT),
      instruction(JUMP_EQUAL, bytes % 2 ** 32, { otherwise: 1 }),
      instruction(RETURN, SUCCEED),
      instruction(RETURN, ALLOW),
    ]),
  );
  isGuarded = true;
}

/** One `struct sock_filter`; `met` and `otherwise` are how many instructions a jump leaves out. */
function instruction(operation: number, value: number, { met = 0, otherwise = 0 } = {}): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(operation, 0);
  bytes.writeUInt8(met, 2);
  bytes.writeUInt8(otherwise, 3);
  bytes.writeUInt32LE(value, 4);
  return bytes;
}
