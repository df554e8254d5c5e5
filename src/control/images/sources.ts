/** What an image is imported from: an archive, or an ext4 file system with a kernel from elsewhere. */
import { copyFile, lstat, mkdir, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ImageImport } from '../../api/image.ts';
import { looksLikeInitrd } from '../../bundle/boot/initrd-file.ts';
import { inspectKernel, kernelProblem } from '../../bundle/boot/kernel.ts';
import { extractVmlinux } from '../../bundle/boot/vmlinux.ts';
import { inspectRootfs, rootfsProblem } from '../../bundle/debian/rootfs-image.ts';
import { type FileSum, type SumOptions, sumProblem } from '../../bundle/store/checksum.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import type { ImageRecord } from '../../state/images.ts';
import { cloneFile } from '../../storage/clone.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { checkExt4 } from '../../storage/ext4.ts';
import { foreignKind } from '../../storage/file-kind.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { unpackArchive } from '../../system/archive.ts';
import { VERITY_PREFIX, verityDigest } from '../../system/verity.ts';
import { bundleBootFiles } from '../bundles/access.ts';
import { countBytes, hostArch } from '../bundles/support.ts';
import { diskRunner } from '../handover.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { IMAGE_ARCHIVE, IMAGE_MANIFEST, IMAGE_MEMBERS, readManifest } from './archive.ts';
import type { ImageHost } from './catalogue.ts';
import { guestFiles } from './guest-files.ts';
import { writePackageList } from './package-list.ts';

export type ImportHost = ImageHost & Pick<Host, 'system' | 'now' | 'log'>;

export interface ImportWork {
  host: ImportHost;
  request: ImageImport;
  /** directory of this import alone; everything in it is removed afterwards */
  directory: string;
  /** Refuses a name the archive brings along before its sums are computed, which takes longest. */
  requireFree(name: string): void;
  progress: Progress;
  signal: AbortSignal;
}

/** An image that is complete and was checked, still in the import's own directory. */
export interface FoundImage {
  /** directory that will be the image's */
  result: string;
  /** absolute paths of its files */
  files: string[];
  /** name it brings along */
  name?: string;
  createdAt?: string;
  record: Omit<ImageRecord, 'id' | 'name' | 'createdAt'>;
}

const COMPARING = { step: 'compare-checksums', label: 'comparing checksums' };

/** @throws BangerError `invalid_input` for a file that is something else, with what to make of it */
async function requireArchive(source: string): Promise<void> {
  const kind = await foreignKind(source);
  if (kind === undefined) return;
  throw new BangerError(
    'invalid_input',
    `${source} is ${kind.name}; an image comes as an archive of \`banger image export\`, a disk, or a root file system.`,
    { hint: kind.remedy },
  );
}

/** @throws BangerError `corrupt` with every file that is not what the archive's image.json says */
export async function fromArchive(work: ImportWork): Promise<FoundImage> {
  const { host, request, progress, signal } = work;
  await requireArchive(request.source);
  const unpacked = join(work.directory, 'unpacked');
  const result = await resultDirectory(work);
  await mkdir(unpacked);
  progress.step('unpack', 'unpacking');
  const deps = { runner: host.system.runner, programs: host.config.programs, signal };
  const from = await unpackArchive(deps, request.source, unpacked, IMAGE_ARCHIVE);
  await requireFile(join(from, IMAGE_MANIFEST), request.source);
  const manifest = await readManifest(join(from, IMAGE_MANIFEST), request.source);
  if (request.name === undefined) work.requireFree(manifest.name);

  progress.step(COMPARING.step, COMPARING.label);
  const sums = Object.entries(manifest.files).flatMap(([member, sum]) => (sum ? [{ member, sum }] : []));
  const total = sums.reduce((bytes, { sum }) => bytes + sum.size, 0);
  const onBytes = countBytes(progress, COMPARING.label, total);
  const wrong: string[] = [];
  for (const { member, sum } of sums) {
    const path = join(from, member);
    await requireFile(path, request.source);
    const problem = await differs(path, sum, { signal, onBytes });
    if (problem !== undefined) wrong.push(`${member}: ${problem}`);
  }
  if (wrong.length > 0) throw refused(request.source, wrong);
  for (const { member } of sums) await rename(join(from, member), join(result, member));
  await requireBootFiles(result, request.source);
  await readRootVolume(join(result, IMAGE_MEMBERS.rootfs)).catch((error: unknown) => {
    throw refused(request.source, [messageOf(error).replace(/\.$/, '')]);
  });
  if (manifest.arch !== hostArch()) throw refused(request.source, [`it is for ${manifest.arch}`]);
  const { name, arch, base, recipe, recipeKey, createdAt, files } = manifest;
  const disk = files[IMAGE_MEMBERS.rootfs];
  const digest =
    'fsverity' in disk
      ? `${VERITY_PREFIX}${disk.fsverity}`
      : await verityDigest(join(result, IMAGE_MEMBERS.rootfs), { signal });
  return {
    result,
    files: sums.map(({ member }) => join(result, member)),
    ...{ name, createdAt },
    record: { arch, base, digest, sizeBytes: disk.size, recipe, recipeKey },
  };
}

