/** Looks into a kernel image before QEMU does, so that a kernel it cannot boot is refused at PUT time. */
import { closeSync, openSync, readSync } from 'node:fs';

/** `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of the PVH boot protocol. */
const PHYS32_ENTRY = 18;
const PT_NOTE = 4;
const ELF_MAGIC = 0x464c457f;
const ELF_HEADER_BYTES = 64;
const CLASS_64 = 2;
/** notes are a few hundred bytes; anything longer is no kernel */
const MAX_NOTES_BYTES = 1024 * 1024;

/**
 * True for an x86-64 ELF without a PVH entry point, which QEMU refuses and Firecracker boots. Whatever else
 * the file is shows when the machine starts.
 * @throws the system error of open(2) or read(2)
 */
export function isElfWithoutPvh(path: string): boolean {
  const fd = openSync(path, 'r');
  try {
    const header = readAt(fd, 0, ELF_HEADER_BYTES);
    const isElf = header.length === ELF_HEADER_BYTES && header.readUInt32LE(0) === ELF_MAGIC && header[4] === CLASS_64;
    return isElf && !noteSegments(fd, header).some(hasPvhNote);
  } finally {
    closeSync(fd);
  }
}

function noteSegments(fd: number, header: Buffer): Buffer[] {
  const entrySize = header.readUInt16LE(54);
  const entries = header.readUInt16LE(56);
  const table = readAt(fd, Number(header.readBigUInt64LE(32)), entrySize * entries);
  const segments: Buffer[] = [];
  for (let at = 0; entrySize >= 56 && at + entrySize <= table.length; at += entrySize) {
    if (table.readUInt32LE(at) !== PT_NOTE) continue;
    const size = Number(table.readBigUInt64LE(at + 32));
    segments.push(readAt(fd, Number(table.readBigUInt64LE(at + 8)), Math.min(size, MAX_NOTES_BYTES)));
  }
  return segments;
}

function hasPvhNote(notes: Buffer): boolean {
  const aligned = (length: number) => (length + 3) & ~3;
  for (let at = 0; at + 12 <= notes.length; ) {
    const nameSize = notes.readUInt32LE(at);
    const descriptionSize = notes.readUInt32LE(at + 4);
    const name = notes.toString('latin1', at + 12, at + 12 + nameSize);
    if (name === 'Xen\0' && notes.readUInt32LE(at + 8) === PHYS32_ENTRY) return true;
    at += 12 + aligned(nameSize) + aligned(descriptionSize);
  }
  return false;
}

function readAt(fd: number, offset: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  const read = size === 0 ? 0 : readSync(fd, bytes, 0, size, offset);
  return bytes.subarray(0, read);
}
