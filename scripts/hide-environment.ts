/**
 * Makes an executable that its C library's and Node's variables are hidden from: before anything of it runs. Node reads some of
 * them long before the first script (it makes NODE_COMPILE_CACHE's directory, prints for NODE_DEBUG_NATIVE, listens to
 * NODE_CHANNEL_FD), and has options against few. So a few instructions are put in front of the entry point, which
 * go through the environment on the stack and change the first letter of those names. They lie in the unused end of the last page
 * of code, so nothing in the file moves.
 */
import { HIDDEN_PREFIXES, HIDING_BIT } from '../bin/environment.ts';

/** Of the ELF header and of program headers (elf(5)), 64 bits. */
const ELF = { machine: 18, entry: 24, programHeaders: 32, programHeaderSize: 54, programHeaderCount: 56 } as const;
const SEGMENT = { type: 0, flags: 4, offset: 8, address: 16, fileSize: 32, memorySize: 40 } as const;
const MAGIC = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
const X86_64 = 62;
const LOADED = 1;
const EXECUTABLE = 1;
const PAGE = 4096;

/** Instructions per letter of a prefix, and those that hide a variable. */
const LETTER_BYTES = 6;
const HIDING_BYTES = 8;

interface Segment {
  /** where its header is in the file */
  header: number;
  offset: number;
  address: number;
  size: number;
  executable: boolean;
}

/**
 * Changes the bytes of an executable for x86-64 in place.
 * @throws Error when they are none, or have no room
 */
export function hideEnvironment(file: Buffer): void {
  if (!file.subarray(0, MAGIC.length).equals(MAGIC) || file.readUInt16LE(ELF.machine) !== X86_64)
    throw new Error('Only an executable for Linux on x86-64 can have its environment hidden.');
  const entry = Number(file.readBigUInt64LE(ELF.entry));
  const segments = loadedSegments(file);
  const code = segments.find(
    ({ executable, address, size }) => executable && entry >= address && entry < address + size,
  );
  if (!code) throw new Error('The entry point is in no segment of code.');
  const room = { address: align(code.address + code.size), offset: align(code.offset + code.size) };
  const instructions = hidingCode(room.address, entry);
  const end = room.offset + instructions.length;
  const limit = Math.ceil((code.offset + code.size) / PAGE) * PAGE;
  const unused = file.subarray(room.offset, end).every((byte) => byte === 0);
  if (end > limit || !unused || segments.some(({ offset, size }) => offset < end && offset + size > room.offset))
    throw new Error('There is no room for instructions behind the code.');
  instructions.copy(file, room.offset);
  const size = BigInt(end - code.offset);
  file.writeBigUInt64LE(size, code.header + SEGMENT.fileSize);
  file.writeBigUInt64LE(size, code.header + SEGMENT.memorySize);
  file.writeBigUInt64LE(BigInt(room.address), ELF.entry);
}

function loadedSegments(file: Buffer): Segment[] {
  const size = file.readUInt16LE(ELF.programHeaderSize);
  const first = Number(file.readBigUInt64LE(ELF.programHeaders));
  return Array.from({ length: file.readUInt16LE(ELF.programHeaderCount) }, (_, index) => first + index * size)
    .filter((header) => file.readUInt32LE(header + SEGMENT.type) === LOADED)
    .map((header) => ({
      header,
      offset: Number(file.readBigUInt64LE(header + SEGMENT.offset)),
      address: Number(file.readBigUInt64LE(header + SEGMENT.address)),
      size: Number(file.readBigUInt64LE(header + SEGMENT.fileSize)),
      executable: (file.readUInt32LE(header + SEGMENT.flags) & EXECUTABLE) !== 0,
    }));
}

function align(value: number): number {
  return Math.ceil(value / 16) * 16;
}

/**
 * Machine code at `address` that hides the variables and goes on at `next`. The stack begins with the number of arguments,
 * the arguments, a zero, the environment, a zero (System V ABI for AMD64, 3.4.1); rsp and rdx must stay.
 */
function hidingCode(address: number, next: number): Buffer {
  const code: number[] = [
    ...[0x48, 0x8b, 0x04, 0x24], //        mov  rax, [rsp]
    ...[0x48, 0x8d, 0x74, 0xc4, 0x10], //  lea  rsi, [rsp + 8 * rax + 16]
  ];
  const variable = code.length;
  code.push(
    ...[0x48, 0xad], //                    lodsq
    ...[0x48, 0x85, 0xc0], //              test rax, rax
  );
  const ends = jump(0x0f, 0x84); //         jz   end
  for (const prefix of HIDDEN_PREFIXES) {
    const next = code.length + prefix.length * LETTER_BYTES + HIDING_BYTES;
    for (const [index, letter] of Buffer.from(prefix).entries()) {
      code.push(0x80, 0x78, index, letter); // cmp  byte [rax + index], letter
      code.push(0x75, next - code.length - 2); // jne  the next prefix
    }
    code.push(0x80, 0x08, HIDING_BIT); //   or   byte [rax], 0x20
    land(jump(0xe9), variable); //          jmp  variable
  }
  land(jump(0xe9), variable); //            jmp  variable
  land(ends, code.length);
  land(jump(0xe9), next - address); //      jmp  next
  return Buffer.from(code);

  /** Adds a jump whose target is not known yet. @returns where its distance belongs */
  function jump(...opcode: number[]): number {
    code.push(...opcode, 0, 0, 0, 0);
    return code.length - 4;
  }

  function land(distanceAt: number, target: number): void {
    const distance = Buffer.alloc(4);
    distance.writeInt32LE(target - (distanceAt + 4));
    code.splice(distanceAt, 4, ...distance);
  }
}
