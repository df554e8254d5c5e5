/** What a file is that somebody takes for an image, by the first bytes of it: so that a refusal can say what to do. */
import { open } from 'node:fs/promises';
import { formatSize } from '../units.ts';

export interface FileKind {
  /** with its article, e.g. `a qcow2 disk image` */
  name: string;
  /** the commands that make an ext4 file system or an archive of it */
  remedy: string;
}

/** The furthest signature, that of btrfs, ends here. */
const LOOK_BYTES = 0x10048;

const SECTOR_BYTES = 512;

interface Signature {
  at: number;
  bytes: string;
  name: string;
  remedy(path: string): string;
}

const toRaw = (format: string) => (path: string) =>
  `Make a raw image of it, then import that: qemu-img convert -f ${format} -O raw ${path} ${path}.raw`;
const toDirectory = (path: string) =>
  `Copy its files into an ext4 file system: mke2fs -t ext4 -d DIRECTORY rootfs.ext4 4G, DIRECTORY being where ${path} is mounted or unpacked`;
const unpack = (program: string) => (path: string) => `Unpack it first: ${program} -dc ${path} > rootfs.ext4`;

/** From the formats' own descriptions; text is Latin-1. */
const SIGNATURES: readonly Signature[] = [
  { at: 0, bytes: 'QFI\xfb', name: 'a qcow2 disk image', remedy: toRaw('qcow2') },
  { at: 0, bytes: 'KDMV', name: 'a VMDK disk image', remedy: toRaw('vmdk') },
  { at: 0, bytes: 'vhdxfile', name: 'a VHDX disk image', remedy: toRaw('vhdx') },
  { at: 0, bytes: 'conectix', name: 'a VHD disk image', remedy: toRaw('vpc') },
  { at: 64, bytes: '\x7f\x10\xda\xbe', name: 'a VDI disk image', remedy: toRaw('vdi') },
  { at: 0, bytes: 'XFSB', name: 'an XFS file system', remedy: toDirectory },
  { at: 0x10040, bytes: '_BHRfS_M', name: 'a btrfs file system', remedy: toDirectory },
  {
    at: 0,
    bytes: 'hsqs',
    name: 'a squashfs file system',
    remedy: (path) =>
      `Unpack it, then make a file system of that: unsquashfs -d rootfs ${path} && mke2fs -t ext4 -d rootfs rootfs.ext4 4G`,
  },
  {
    at: 0x8001,
    bytes: 'CD001',
    name: 'a CD image',
    remedy: () => 'Import the root file system it installs, not the installer.',
  },
  { at: 0, bytes: 'LUKS\xba\xbe', name: 'an encrypted volume (LUKS)', remedy: toDirectory },
  { at: 512, bytes: 'LABELONE', name: 'a physical volume of LVM', remedy: toDirectory },
  {
    at: 0,
    bytes: '\x7fELF',
    name: 'a program or kernel (ELF)',
    remedy: () => 'Import a root file system; a kernel comes beside it: --kernel FILE',
  },
  {
    at: 0,
    bytes: 'MZ',
    name: 'a kernel or Windows program',
    remedy: () => 'Import a root file system; a kernel comes beside it: --kernel FILE',
  },
  {
    at: 0,
    bytes: '070701',
    name: 'an initrd (cpio)',
    remedy: () => 'Import a root file system; an initrd comes beside it: --initrd FILE',
  },
];

/** Compressed files may hold an archive, which is unpacked as it is; what is inside is known after that only. */
const COMPRESSED: readonly { bytes: string; program: string }[] = [
  { bytes: '\x1f\x8b', program: 'gzip' },
  { bytes: '\xfd7zXZ\0', program: 'xz' },
  { bytes: 'BZh', program: 'bzip2' },
];

/** Files that are no archive and no ext4 file system; undefined for what may be one. */
export async function foreignKind(path: string): Promise<FileKind | undefined> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  if (size === 0) return { name: 'an empty file', remedy: 'Get it again: its transfer may have failed.' };
  const head = Buffer.alloc(Math.min(LOOK_BYTES, size));
  await file.read(head, 0, head.length, 0);
  const has = (at: number, bytes: string) => head.toString('latin1', at, at + bytes.length) === bytes;
  const found = SIGNATURES.find(({ at, bytes }) => has(at, bytes));
  if (found) return { name: found.name, remedy: found.remedy(path) };
  const packed = COMPRESSED.find(({ bytes }) => has(0, bytes));
  if (packed) return { name: `a file compressed by ${packed.program}`, remedy: unpack(packed.program)(path) };
  const partition = largestPartition(head);
  if (partition) {
    return {
      name: `a disk with partitions, the largest of ${formatSize(partition.sectors * SECTOR_BYTES)}`,
      remedy: `Take that partition out of it: dd if=${path} of=rootfs.ext4 bs=1M iflag=skip_bytes,count_bytes conv=sparse skip=${partition.start * SECTOR_BYTES} count=${partition.sectors * SECTOR_BYTES}`,
    };
  }
  if (head.every((byte) => byte === 0))
    return { name: 'a file of zeros', remedy: 'Make a file system on it: mke2fs -t ext4' };
  return undefined;
}

interface Partition {
  /** first sector, of 512 bytes */
  start: number;
  sectors: number;
}

const MBR_TABLE_AT = 446;
const MBR_ENTRY_BYTES = 16;
const PROTECTIVE_TYPE = 0xee;

/** Of a GPT (UEFI 2.10, 5.3) or an MBR; a boot sector without a sensible table is none. */
function largestPartition(head: Buffer): Partition | undefined {
  if (head.length < 2 * SECTOR_BYTES || head.readUInt16LE(510) !== 0xaa55) return undefined;
  const entries = Array.from({ length: 4 }, (_, index) => {
    const at = MBR_TABLE_AT + index * MBR_ENTRY_BYTES;
    return { type: head.readUInt8(at + 4), start: head.readUInt32LE(at + 8), sectors: head.readUInt32LE(at + 12) };
  });
  const isGpt = head.toString('latin1', SECTOR_BYTES, SECTOR_BYTES + 8) === 'EFI PART';
  const used = isGpt
    ? gptPartitions(head)
    : entries.filter(({ type, start, sectors }) => type !== 0 && type !== PROTECTIVE_TYPE && start > 0 && sectors > 0);
  return used.reduce<Partition | undefined>(
    (largest, each) => (largest === undefined || each.sectors > largest.sectors ? each : largest),
    undefined,
  );
}

function gptPartitions(head: Buffer): Partition[] {
  const table = Number(head.readBigUInt64LE(SECTOR_BYTES + 72)) * SECTOR_BYTES;
  const count = head.readUInt32LE(SECTOR_BYTES + 80);
  const entryBytes = head.readUInt32LE(SECTOR_BYTES + 84);
  const found: Partition[] = [];
  if (entryBytes < 128) return found;
  for (let index = 0; index < count; index++) {
    const at = table + index * entryBytes;
    if (at + 48 > head.length) break;
    if (head.subarray(at, at + 16).every((byte) => byte === 0)) continue;
    const start = Number(head.readBigUInt64LE(at + 32));
    found.push({ start, sectors: Number(head.readBigUInt64LE(at + 40)) - start + 1 });
  }
  return found;
}
