/**
 * Looks into kernel and initrd before QEMU does, in the order and with the words of Firecracker's loader. QEMU boots
 * a bzImage too, which that one refuses, and needs a PVH entry point, which that one does not.
 */
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { ioErrorDebug, ioErrorText } from '../fault.ts';

/** `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of the PVH boot protocol. */
const PHYS32_ENTRY = 18;
const XEN_NAME = Buffer.from('Xen\0');
const PT_LOAD = 1;
const PT_NOTE = 4;
const ELF_MAGIC = 0x464c457f;
const ELF_HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const LITTLE_ENDIAN = 1;
/** Where `HdrS` stands in a bzImage. */
const BZIMAGE_MAGIC_AT = 0x202;
/** Notes of all segments together are a few hundred bytes; anything longer is no kernel. */
const MAX_NOTES_BYTES = 1024 * 1024;
/** A kernel has one segment of notes; more than these are not looked at. */
const MAX_NOTE_SEGMENTS = 16;
/** Kernels are entered above the first megabyte. */
const LOWEST_ENTRY = 0x10_0000n;
/** Guest memory goes on at 4 GiB where it is interrupted at 3. */
const GAP_AT = 3n << 30n;
const AFTER_GAP = 4n << 30n;

/** What a loader refuses: its words, and the same in Rust's debug form. */
export interface BootProblem {
  text: string;
  debug: string;
}

const ELF_PROBLEMS = {
  ReadElfHeader: 'Unable to read elf header',
  InvalidElfMagicNumber: 'Invalid Elf magic number',
  BigEndianElfOnLittle: 'Trying to load big-endian binary on little-endian machine',
  InvalidProgramHeaderSize: 'Invalid program header size',
  InvalidProgramHeaderOffset: 'Invalid program header offset',
  InvalidEntryAddress: 'Invalid entry address',
  ReadProgramHeader: 'Unable to read program header',
  ReadKernelImage: 'Unable to read kernel image',
} as const;

type ElfProblem = keyof typeof ELF_PROBLEMS;

interface Segment {
  type: number;
  offset: bigint;
  address: bigint;
  size: bigint;
}

/** @returns why a machine with so much memory cannot load the kernel; undefined when it can. @throws as open(2) */
export function kernelProblem(path: string, memoryBytes: bigint): BootProblem | undefined {
  const problem = withFile(path, (fd) =>
    isBzImage(fd) ? undefined : elfProblem(fd, statSync(path).size, memoryBytes),
  );
  if (problem === undefined) return undefined;
  const loader = `Kernel Loader: failed to load ELF kernel image: Kernel Loader: ${ELF_PROBLEMS[problem]}`;
  return {
    text:
      'System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: ' +
      loader,
    debug: `ConfigureSystem(KernelLoader(Elf(${problem})))`,
  };
}

/** @returns why a machine with so much memory cannot load the initrd; undefined when it can. @throws as open(2) */
export function initrdProblem(path: string, memoryBytes: bigint): BootProblem | undefined {
  const prefix = 'Error with initrd initialization';
  const { size } = statSync(path);
  if (BigInt(size) > firstRegion(memoryBytes)) {
    return { text: `${prefix}: Failed to compute the initrd address..`, debug: 'Initrd(Address)' };
  }
  if (size === 0) {
    return { text: `${prefix}: Cannot load initrd due to an invalid memory configuration..`, debug: 'Initrd(Load)' };
  }
  try {
    withFile(path, (fd) => readAt(fd, 0, 1));
    return undefined;
  } catch (error) {
    return {
      text: `${prefix}: Cannot load initrd due to an invalid image: ${ioErrorText(error)}.`,
      debug: `Initrd(Read(IOError(${ioErrorDebug(error)})))`,
    };
  }
}

/** True for an x86-64 ELF that Firecracker boots and QEMU refuses. @throws the system error of open(2) */
export function isElfWithoutPvh(path: string): boolean {
  return withFile(path, (fd) => {
    const header = elfHeader(fd);
    if (typeof header === 'string') return false;
    const segments = programHeaders(fd, header) ?? [];
    const notes = segments.filter(({ type }) => type === PT_NOTE).slice(0, MAX_NOTE_SEGMENTS);
    return segments.length > 0 && !notes.some((segment) => hasPvhNote(fd, segment));
  });
}