/** @throws BangerError `corrupt` when the file system is damaged or the kernel cannot boot on this machine */
export async function fromRootfs(work: ImportWork): Promise<FoundImage> {
  const { host, request, progress, signal } = work;
  const { programs } = host.config;
  const result = await resultDirectory(work);
  // kernel and initrd first: they are small, and what is wrong with them is found at once
  const boot = await placeBootFiles(work, result);
  progress.step('copy', 'copying the root file system');
  const rootfs = join(result, IMAGE_MEMBERS.rootfs);
  await cloneFile(host.system.runner, programs.cp, request.source, rootfs, 0, signal);
  await requireRootfs(result, request.source);
  progress.step('check', 'checking the file system');
  await checkExt4(diskRunner(host), programs, rootfs, signal);
  const packages = await listPackages(work, rootfs);
  const { digest, sizeBytes } = await sumRootfs(work, rootfs);
  return {
    result,
    files: [rootfs, ...boot.files, ...(packages === undefined ? [] : [packages])],
    record: { arch: hostArch(), base: boot.base, digest, sizeBytes, recipe: null, recipeKey: null },
  };
}

/** What making an image that gets its kernel from elsewhere needs of the request. */
export type BootRequest = Pick<ImageImport, 'source' | 'kernel' | 'initrd' | 'bundle'>;

/**
 * Puts kernel and initrd into the directory of an image.
 * @returns the name of what they are from, and their paths there
 */
export async function placeBootFiles(
  work: Pick<ImportWork, 'host' | 'signal'> & { request: BootRequest },
  result: string,
): Promise<{ base: string; files: string[]; initrd: string }> {
  const { host, request, signal } = work;
  const boot = await bootOf(work);
  const kernel = join(result, IMAGE_MEMBERS.kernel);
  const unpacking = { runner: host.system.runner, programs: host.config.programs };
  if ((await inspectKernel(boot.kernel)).kind === 'bzimage')
    await extractVmlinux(unpacking, boot.kernel, kernel, signal);
  else await copyFile(boot.kernel, kernel);
  const initrd = join(result, IMAGE_MEMBERS.initrd);
  await copyFile(boot.initrd, initrd);
  await requireBootFiles(result, request.source, 'Give a kernel for this machine, ELF or bzImage, and its initrd.');
  return { base: boot.base, files: [kernel, initrd], initrd };
}

/** Size and digest of a finished root file system. */
export async function sumRootfs(
  { progress, signal }: Pick<ImportWork, 'progress' | 'signal'>,
  rootfs: string,
): Promise<{ digest: string; sizeBytes: number }> {
  const label = 'computing checksums';
  progress.step('compute-checksums', label);
  const sizeBytes = await apparentBytes(rootfs);
  const digest = await verityDigest(rootfs, { signal, onBytes: countBytes(progress, label, sizeBytes) });
  return { digest, sizeBytes };
}

