/**
 * Kernels of a few bytes, so that tests can start a guest without Linux: an ELF with a PVH entry point and
 * hand-assembled 32-bit code that talks to the serial port and the i8042.
 */

const LOAD_ADDRESS = 0x100000;

/** mov dx, imm16 */
const movDx = (port: number) => [0x66, 0xba, port & 0xff, port >> 8];
const SERIAL_DATA = 0x3f8;
const SERIAL_STATUS = 0x3fd;

/** Pieces of code; a kernel runs them in order. */
export const code = {
  /** writes text to the serial port */
  print: (text: string): number[] => [
    ...movDx(SERIAL_DATA),
    // mov al, imm8; out dx, al
    ...[...Buffer.from(text)].flatMap((byte) => [0xb0, byte, 0xee]),
  ],
  /** polls the serial port until a byte comes, and leaves it in al */
  // mov dx, status; again: in al, dx; test al, 1; jz again; mov dx, data; in al, dx
  waitForByte: (): number[] => [...movDx(SERIAL_STATUS), 0xec, 0xa8, 0x01, 0x74, 0xfb, ...movDx(SERIAL_DATA), 0xec],
  /** writes al to the serial port */
  echo: (): number[] => [...movDx(SERIAL_DATA), 0xee],
  /** writes the same byte for ever */
  // mov dx, data; mov al, imm8; again: out dx, al; jmp again
  flood: (char: string): number[] => [...movDx(SERIAL_DATA), 0xb0, char.charCodeAt(0), 0xee, 0xeb, 0xfd],
  /** resets the machine through the keyboard controller, as reboot=k does: mov al, 0xfe; out 0x64, al */
  reset: (): number[] => [0xb0, 0xfe, 0xe6, 0x64, 0xfa, 0xf4, 0xeb, 0xfd],
  /** stands still without using CPU time: cli; again: hlt; jmp again */
  halt: (): number[] => [0xfa, 0xf4, 0xeb, 0xfd],
};

/** An ELF image that starts at the first byte of `instructions`. */
export function tinyKernel(instructions: number[], options: { pvh?: boolean; address?: number } = {}): Buffer {
  const address = options.address ?? LOAD_ADDRESS;
  const text = Buffer.from(instructions);
  const note = Buffer.alloc(24);
  note.writeUInt32LE(4, 0); // name size
  note.writeUInt32LE(8, 4); // description size
  note.writeUInt32LE(options.pvh === false ? 99 : 18, 8); // XEN_ELFNOTE_PHYS32_ENTRY
  note.write('Xen\0', 12, 'latin1');
  note.writeBigUInt64LE(BigInt(address), 16);
  const noteOffset = 64 + 2 * 56;
  const textOffset = 0x1000;

  const header = Buffer.alloc(textOffset);
  header.write('\x7fELF', 0, 'latin1');
  header.set([2, 1, 1], 4); // 64 bit, little endian, version
  header.writeUInt16LE(2, 16); // executable
  header.writeUInt16LE(62, 18); // x86-64
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(address), 24); // entry
  header.writeBigUInt64LE(64n, 32); // program headers
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(2, 56);
  programHeader(header, 64, { type: 1, offset: textOffset, address, size: text.length });
  programHeader(header, 120, { type: 4, offset: noteOffset, address: 0, size: note.length });
  note.copy(header, noteOffset);
  return Buffer.concat([header, text]);
}

function programHeader(
  header: Buffer,
  at: number,
  { type, offset, address, size }: { type: number; offset: number; address: number; size: number },
): void {
  header.writeUInt32LE(type, at);
  header.writeUInt32LE(5, at + 4); // readable, executable
  header.writeBigUInt64LE(BigInt(offset), at + 8);
  header.writeBigUInt64LE(BigInt(address), at + 16);
  header.writeBigUInt64LE(BigInt(address), at + 24);
  header.writeBigUInt64LE(BigInt(size), at + 32);
  header.writeBigUInt64LE(BigInt(size), at + 40);
  header.writeBigUInt64LE(4n, at + 48);
}
