/** What a file is that somebody takes for an image, by the first bytes of it: so that a refusal can say what to do. */
import { open } from 'node:fs/promises';

export interface FileKind {
  /** with its article, e.g. `a qcow2 disk image` */
  name: string;
  /** the commands that make an ext4 file system or an archive of it */
  remedy: string;
}

/** The furthest signature, that of btrfs, ends here. */
const LOOK_BYTES = 0x10048;

interface Signature {
  at: number;
  bytes: string;
  name: string;
  remedy(path: string): string;
}

const toRaw = (format: string) => (path: string) =>
  `Make a raw image of it, then import that: qemu-img convert -f ${format} -O raw ${path} ${path}.raw`;
const asImage = (path: string) => `Import it as an image: banger image import ${path}`;
const toDirectory = (path: string) =>
  `Copy its files into an ext4 file system: mke2fs -t ext4 -d DIRECTORY rootfs.ext4 4G, DIRECTORY being where ${path} is mounted or unpacked`;
const unpack = (program: string) => (path: string) => `Unpack it first: ${program} -dc ${path} > rootfs.ext4`;

/** From the formats' own descriptions; text is Latin-1. */
const SIGNATURES: readonly Signature[] = [
  { at: 0, bytes: 'QFI\xfb', name: 'a qcow2 disk image', remedy: asImage },
  { at: 0, bytes: 'KDMV', name: 'a VMDK disk image', remedy: toRaw('vmdk') },
  { at: 0, bytes: 'vhdxfile', name: 'a VHDX disk image', remedy: toRaw('vhdx') },
  { at: 0, bytes: 'conectix', name: 'a VHD disk image', remedy: toRaw('vpc') },
  { at: 64, bytes: '\x7f\x10\xda\xbe', name: 'a VDI disk image', remedy: toRaw('vdi') },
  { at: 0, bytes: 'XFSB', name: 'an XFS file system', remedy: asImage },
  { at: 0x10040, bytes: '_BHRfS_M', name: 'a btrfs file system', remedy: asImage },
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
  if (head.every((byte) => byte === 0))
    return { name: 'a file of zeros', remedy: 'Make a file system on it: mke2fs -t ext4' };
  return undefined;
}