export async function resultDirectory({ directory }: Pick<ImportWork, 'directory'>): Promise<string> {
  const result = join(directory, 'result');
  await mkdir(result, { mode: 0o700 });
  return result;
}

/** Where kernel and initrd of an ext4 file system come from. */
async function bootOf({
  host,
  request,
}: Pick<ImportWork, 'host'> & { request: BootRequest }): Promise<{ kernel: string; initrd: string; base: string }> {
  const { kernel, initrd } = request;
  if (kernel !== undefined && initrd !== undefined) {
    await requireInput(kernel, 'kernel');
    await requireInput(initrd, 'initrd');
    return { kernel, initrd, base: 'import' };
  }
  const bundle = await bundleBootFiles(host.config, request.bundle);
  if (bundle.initrd !== undefined) return { kernel: bundle.kernel, initrd: bundle.initrd, base: bundle.name };
  throw new BangerError('conflict', `The bundle ${bundle.name} has no initrd, which an image needs.`, {
    hint: 'Give both --kernel and --initrd, or another bundle with --bundle NAME.',
  });
}

/** @throws BangerError `corrupt` when this machine cannot boot with kernel and initrd */
async function requireBootFiles(result: string, source: string, hint?: string): Promise<void> {
  const kernel = kernelProblem(await inspectKernel(join(result, IMAGE_MEMBERS.kernel)), hostArch());
  if (kernel !== undefined) throw refused(source, [`the kernel ${kernel}`], hint);
  if (await looksLikeInitrd(join(result, IMAGE_MEMBERS.initrd))) return;
  throw refused(source, ['the initrd is no cpio archive'], hint);
}

async function requireRootfs(result: string, source: string): Promise<void> {
  const problem = rootfsProblem(await inspectRootfs(join(result, IMAGE_MEMBERS.rootfs)));
  if (problem !== undefined) throw refused(source, [`the root file system ${problem}`]);
}

/** @returns path of the list; undefined for a system that has none */
export async function listPackages(
  { host, progress, signal }: ImportWork,
  rootfs: string,
): Promise<string | undefined> {
  progress.step('list-packages', 'reading the list of packages');
  try {
    return await writePackageList(progress, rootfs, guestFiles(host, rootfs, signal));
  } catch (error) {
    if (signal.aborted) throw error;
    progress.warn(`There is no list of packages: ${messageOf(error)}`);
  }
  return undefined;
}

/** A link or directory in a file's place was made to be followed. */
async function requireFile(path: string, source: string): Promise<void> {
  try {
    if ((await lstat(path)).isFile()) return;
  } catch (error) {
    if (systemCode(error) !== 'ENOENT' && systemCode(error) !== 'ENOTDIR') throw error;
    throw refused(source, [`${path.split('/').at(-1)} is missing`]);
  }
  throw refused(source, [`${path.split('/').at(-1)} is no regular file`]);
}

/** @throws BangerError `not_found` or `invalid_input` for what was named on the command line */
async function requireInput(path: string, what: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info?.isFile()) return;
  throw info
    ? new BangerError('invalid_input', `The ${what} ${path} is no regular file.`)
    : new BangerError('not_found', `The ${what} ${path} does not exist.`, { hint: `ls -l ${dirname(path)}` });
}

/** @returns in what a file is another than `image.json` says, without a full stop */
async function differs(path: string, wanted: FileSum, options: SumOptions): Promise<string | undefined> {
  const { size } = await stat(path);
  if (size !== wanted.size) return `it has ${size} bytes, ${IMAGE_MANIFEST} says ${wanted.size}`;
  const problem = await sumProblem(path, wanted, IMAGE_MANIFEST, options);
  return problem && `its ${problem}`;
}

function refused(
  source: string,
  problems: readonly string[],
  hint = 'Get it again from where it was made.',
): BangerError {
  return new BangerError('corrupt', `${source} was not imported: ${problems.join('; ')}.`, { hint });
}
