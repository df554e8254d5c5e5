/**
 * What only the C library can do for this process. Node's way to call it (`node:ffi`) is an experiment of Node's:
 * where it is missing, everything works without, at the price of memory and of exits that take longer; all but taps and
 * the balloon of a restored guest.
 */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';

/** `M_MMAP_THRESHOLD` and `M_ARENA_MAX` of malloc.h. */
const MALLOC_OPTIONS: [option: number, value: number][] = [
  // what is freed of this size goes back to the kernel at once, also after larger pieces were seen
  [-3, 128 * 1024],
  [-8, 2],
];
const SIG_BLOCK = 0;
const SIG_UNBLOCK = 1;
const SIG_IGN = 1n;
const SIGSET_BYTES = 128;
const MADV_DONTNEED = 4;
/** Of unistd.h. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2n;
const PR_SET_NO_NEW_PRIVS = 38;
const FILTER_INSTRUCTION_BYTES = 8;

/** The signal Firecracker's threads wake each other with; whoever sends it from outside does no harm. */
const WAKE_SIGNAL = 35;

/** Raised by a fault of the running code, or sent like any other. */
const FAULTS = ['SIGILL', 'SIGBUS', 'SIGSEGV'] as const;

export interface Libc {
  /** Gives back what malloc keeps, and program pages that were used once; those still needed come back by themselves. */
  giveBack(): void;
  /** ioctl(2) with a structure that is read and written. @throws an error with the `code` of the system's */
  ioctl(fd: number, request: bigint, structure: Buffer): void;
  /**
   * Has a seccomp filter decide on the calls of this thread and of the children it starts, which give up gaining rights.
   * @param program `struct sock_filter` after `struct sock_filter`
   * @throws an error with the `code` of the system's
   */
  filterCalls(program: Buffer): void;
  /**
   * Where a file has data next, and where these end (lseek(2)); moves its offset.
   * @returns undefined for no data any more; an offset in bytes, at which a file system that cannot say it has data
   */
  seekData(fd: number, offset: number): number | undefined;
  seekHole(fd: number, offset: number): number;
}

let loaded: Promise<Libc | undefined> | undefined;

/** Prepares the process when it is first called. @returns undefined where the C library cannot be called */
export function loadLibc(): Promise<Libc | undefined> {
  loaded ??= prepare();
  return loaded;
}

async function prepare(): Promise<Libc | undefined> {
  try {
    const { dlopen, getInt32, getRawPointer } = await import('node:ffi');
    const { functions: c } = dlopen(null, {
      mallopt: { arguments: ['int32', 'int32'], return: 'int32' },
      malloc_trim: { arguments: ['uint64'], return: 'int32' },
      madvise: { arguments: ['uint64', 'uint64', 'int32'], return: 'int32' },
      pthread_sigmask: { arguments: ['int32', 'buffer', 'uint64'], return: 'int32' },
      signal: { arguments: ['int32', 'uint64'], return: 'uint64' },
      ioctl: { arguments: ['int32', 'uint64', 'buffer'], return: 'int32' },
      lseek: { arguments: ['int32', 'int64', 'int32'], return: 'int64' },
      prctl: { arguments: ['int32', 'uint64', 'uint64', 'uint64', 'uint64'], return: 'int32' },
      __errno_location: { arguments: [], return: 'pointer' },
    });
    const check = (result: number, call: string) => {
      if (result !== -1) return;
      const code = getSystemErrorName(-getInt32(c.__errno_location()));
      throw Object.assign(new Error(`${call}: ${code}`), { code });
    };
    for (const [option, value] of MALLOC_OPTIONS) c.mallopt(option, value);
    c.signal(WAKE_SIGNAL, SIG_IGN);
    // one that is sent finds another thread; after a real one this thread would run into it again for ever, because
    // Node's handler returns, but a fault that is blocked ends the process
    c.pthread_sigmask(SIG_BLOCK, signalSet(FAULTS), 0n);
    // in the executable, where it does not open the debugger, Node keeps it blocked
    c.pthread_sigmask(SIG_UNBLOCK, signalSet(['SIGUSR1']), 0n);
    return {
      giveBack() {
        c.malloc_trim(0n);
        for (const { start, end } of unchangedFilePages()) c.madvise(start, end - start, MADV_DONTNEED);
      },
      ioctl: (fd, request, structure) => check(c.ioctl(fd, request, structure), 'ioctl'),
      seekData(fd, offset) {
        const found = Number(c.lseek(fd, BigInt(offset), SEEK_DATA));
        if (found >= 0) return found;
        return getSystemErrorName(-getInt32(c.__errno_location())) === 'ENXIO' ? undefined : offset;
      },
      seekHole(fd, offset) {
        const found = Number(c.lseek(fd, BigInt(offset), SEEK_HOLE));
        return found > offset ? found : Infinity;
      },
      filterCalls(program) {
        // struct sock_fprog: how many instructions, and where
        const filter = Buffer.alloc(16);
        filter.writeUInt16LE(program.length / FILTER_INSTRUCTION_BYTES, 0);
        filter.writeBigUInt64LE(getRawPointer(program), 8);
        check(c.prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n), 'prctl');
        check(c.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, getRawPointer(filter), 0n, 0n), 'prctl');
      },
    };
  } catch {
    return undefined;
  }
}

function signalSet(names: readonly NodeJS.Signals[]): Buffer {
  const set = Buffer.alloc(SIGSET_BYTES);
  for (const name of names) {
    const bit = constants.signals[name] - 1;
    set.writeUInt8(set.readUInt8(bit >> 3) | (1 << (bit & 7)), bit >> 3);
  }
  return set;
}

/** Mappings of the program and its libraries that are as on disk; a page that was changed would be lost. */
function unchangedFilePages(): { start: bigint; end: bigint }[] {
  const mappings = readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return mappings.flatMap((mapping) => {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \d+ +\//.exec(mapping) ?? [];
    if (start === undefined || end === undefined || !/^Anonymous: +0 kB$/m.test(mapping)) return [];
    return [{ start: BigInt(`0x${start}`), end: BigInt(`0x${end}`) }];
  });
}
