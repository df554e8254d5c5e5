/** Small real files of a bundle: an ELF kernel, a bzImage, an initrd, an ext4 image, a module tree. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeCpio } from '../../src/bundle/boot/cpio.ts';
import { sumDisk, sumFile, sumTree } from '../../src/bundle/store/checksum.ts';
import { type BundleManifest, STANDARD_DEFAULTS, writeManifest } from '../../src/bundle/store/manifest.ts';
import { createRunner } from '../../src/system/runner.ts';

export const runner = createRunner();

/** What unpacks kernels and modules here. */
export const unpacking = { runner, programs: { xz: 'xz', lz4: 'lz4' } };

/** Why a test that needs these programs is skipped; false when all are there. */
export function lacking(...programs: string[]): string | false {
  const directories = `${process.env.PATH}:/usr/sbin:/sbin`.split(':');
  const missing = programs.filter((name) => !directories.some((dir) => existsSync(join(dir, name))));
  return missing.length > 0 && `not installed here: ${missing.join(', ')}`;
}

export interface ElfOptions {
  /** e_machine; 62 is x86-64 */
  machine?: number;
  /** adds XEN_ELFNOTE_PHYS32_ENTRY */
  pvh?: boolean;
  /** bytes of its one loadable segment */
  loadBytes?: number;
}

/** An ELF64 file with one loadable segment and, as kernels have, a note segment. */
export function elfKernel({ machine = 62, pvh = true, loadBytes = 4096 }: ElfOptions = {}): Buffer {
  const note = Buffer.alloc(12 + 4 + 4 + (pvh ? 12 + 4 + 4 : 0));
  note.writeUInt32LE(4, 0);
  note.writeUInt32LE(4, 4);
  note.writeUInt32LE(6, 8);
  note.write('Xen\0', 12, 'latin1');
  if (pvh) {
    note.writeUInt32LE(4, 20);
    note.writeUInt32LE(4, 24);
    note.writeUInt32LE(18, 28);
    note.write('Xen\0', 32, 'latin1');
    note.writeUInt32LE(0x1000150, 36);
  }
  const header = Buffer.alloc(64);
  header.write('\x7fELF', 0, 'latin1');
  header.set([2, 1, 1], 4);
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(machine, 18);
  header.writeBigUInt64LE(64n, 32);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(2, 56);
  const programHeaders = Buffer.alloc(112);
  const notesAt = 64 + 112;
  segment(programHeaders, 0, 4, notesAt, note.length);
  segment(programHeaders, 56, 1, notesAt + note.length, loadBytes);
  return Buffer.concat([header, programHeaders, note, Buffer.alloc(loadBytes, 0x90)]);
}

function segment(table: Buffer, at: number, type: number, offset: number, size: number): void {
  table.writeUInt32LE(type, at);
  table.writeBigUInt64LE(BigInt(offset), at + 8);
  table.writeBigUInt64LE(BigInt(size), at + 32);
}

/** A bzImage around a payload, as the kernel's arch/x86/boot makes it: two setup sectors, then the rest. */
export function bzImage(payload: Buffer, claimedLength = payload.length): Buffer {
  const setup = Buffer.alloc(1024);
  setup.writeUInt8(1, 0x1f1);
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt16LE(0x20f, 0x206);
  const stub = Buffer.alloc(256, 0xcc);
  setup.writeUInt32LE(stub.length, 0x248);
  setup.writeUInt32LE(claimedLength, 0x24c);
  return Buffer.concat([setup, stub, payload, Buffer.alloc(512)]);
}

/** What the kernel build appends to every payload but gzip's: the size of what is inside. */
export function withSize(payload: Buffer, size: number): Buffer {
  const trailer = Buffer.alloc(4);
  trailer.writeUInt32LE(size);
  return Buffer.concat([payload, trailer]);
}

/** A module tree as depmod leaves it; `files` are paths below it with their bytes. */
export async function moduleTree(
  tree: string,
  indexes: { dep: string; builtin?: string; softdep?: string },
  files: Record<string, Uint8Array | string> = {},
): Promise<void> {
  await mkdir(tree, { recursive: true });
  await writeFile(join(tree, 'modules.dep'), indexes.dep);
  await writeFile(join(tree, 'modules.builtin'), indexes.builtin ?? '');
  await writeFile(join(tree, 'modules.softdep'), indexes.softdep ?? '');
  for (const [path, bytes] of Object.entries(files)) {
    await mkdir(join(tree, path, '..'), { recursive: true });
    await writeFile(join(tree, path), bytes);
  }
}

export const RELEASE = '6.1.0-test';

/** The files of a bundle in the legacy layout: everything but bundle.json. */
export async function bundleFiles(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, 'vmlinux'), elfKernel());
  await writeFile(
    join(dir, 'initrd.img'),
    writeCpio([{ type: 'file', path: 'init', data: Buffer.from('#!/bin/sh\n') }]),
  );
  await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', join(dir, 'rootfs.ext4'), '1M']);
  await writeFile(join(dir, 'rootfs.packages'), 'apt 2.6.1 amd64\n');
  await moduleTree(join(dir, 'modules', RELEASE), { dep: 'kernel/a.ko:\n' }, { 'kernel/a.ko': 'a module' });
}

/** A whole small bundle; `change` edits its description before it is written. */
export async function sampleBundle(
  dir: string,
  change: (manifest: BundleManifest) => BundleManifest = (manifest) => manifest,
): Promise<BundleManifest> {
  await bundleFiles(dir);
  const files: BundleManifest['files'] = {};
  for (const path of ['vmlinux', 'initrd.img', 'rootfs.packages']) files[path] = await sumFile(join(dir, path));
  files['rootfs.ext4'] = await sumDisk(join(dir, 'rootfs.ext4'));
  const modules = `modules/${RELEASE}`;
  const manifest = change({
    schema: 2,
    name: 'sample',
    arch: 'x86_64',
    created: '2026-01-02T03:04:05.000Z',
    kernel: 'vmlinux',
    initrd: 'initrd.img',
    modules,
    rootfs: 'rootfs.ext4',
    packages: 'rootfs.packages',
    defaults: STANDARD_DEFAULTS,
    helpers: [],
    files,
    trees: { [modules]: await sumTree(join(dir, modules)) },
  });
  await writeManifest(dir, manifest);
  return manifest;
}