function elfProblem(fd: number, fileSize: number, memoryBytes: bigint): ElfProblem | undefined {
  const header = elfHeader(fd);
  if (typeof header === 'string') return header;
  if (header.readBigUInt64LE(24) < LOWEST_ENTRY) return 'InvalidEntryAddress';
  const segments = programHeaders(fd, header);
  if (!segments) return 'ReadProgramHeader';
  const loaded = segments.filter(({ type, size }) => type === PT_LOAD && size > 0n);
  const fits = ({ offset, address, size }: Segment) =>
    offset + size <= BigInt(fileSize) &&
    regions(memoryBytes).some(([from, to]) => from <= address && address + size <= to);
  return loaded.every(fits) ? undefined : 'ReadKernelImage';
}

/** The header of a sane ELF file, else what is wrong with it. */
function elfHeader(fd: number): Buffer | ElfProblem {
  let header: Buffer;
  try {
    header = readAt(fd, 0, ELF_HEADER_BYTES);
  } catch {
    return 'ReadElfHeader';
  }
  if (header.length < ELF_HEADER_BYTES) return 'ReadElfHeader';
  if (header.readUInt32LE(0) !== ELF_MAGIC) return 'InvalidElfMagicNumber';
  if (header[5] !== LITTLE_ENDIAN) return 'BigEndianElfOnLittle';
  if (header.readUInt16LE(54) !== PROGRAM_HEADER_BYTES) return 'InvalidProgramHeaderSize';
  if (header.readBigUInt64LE(32) < ELF_HEADER_BYTES) return 'InvalidProgramHeaderOffset';
  return header;
}

function programHeaders(fd: number, header: Buffer): Segment[] | undefined {
  const count = header.readUInt16LE(56);
  const offset = header.readBigUInt64LE(32);
  // what a header claims is looked for in the file before room is made for it
  if (offset + BigInt(PROGRAM_HEADER_BYTES * count) > BigInt(fstatSync(fd).size)) return undefined;
  const table = readAt(fd, Number(offset), PROGRAM_HEADER_BYTES * count);
  if (table.length < PROGRAM_HEADER_BYTES * count) return undefined;
  return Array.from({ length: count }, (_, index) => {
    const at = index * PROGRAM_HEADER_BYTES;
    return {
      type: table.readUInt32LE(at),
      offset: table.readBigUInt64LE(at + 8),
      address: table.readBigUInt64LE(at + 24),
      size: table.readBigUInt64LE(at + 32),
    };
  });
}

function hasPvhNote(fd: number, { offset, size }: Segment): boolean {
  const room = BigInt(fstatSync(fd).size) - offset;
  if (room <= 0n) return false;
  const limits = [size, room, BigInt(MAX_NOTES_BYTES / MAX_NOTE_SEGMENTS)];
  const notes = readAt(fd, Number(offset), Number(limits.reduce((a, b) => (a < b ? a : b))));
  // sizes are of 32 bits, and their sums are not: operators on bits would take the largest for negative ones
  const aligned = (length: number) => Math.ceil(length / 4) * 4;
  for (let at = 0; at + 12 <= notes.length; ) {
    const nameSize = notes.readUInt32LE(at);
    const descriptionSize = notes.readUInt32LE(at + 4);
    const isXen = nameSize === XEN_NAME.length && notes.subarray(at + 12, at + 12 + nameSize).equals(XEN_NAME);
    if (isXen && notes.readUInt32LE(at + 8) === PHYS32_ENTRY) return true;
    at += 12 + aligned(nameSize) + aligned(descriptionSize);
  }
  return false;
}

function isBzImage(fd: number): boolean {
  try {
    return readAt(fd, BZIMAGE_MAGIC_AT, 4).toString('latin1') === 'HdrS';
  } catch {
    return false;
  }
}

function firstRegion(memoryBytes: bigint): bigint {
  return memoryBytes < GAP_AT ? memoryBytes : GAP_AT;
}

function regions(memoryBytes: bigint): [from: bigint, to: bigint][] {
  const low = firstRegion(memoryBytes);
  return [
    [0n, low],
    [AFTER_GAP, AFTER_GAP + memoryBytes - low],
  ];
}

function withFile<T>(path: string, use: (fd: number) => T): T {
  const fd = openSync(path, 'r');
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

function readAt(fd: number, offset: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  const read = size === 0 ? 0 : readSync(fd, bytes, 0, size, offset);
  return bytes.subarray(0, read);
}
