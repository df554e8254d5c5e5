/**
 * The partitions of a disk, by its GPT (UEFI 2.10, chapter 5.3) or its MBR with the chain of logical ones. What a table says is
 * checked: sums, bounds, and that no two overlap.
 */
import { crc32 } from 'node:zlib';
import { BangerError } from '../errors.ts';
import { formatSize } from '../units.ts';
import type { DiskImage } from './disk-image.ts';

export interface Partition {
  /** from 1, as Linux counts them */
  number: number;
  /** in `bytes` */
  at: number;
  length: number;
  /** GUID in lower case, or two hexadecimal digits of an MBR */
  type: string;
  /** of a GPT, otherwise empty */
  name: string;
}

type Readable = Pick<DiskImage, 'read' | 'sizeBytes'>;

const SECTOR_BYTES = 512;
const SECTOR_SIZES = [512, 4096];
const TABLE_AT = 446;
const ENTRY_BYTES = 16;
const PROTECTIVE_TYPE = 0xee;
const EXTENDED_TYPES = [0x05, 0x0f, 0x85];
/** Linux itself takes 60. */
const MAX_LOGICAL = 60;
const GPT_HEADER_BYTES = 92;
/** The usual number is 128. */
const MAX_ENTRIES = 1024;
const NO_TYPE = '00000000-0000-0000-0000-000000000000';

/**
 * @returns undefined for a disk without a partition table
 * @throws BangerError `corrupt` for a table that contradicts itself or the disk
 */
export async function readPartitions(disk: Readable, path: string): Promise<Partition[] | undefined> {
  const boot = await disk.read(0, SECTOR_BYTES);
  if (boot.length < SECTOR_BYTES) return undefined;
  const gpt = await readGpt(disk, path);
  if (gpt) return inOrder(disk, gpt, path);
  if (boot.readUInt16LE(510) !== 0xaa55) return undefined;
  const entries = mbrEntries(boot).filter(({ type, sectors }) => type !== 0 && sectors > 0);
  if (entries.some(({ type }) => type === PROTECTIVE_TYPE)) throw damaged(path, 'both copies of its GPT are damaged');
  // the boot sector of a file system ends in the same two bytes, and has code or names where a table would be
  const plausible = entries.every(({ status, start }) => (status === 0 || status === 0x80) && start > 0);
  if (entries.length === 0 || !plausible) return undefined;
  const found: Partition[] = [];
  for (const { number, type, start, sectors } of entries) {
    if (EXTENDED_TYPES.includes(type)) found.push(...(await readLogical(disk, start, path)));
    else found.push(mbrPartition(number, type, start, sectors));
  }
  return inOrder(disk, found, path);
}

interface MbrEntry {
  number: number;
  status: number;
  type: number;
  /** in sectors of 512 bytes, relative to what the entry is of */
  start: number;
  sectors: number;
}

function mbrEntries(sector: Buffer): MbrEntry[] {
  return Array.from({ length: 4 }, (_, index) => {
    const at = TABLE_AT + index * ENTRY_BYTES;
    return {
      ...{ number: index + 1, status: sector.readUInt8(at), type: sector.readUInt8(at + 4) },
      ...{ start: sector.readUInt32LE(at + 8), sectors: sector.readUInt32LE(at + 12) },
    };
  });
}

function mbrPartition(number: number, type: number, start: number, sectors: number): Partition {
  return {
    ...{ number, at: start * SECTOR_BYTES, length: sectors * SECTOR_BYTES, name: '' },
    type: type.toString(16).padStart(2, '0'),
  };
}

/** Each sector of the chain has one partition and the place of the next, relative to the first. */
async function readLogical(disk: Readable, extended: number, path: string): Promise<Partition[]> {
  const found: Partition[] = [];
  for (let at = extended, seen = 0; ; seen++) {
    if (seen === MAX_LOGICAL) throw damaged(path, 'its logical partitions lead in a circle');
    const sector = await disk.read(at * SECTOR_BYTES, SECTOR_BYTES);
    if (sector.length < SECTOR_BYTES || sector.readUInt16LE(510) !== 0xaa55) {
      throw damaged(path, 'the chain of its logical partitions ends nowhere');
    }
    const [own, next] = mbrEntries(sector) as [MbrEntry, MbrEntry];
    if (own.type !== 0 && own.sectors > 0) {
      found.push(mbrPartition(5 + found.length, own.type, at + own.start, own.sectors));
    }
    if (next.sectors === 0 || !EXTENDED_TYPES.includes(next.type)) return found;
    at = extended + next.start;
  }
}

