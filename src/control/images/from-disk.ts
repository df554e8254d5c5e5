/** An image from a whole disk, as clouds have them: its root partition, with a kernel that boots it here. */
import { appendFile, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type RootFacts, rootFactsArchive } from '../../bundle/boot/disk-boot.ts';
import { modulesArchive } from '../../bundle/boot/initrd.ts';
import { openBundle } from '../../bundle/store/catalogue.ts';
import { chooseRoot } from '../../core/root-partition.ts';
import { BangerError } from '../../errors.ts';
import { requireSpace } from '../../storage/clone.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { copyOut, type DiskImage, openDiskImage } from '../../storage/disk-image.ts';
import { checkExt4 } from '../../storage/ext4.ts';
import { type Partition, readPartitions } from '../../storage/partitions.ts';
import { inspectVolume, type RootKind, type Volume } from '../../storage/volume.ts';
import { formatSize } from '../../units.ts';
import { countBytes, hostArch } from '../bundles/support.ts';
import { diskRunner } from '../handover.ts';
import { IMAGE_MEMBERS } from './archive.ts';
import { guestFiles } from './guest-files.ts';
import { findOwnKernel, type OwnKernel } from './own-kernel.ts';
import {
  type FoundImage,
  type ImportWork,
  listPackages,
  placeBootFiles,
  resultDirectory,
  sumRootfs,
} from './sources.ts';
import { addTools } from './tools.ts';

/** A partition, or the whole disk where it has none. */
interface Part extends Partition {
  volume: Volume;
}

type Root = Part & { volume: Volume & { kind: RootKind } };

/**
 * @throws BangerError `invalid_input` when it has no root that can be used, or several; `corrupt` when it is damaged
 */
export async function fromDisk(work: ImportWork): Promise<FoundImage> {
  const { host, request, directory, progress, signal } = work;
  const { programs } = host.config;
  await using disk = await openDiskImage(request.source);
  const parts = await readParts(disk, request.source);
  const root = rootOf(parts, request);
  progress.line(`root: ${where(root, parts)}, ${root.volume.name} of ${formatSize(root.length)}`);
  const result = await resultDirectory(work);
  const scratch = join(directory, 'scratch');
  await mkdir(scratch, { mode: 0o700 });
  const rootfs = join(result, IMAGE_MEMBERS.rootfs);
  const label = 'copying the root file system';
  progress.step('copy', label);
  await requireSpace(result, Math.min(await allocatedBytes(request.source), root.length), 'the root file system');
  await copyOut(disk, root, rootfs, { signal, onBytes: countBytes(progress, label, root.length) });
  const { kind } = root.volume;
  if (kind === 'ext4') {
    progress.step('check', 'checking the file system');
    await checkExt4(diskRunner(host), programs, rootfs, signal);
  }
  progress.step('kernel', 'looking for its kernel');
  const own = await ownKernel(work, disk, parts, root, rootfs, scratch);
  const boot = await placeBootFiles(work, result);
  if (own && 'kernel' in own) {
    await rename(own.kernel, join(result, IMAGE_MEMBERS.kernel));
    await appendFile(boot.initrd, own.modules);
    progress.line(`kernel: its own, ${own.release}`);
  } else if (own) {
    progress.warn(
      `It boots with the kernel of the bundle ${boot.base} and not with its own: ${own.problem}. Of that kernel's modules it has those that boot it; a recipe with \`modules = true\` adds the others.`,
    );
  }
  if (request.kernel === undefined) await addBootParts(work, boot, root.volume, own !== undefined && 'kernel' in own);
  await rm(scratch, { recursive: true });
  const packages = kind === 'ext4' ? await listPackages(work, rootfs) : undefined;
  if (kind !== 'ext4') {
    progress.warn(`There is no list of packages: they are read from ext4 only, and the root is ${root.volume.name}.`);
  }
  const { digest, sizeBytes } = await sumRootfs(work, rootfs);
  return {
    result,
    files: [rootfs, ...boot.files, ...(packages === undefined ? [] : [packages])],
    record: { arch: hostArch(), base: boot.base, digest, sizeBytes, recipe: null, recipeKey: null },
  };
}

/** Whether a file that is no ext4 file system is a disk: one with partitions, in a format of its own, or a root file system. */
export async function isDisk(source: string): Promise<boolean> {
  await using disk = await openDiskImage(source);
  if (disk.format !== 'raw') return true;
  const { kind, name } = await inspectVolume(disk);
  // a CD that boots from a stick has a partition table too
  if (kind === 'other' && name === 'a CD image') return false;
  return kind === 'xfs' || kind === 'btrfs' || (await readPartitions(disk, source)) !== undefined;
}

