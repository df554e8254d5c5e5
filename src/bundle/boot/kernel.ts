/** What a kernel file is, read from its headers: enough to say before a start whether it can boot. */
import { type FileHandle, open } from 'node:fs/promises';
import { BangerError, systemCode } from '../../errors.ts';

export type KernelArch = 'x86_64' | 'aarch64';

export type KernelInspection =
  /** an uncompressed ELF kernel, complete on disk */
  | { kind: 'elf'; arch: KernelArch; pvhEntry: number | undefined; sizeBytes: number }
  /** an uncompressed arm64 kernel image */
  | { kind: 'image'; arch: 'aarch64'; sizeBytes: number }
  /** a compressed kernel as distributions ship it; `extractVmlinux` turns it into an ELF one */
  | { kind: 'bzimage'; sizeBytes: number }
  /** an ELF kernel whose program headers point past the end of the file */
  | { kind: 'truncated'; sizeBytes: number; neededBytes: number }
  /** no kernel; `reason` says what it is instead */
  | { kind: 'unusable'; reason: string; sizeBytes: number };

const ELF_MAGIC = 0x464c457f;
const EM_X86_64 = 62;
const EM_AARCH64 = 183;
const PT_LOAD = 1;
const PT_NOTE = 4;

/** Address where a PVH loader enters the kernel; Linux: include/xen/interface/elfnote.h. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** Size of a program header of 64 bits (ELF-64 object file format). */
const PROGRAM_HEADER_BYTES = 56;

/** Kernels have a handful; their table is read as a whole. */
const MAX_PROGRAM_HEADERS = 256;

/** A kernel's notes take a few hundred bytes; a larger segment is not read. */
const MAX_NOTE_BYTES = 64 * 1024;

/**
 * Reads a kernel's headers.
 * @throws BangerError `not_found` when there is no such file, `host_unprepared` when it cannot be read
 */
export async function inspectKernel(path: string): Promise<KernelInspection> {
  await using file = await openKernel(path);
  const info = await file.stat();
  if (!info.isFile()) return { kind: 'unusable', reason: 'not a regular file', sizeBytes: 0 };
  const sizeBytes = info.size;
  const start = await readAt(file, 0, 0x210);
  if (start.length >= 64 && start.readUInt32LE(0) === ELF_MAGIC) return await inspectElf(file, start, sizeBytes);
  // arm64: Documentation/arch/arm64/booting.rst, magic "ARM\x64" at 56
  if (start.length >= 64 && start.toString('latin1', 56, 60) === 'ARM\x64') {
    return { kind: 'image', arch: 'aarch64', sizeBytes };
  }
  if (start.length >= 0x206 && start.toString('latin1', 0x202, 0x206) === 'HdrS') return { kind: 'bzimage', sizeBytes };
  return { kind: 'unusable', reason: sizeBytes === 0 ? 'empty' : 'neither ELF nor bzImage', sizeBytes };
}

/**
 * Why a kernel cannot boot on `arch`, as the end of "The kernel PATH …"; undefined when nothing speaks against it.
 */
export function kernelProblem(kernel: KernelInspection, arch: KernelArch): string | undefined {
  switch (kernel.kind) {
    case 'unusable':
      return `is no kernel: it is ${kernel.reason}`;
    case 'bzimage':
      return 'is compressed (bzImage) and must be an uncompressed ELF file';
    case 'truncated':
      return `is cut short: it has ${kernel.sizeBytes} of ${kernel.neededBytes} bytes`;
    case 'image':
      return arch === 'aarch64' ? undefined : `is for ${kernel.arch}, not ${arch}`;
    case 'elf':
      if (kernel.arch !== arch) return `is for ${kernel.arch}, not ${arch}`;
      if (arch === 'x86_64' && kernel.pvhEntry === undefined) return 'has no PVH entry point (CONFIG_PVH is off)';
      return undefined;
  }
}

async function inspectElf(file: FileHandle, header: Buffer, sizeBytes: number): Promise<KernelInspection> {
  const unusable = (reason: string): KernelInspection => ({ kind: 'unusable', reason, sizeBytes });
  if (header.readUInt8(4) !== 2 || header.readUInt8(5) !== 1) return unusable('not a 64-bit little-endian ELF file');
  const machine = header.readUInt16LE(18);
  const arch = machine === EM_X86_64 ? 'x86_64' : machine === EM_AARCH64 ? 'aarch64' : undefined;
  if (arch === undefined) return unusable(`an ELF file for machine ${machine}`);
  const tableOffset = Number(header.readBigUInt64LE(32));
  const entrySize = header.readUInt16LE(54);
  const entries = header.readUInt16LE(56);
  if (entries === 0 || entrySize < PROGRAM_HEADER_BYTES) return unusable('an ELF file without program headers');
  if (entrySize > PROGRAM_HEADER_BYTES || entries > MAX_PROGRAM_HEADERS) {
    return unusable('an ELF file with headers that no kernel has');
  }
  const tableEnd = tableOffset + entrySize * entries;
  if (tableEnd > sizeBytes) return { kind: 'truncated', sizeBytes, neededBytes: tableEnd };

  const table = await readAt(file, tableOffset, entrySize * entries);
  let neededBytes = tableEnd;
  let loads = 0;
  let pvhEntry: number | undefined;
  for (let at = 0; at < table.length; at += entrySize) {
    const type = table.readUInt32LE(at);
    const offset = Number(table.readBigUInt64LE(at + 8));
    const length = Number(table.readBigUInt64LE(at + 32));
    if (type === PT_LOAD) loads++;
    if (type === PT_LOAD || type === PT_NOTE) neededBytes = Math.max(neededBytes, offset + length);
    if (type === PT_NOTE && offset + length <= sizeBytes && length <= MAX_NOTE_BYTES) {
      pvhEntry ??= findPvhEntry(await readAt(file, offset, length));
    }
  }
  if (neededBytes > sizeBytes) return { kind: 'truncated', sizeBytes, neededBytes };
  if (loads === 0) return unusable('an ELF file with nothing to load');
  return { kind: 'elf', arch, pvhEntry, sizeBytes };
}

/** Notes are name size, description size, type, name, description; the last two padded to four bytes. */
function findPvhEntry(notes: Buffer): number | undefined {
  let at = 0;
  while (at + 12 <= notes.length) {
    const nameSize = notes.readUInt32LE(at);
    const descSize = notes.readUInt32LE(at + 4);
    const type = notes.readUInt32LE(at + 8);
    const desc = at + 12 + Math.ceil(nameSize / 4) * 4;
    if (desc + descSize > notes.length) return undefined;
    const isXen = notes.toString('latin1', at + 12, at + 12 + nameSize) === 'Xen\0';
    if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY && descSize >= 4) return notes.readUInt32LE(desc);
    at = desc + Math.ceil(descSize / 4) * 4;
  }
  return undefined;
}

async function openKernel(path: string): Promise<FileHandle> {
  try {
    return await open(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') {
      throw new BangerError('not_found', `The kernel ${path} does not exist.`, {
        cause: error,
        hint: 'Build or import a bundle: banger bundle build',
      });
    }
    throw new BangerError('host_unprepared', `The kernel ${path} cannot be read (${systemCode(error)}).`, {
      cause: error,
      hint: `See who may read it: ls -l ${path}`,
    });
  }
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}