/** The first copy, or the one at the end of the disk where that is damaged. */
async function readGpt(disk: Readable, path: string): Promise<Partition[] | undefined> {
  let signed = false;
  for (const sectorBytes of SECTOR_SIZES) {
    if (disk.sizeBytes < 2 * sectorBytes) continue;
    for (const at of [sectorBytes, disk.sizeBytes - sectorBytes]) {
      const header = await disk.read(at, sectorBytes);
      if (header.length < sectorBytes || header.toString('latin1', 0, 8) !== 'EFI PART') continue;
      signed = true;
      const entries = await gptEntries(disk, header, sectorBytes);
      if (entries) return entries;
    }
  }
  if (signed) throw damaged(path, 'both copies of its GPT are damaged');
  return undefined;
}

/** Undefined when a sum is wrong. */
async function gptEntries(disk: Readable, header: Buffer, sectorBytes: number): Promise<Partition[] | undefined> {
  const headerBytes = header.readUInt32LE(12);
  if (headerBytes < GPT_HEADER_BYTES || headerBytes > header.length) return undefined;
  const summed = Buffer.from(header.subarray(0, headerBytes));
  summed.writeUInt32LE(0, 16);
  if (crc32(summed) !== header.readUInt32LE(16)) return undefined;
  const [count, entryBytes] = [header.readUInt32LE(80), header.readUInt32LE(84)];
  if (count > MAX_ENTRIES || entryBytes < 128 || entryBytes > 4096) return undefined;
  const table = await disk.read(Number(header.readBigUInt64LE(72)) * sectorBytes, count * entryBytes);
  if (table.length < count * entryBytes || crc32(table) !== header.readUInt32LE(88)) return undefined;
  const found: Partition[] = [];
  for (let index = 0; index < count; index++) {
    const entry = table.subarray(index * entryBytes, (index + 1) * entryBytes);
    const type = guidOf(entry);
    if (type === NO_TYPE) continue;
    const [first, last] = [Number(entry.readBigUInt64LE(32)), Number(entry.readBigUInt64LE(40))];
    const [name = ''] = entry.toString('utf16le', 56, 128).split('\0');
    found.push({
      ...{ number: index + 1, at: first * sectorBytes, length: (last - first + 1) * sectorBytes },
      ...{ type, name },
    });
  }
  return found;
}

/** The first three parts are little-endian numbers. */
function guidOf(bytes: Buffer): string {
  const hex = (part: Buffer) => part.toString('hex');
  const turned = (from: number, to: number) => hex(Buffer.from(bytes.subarray(from, to)).reverse());
  return [turned(0, 4), turned(4, 6), turned(6, 8), hex(bytes.subarray(8, 10)), hex(bytes.subarray(10, 16))].join('-');
}

function inOrder(disk: Readable, found: readonly Partition[], path: string): Partition[] {
  const sorted = [...found].sort((a, b) => a.at - b.at);
  for (const [index, each] of sorted.entries()) {
    if (each.length <= 0 || each.at + each.length > disk.sizeBytes) {
      const [end, size] = [formatSize(Math.max(each.at + each.length, 0)), formatSize(disk.sizeBytes)];
      throw damaged(path, `partition ${each.number} ends at ${end}, the disk at ${size}`);
    }
    const before = sorted[index - 1];
    if (before && each.at < before.at + before.length) {
      throw damaged(path, `partitions ${before.number} and ${each.number} overlap`);
    }
  }
  return sorted;
}

function damaged(path: string, why: string): BangerError {
  return new BangerError('corrupt', `The partition table of ${path} cannot be used: ${why}.`, {
    hint: `Look at it: sfdisk --list ${path}   The file may be cut short; then get it again.`,
  });
}
