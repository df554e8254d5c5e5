/** Directories without bundle.json whose files carry the conventional names, and how to give them one. */
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';
import { inspectKernel, type KernelArch } from '../boot/kernel.ts';
import { type SumOptions, sumDisk, sumFile, sumTree } from './checksum.ts';
import {
  type Bundle,
  type BundleManifest,
  MANIFEST_FILE,
  readBundle,
  resolveBundle,
  STANDARD_DEFAULTS,
  writeManifest,
} from './manifest.ts';

const KERNEL_NAMES = ['vmlinux', 'vmlinux.bin'];
const INITRD = 'initrd.img';
const ROOTFS = 'rootfs.ext4';
const PACKAGES = 'rootfs.packages';
const MODULE_DIRS = ['modules', 'lib/modules'];

/** Reads a bundle, with or without bundle.json; the `notice` of one without says how to write it. */
export async function loadBundle(dir: string): Promise<Bundle> {
  try {
    return await readBundle(dir);
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'not_found') throw error;
    return await readLegacy(dir);
  }
}

/**
 * Writes the bundle.json of a directory in the legacy layout, with the checksums of its files as they are now.
 * @throws BangerError `conflict` when it has one already
 */
export async function adoptBundle(dir: string, options: SumOptions = {}): Promise<Bundle> {
  if ((await entries(dir)).includes(MANIFEST_FILE)) {
    throw new BangerError('conflict', `${dir} has a ${MANIFEST_FILE} already.`, {
      hint: `See whether it fits the files: banger bundle verify ${dir}`,
    });
  }
  const { manifest } = await readLegacy(dir);
  const files: BundleManifest['files'] = {};
  for (const path of filesOf(manifest)) {
    const sum = path === manifest.rootfs ? sumDisk : sumFile;
    files[path] = await sum(join(dir, path), options);
  }
  const trees: BundleManifest['trees'] = {};
  if (manifest.modules !== undefined) trees[manifest.modules] = await sumTree(join(dir, manifest.modules), options);
  await writeManifest(dir, { ...manifest, files, trees });
  return await readBundle(dir);
}

/** The files of a bundle that have a checksum each. */
function filesOf(manifest: BundleManifest): string[] {
  const { kernel, initrd, rootfs, packages, helpers } = manifest;
  return [kernel, initrd, rootfs, ...(packages === undefined ? [] : [packages]), ...helpers];
}

async function readLegacy(dir: string): Promise<Bundle> {
  const names = await entries(dir);
  const kernel = KERNEL_NAMES.find((name) => names.includes(name));
  const missing = [
    ...(kernel === undefined ? [KERNEL_NAMES.join(' or ')] : []),
    ...[INITRD, ROOTFS].filter((name) => !names.includes(name)),
  ];
  if (kernel === undefined || missing.length > 0) {
    throw new BangerError(
      'not_found',
      `${dir} is no bundle: it has neither ${MANIFEST_FILE} nor ${missing.join(', ')}.`,
      {
        hint: 'Make one: banger bundle build',
      },
    );
  }
  const modules = await findModules(dir);
  const manifest: BundleManifest = {
    schema: 2,
    name: nameFor(dir),
    arch: await archOf(join(dir, kernel)),
    created: (await stat(join(dir, ROOTFS))).mtime.toISOString(),
    kernel,
    initrd: INITRD,
    ...(modules === undefined ? {} : { modules }),
    rootfs: ROOTFS,
    ...(names.includes(PACKAGES) ? { packages: PACKAGES } : {}),
    defaults: STANDARD_DEFAULTS,
    helpers: await findHelpers(dir, names),
    files: {},
    trees: {},
  };
  return {
    ...(await resolveBundle(dir, manifest)),
    legacy: true,
    notice: `${dir} has no ${MANIFEST_FILE}, so its files were taken by their names and not checked. Write one: banger bundle adopt ${dir}`,
  };
}

/** The tree itself is the directory that depmod's files lie in: `modules/RELEASE`, or `modules` alone. */
async function findModules(dir: string): Promise<string | undefined> {
  for (const parent of MODULE_DIRS) {
    const names = await entries(join(dir, parent), []);
    if (names.includes('modules.dep')) return parent;
    for (const release of names.sort().reverse()) {
      if ((await entries(join(dir, parent, release), [])).includes('modules.dep')) return `${parent}/${release}`;
    }
  }
  return undefined;
}

async function findHelpers(dir: string, names: string[]): Promise<string[]> {
  const beside = names.filter((name) => name.endsWith('.sh'));
  const inside = (await entries(join(dir, 'helpers'), [])).filter((name) => name.endsWith('.sh'));
  return [...beside, ...inside.map((name) => `helpers/${name}`)].sort();
}

async function archOf(kernel: string): Promise<KernelArch> {
  const inspected = await inspectKernel(kernel);
  return inspected.kind === 'elf' || inspected.kind === 'image' ? inspected.arch : 'x86_64';
}

/** A directory's name as a bundle's name, which knows fewer characters. */
function nameFor(dir: string): string {
  const name = basename(dir)
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+|(?<![^a-z0-9])[^a-z0-9]+$/g, '')
    .slice(0, 63);
  return name === '' ? 'bundle' : name;
}

async function entries(dir: string, fallback?: string[]): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    const code = systemCode(error);
    if (fallback && (code === 'ENOENT' || code === 'ENOTDIR')) return fallback;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new BangerError('not_found', `There is no directory ${dir}.`, {
        cause: error,
        hint: 'See the bundles there are: banger bundle list',
      });
    }
    throw new BangerError('host_unprepared', `The directory ${dir} cannot be read (${code}).`, {
      cause: error,
      hint: `See who may read it: ls -ld ${dir}`,
    });
  }
}