async function readParts(disk: DiskImage, source: string): Promise<Part[]> {
  const whole = await inspectVolume(disk, 0, disk.sizeBytes);
  const table = whole.kind === 'other' ? await readPartitions(disk, source) : undefined;
  if (!table) {
    return [{ ...{ number: 0, at: 0, length: disk.sizeBytes, type: '', name: '' }, volume: whole }];
  }
  const parts: Part[] = [];
  for (const each of table) parts.push({ ...each, volume: await inspectVolume(disk, each.at, each.length) });
  return parts;
}

function rootOf(parts: readonly Part[], { source, partition }: ImportWork['request']): Root {
  const asked = parts.filter(({ number }) => number === partition);
  const choice = partition === undefined ? chooseRoot(parts, hostArch()) : { among: asked };
  const found = 'found' in choice ? choice.found : choice.among.length === 1 ? choice.among[0] : undefined;
  if (!found) {
    const several = 'among' in choice && choice.among.length > 1;
    throw new BangerError(
      'invalid_input',
      several
        ? `${source} has several partitions that may be its root: ${choice.among.map(described).join(', ')}.`
        : partition === undefined
          ? `${source} has no file system that a guest can have as its root, only: ${parts.map(described).join(', ')}.`
          : `${source} has no partition ${partition}, only: ${parts.map(described).join(', ')}.`,
      { hint: several ? 'Say which one: --partition NUMBER' : REMEDY },
    );
  }
  const { kind, problem, name } = found.volume;
  if (kind === 'other') {
    throw new BangerError('invalid_input', `${where(found, parts)} of ${source} is ${name}.`, { hint: REMEDY });
  }
  if (problem !== undefined) {
    throw new BangerError(
      'corrupt',
      `${where(found, parts)} of ${source} is ${name} that cannot be used: ${problem}.`,
      {
        hint: 'Get the file again from where it was made.',
      },
    );
  }
  return { ...found, volume: { ...found.volume, kind } };
}

const REMEDY =
  'Roots are ext4, XFS or btrfs. Copy the files of another one into such a file system: mke2fs -t ext4 -d DIRECTORY rootfs.ext4 4G';

function described({ number, length, volume, name }: Part): string {
  const called = volume.label || name;
  const label = called === '' ? '' : ` "${called}"`;
  const what = `${volume.name}${label} of ${formatSize(length)}`;
  return number === 0 ? what : `${number} (${what})`;
}

function where({ number }: Partition, parts: readonly Part[]): string {
  return number === 0 && parts.length === 1 ? 'the whole disk' : `partition ${number}`;
}

/** Undefined where the user has said which kernel it gets. */
async function ownKernel(
  { host, request, signal }: ImportWork,
  disk: DiskImage,
  parts: readonly Part[],
  root: Root,
  rootfs: string,
  scratch: string,
): Promise<OwnKernel | undefined> {
  if (request.kernel !== undefined || request.bundle !== undefined) return undefined;
  if (root.volume.kind !== 'ext4') return { problem: `it is on ${root.volume.name}, which is not read here` };
  const own = guestFiles(host, rootfs, signal);
  const boots = [{ files: own, directory: '/boot' }];
  const boot = parts.find(({ number, volume }) => number !== root.number && isBoot(volume));
  if (boot) {
    const path = join(scratch, 'boot.ext4');
    await copyOut(disk, boot, path, { signal });
    boots.push({ files: guestFiles(host, path, signal), directory: '/' });
  }
  return await findOwnKernel(host, own, boots, scratch, signal);
}

function isBoot({ kind, label, problem }: Volume): boolean {
  return kind === 'ext4' && /^boot$/i.test(label) && problem === undefined;
}

/** What the initrd has to know of its root, and tools for guests that lack them. */
async function addBootParts(
  work: ImportWork,
  boot: { initrd: string },
  { kind, uuid, label }: RootFacts,
  hasOwnKernel: boolean,
): Promise<void> {
  const { host, request } = work;
  if (kind !== 'ext4' && !hasOwnKernel) {
    const bundle = await openBundle(host.config.paths.bundles, request.bundle ?? host.config.bundle.default);
    if (bundle.modules === undefined) {
      throw new BangerError('conflict', `The bundle ${bundle.manifest.name} has no modules, which ${kind} needs.`, {
        hint: 'Take another bundle: --bundle NAME',
      });
    }
    const deps = { runner: host.system.runner, programs: host.config.programs };
    await appendFile(boot.initrd, await modulesArchive(deps, bundle.modules, kind));
  }
  await addTools(work, request.bundle, boot.initrd);
  await appendFile(boot.initrd, rootFactsArchive({ kind, uuid, label }));
}
