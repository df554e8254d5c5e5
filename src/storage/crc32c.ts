/** CRC-32C (Castagnoli) as ext4 has it: reflected, without a final inversion (Linux, fs/ext4/ext4.h: ext4_chksum). */

const POLYNOMIAL = 0x82f63b78;
/** Four bytes at a time. */
const TABLES = makeTables();

function makeTables(): readonly [Int32Array, Int32Array, Int32Array, Int32Array] {
  const tables = [0, 1, 2, 3].map(() => new Int32Array(256)) as [Int32Array, Int32Array, Int32Array, Int32Array];
  const at = (table: Int32Array, index: number) => table[index & 0xff] ?? 0;
  for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    tables[0][byte] = value;
  }
  for (let byte = 0; byte < 256; byte++) {
    for (const [index, before] of [tables[0], tables[1], tables[2]].entries()) {
      const value = at(before, byte);
      (tables[index + 1] as Int32Array)[byte] = (value >>> 8) ^ at(tables[0], value);
    }
  }
  return tables;
}

/** Goes on from `crc`, which is 0xffffffff at the beginning. */
export function crc32c(crc: number, bytes: Uint8Array, from = 0, to = bytes.length): number {
  const [first, second, third, fourth] = TABLES;
  let value = crc | 0;
  let at = from;
  for (; at + 4 <= to; at += 4) {
    value ^=
      (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
    value =
      (fourth[value & 0xff] ?? 0) ^
      (third[(value >>> 8) & 0xff] ?? 0) ^
      (second[(value >>> 16) & 0xff] ?? 0) ^
      (first[value >>> 24] ?? 0);
  }
  for (; at < to; at++) value = (value >>> 8) ^ (first[(value ^ (bytes[at] ?? 0)) & 0xff] ?? 0);
  return value >>> 0;
}

/** Goes on with a 32-bit number, little-endian. */
export function crc32cOfNumber(crc: number, number: number): number {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number >>> 0);
  return crc32c(crc, bytes);
}
