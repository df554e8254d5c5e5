/** Brings an image in: made in a directory of its own, checked there, and seen only when it is complete. */
import { randomBytes } from 'node:crypto';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { ImageImport, Image as ImageView } from '../../api/image.ts';
import { inspectRootfs } from '../../bundle/debian/rootfs-image.ts';
import { BangerError, systemCode } from '../../errors.ts';
import type { ImageRecord } from '../../state/images.ts';
import { imageFiles } from '../../storage/layout.ts';
import { syncPath } from '../../system/files.ts';
import type { Progress } from '../operations.ts';
import { needsOf, requireSameHolder, retireImage, viewImage } from './catalogue.ts';
import { fromDisk, isDisk } from './from-disk.ts';
import { type FoundImage, fromArchive, fromRootfs, type ImportHost, type ImportWork } from './sources.ts';

/** Ends the name of a directory somebody works in; the first start of a daemon after that removes it. */
export const IMPORT_SUFFIX = '.import.part';

const REPEAT = 'Repeat it with --force to replace that one, or under another name with --name.';

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/**
 * Imports an archive of `exportImage`, a root file system, or the one of a disk, with a kernel and initrd to boot it.
 * @throws BangerError `corrupt` when a sum is wrong or the archive holds what no image may
 * @throws BangerError `conflict` when the name is taken and `force` is not given
 * @throws BangerError `invalid_input` for a combination that makes no sense, `host_unprepared` when it does not fit
 */
export async function importImage(
  host: ImportHost,
  request: ImageImport,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImageView> {
  const kind = await kindOf(request);
  const name = request.name ?? (kind === 'archive' ? undefined : nameOfFile(request.source));
  return await placeImage(host, { name, force: request.force ?? false }, progress, signal, async (place) => {
    const work: ImportWork = { ...{ host, request, progress, signal }, ...place };
    if (kind === 'archive') return await fromArchive(work);
    return kind === 'ext4' ? await fromRootfs(work) : await fromDisk(work);
  });
}

/** Where an image is made, and what it may be called. */
export type ImagePlaceWork = Pick<ImportWork, 'directory' | 'requireFree'>;

/**
 * Makes an image in a directory of its own and registers it; nothing is left of one that fails.
 * @param options.name undefined when what is brought in has one itself
 * @param options.replaces id of an image that makes way; with `force` it is the one that has the name when that is known
 * @throws BangerError `conflict` when another one has the name, or has got it meanwhile
 */
export async function placeImage(
  host: ImportHost,
  options: { name: string | undefined; force: boolean; replaces?: string | undefined },
  progress: Progress,
  signal: AbortSignal,
  make: (place: ImagePlaceWork) => Promise<FoundImage>,
): Promise<ImageView> {
  let { replaces } = options;
  const decide = (name: string) => {
    if (options.force) replaces = host.stores.images.find(name)?.id;
    requireFree(host, name, replaces);
  };
  if (options.name !== undefined) decide(options.name);
  const id = randomBytes(4).toString('hex');
  const { directory } = imageFiles(host.config.paths.store, id);
  const place: ImagePlaceWork = {
    directory: `${directory}${IMPORT_SUFFIX}`,
    requireFree: decide,
  };
  try {
    await mkdir(place.directory, { recursive: true, mode: 0o700 });
    const found = await make(place);
    const name = options.name ?? found.name ?? '';
    requireName(name);
    requireSameHolder(host, name, replaces, REPEAT);
    signal.throwIfAborted();
    progress.step('register', 'registering the image');
    await makeDurable(found.result, found.files);
    await rename(found.result, directory);
    await syncPath(dirname(directory));
    const image: ImageRecord = { ...found.record, id, name, createdAt: found.createdAt ?? host.now().toISOString() };
    const replaced = await registered(host, image, replaces, directory);
    if (replaced) await retireImage(host, replaced);
    return await viewImage(host, image);
  } catch (error) {
    if (!isNoSpace(error)) throw error;
    throw new BangerError('host_unprepared', `There is no room for the image in ${dirname(directory)}.`, {
      cause: error,
      hint: 'Free some space, or set paths.store to a larger disk.',
    });
  } finally {
    await rm(place.directory, { recursive: true, force: true });
  }
}

/** Ours, or that of a program. */
function isNoSpace(error: unknown): boolean {
  if (systemCode(error) === 'ENOSPC') return true;
  const said = error instanceof BangerError && error.code === 'command_failed' ? error.details?.stderr : undefined;
  return typeof said === 'string' && /No space left on device/.test(said);
}

/** The record makes the image exist; a directory without one is removed. */
async function registered(
  host: ImportHost,
  image: ImageRecord,
  replaces: string | undefined,
  directory: string,
): Promise<ImageRecord | undefined> {
  try {
    requireSameHolder(host, image.name, replaces, REPEAT);
    return host.stores.images.insert(image, { replace: replaces });
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

type SourceKind = 'archive' | 'ext4' | 'disk';

const SOURCES = 'It is an archive made by `banger image export`, a disk (raw or qcow2), or a root file system.';

/** @throws BangerError `not_found` for a missing file, `invalid_input` for a kernel with an archive, which has one */
async function kindOf({ source, kernel, initrd, bundle, partition }: ImageImport): Promise<SourceKind> {
  const info = await stat(source).catch((error: unknown) => {
    const missing = systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR';
    throw new BangerError(missing ? 'not_found' : 'host_unprepared', `There is no file ${source} to read.`, {
      cause: error,
      hint: SOURCES,
    });
  });
  if (!info.isFile()) {
    throw new BangerError('invalid_input', `${source} is no regular file.`, {
      hint: info.isDirectory()
        ? `Make a file system of a directory: mke2fs -t ext4 -d ${source} rootfs.ext4 4G`
        : SOURCES,
    });
  }
  const kind: SourceKind =
    (await inspectRootfs(source)).kind !== 'unusable' ? 'ext4' : (await isDisk(source)) ? 'disk' : 'archive';
  const given = [
    ...(kernel === undefined ? [] : ['--kernel']),
    ...(initrd === undefined ? [] : ['--initrd']),
    ...(bundle === undefined ? [] : ['--bundle']),
  ];
  if (partition !== undefined && kind !== 'disk') {
    throw new BangerError('invalid_input', `--partition goes with a disk, and ${source} has no partitions.`, {
      hint: 'Leave it out.',
    });
  }
  if (kind === 'archive' && given.length > 0) {
    throw new BangerError(
      'invalid_input',
      `${given.join(' and ')} go with a disk or a root file system, and ${source} is none.`,
      {
        hint: `An archive brings its own kernel: banger image import ${source}`,
      },
    );
  }
  if (bundle !== undefined && kernel !== undefined) {
    throw new BangerError('invalid_input', 'The kernel comes from --bundle or from --kernel, not from both.', {
      hint: 'Give one of them.',
    });
  }
  if ((kernel === undefined) !== (initrd === undefined)) {
    throw new BangerError('invalid_input', 'A kernel and its initrd belong together: the initrd holds its modules.', {
      hint: 'Give both --kernel and --initrd, or take those of a bundle with --bundle NAME.',
    });
  }
  return kind;
}

function requireName(name: string): void {
  if (NAME.test(name)) return;
  throw new BangerError('invalid_input', `"${name}" cannot be the name of an image.`, {
    hint: 'Choose one of lower-case letters, digits and inner dashes: --name NAME',
  });
}

function requireFree(host: ImportHost, name: string, replaces: string | undefined): void {
  requireName(name);
  const there = host.stores.images.find(name);
  if (!there || there.id === replaces) return;
  const { vms } = needsOf(host, there);
  const users = vms.length === 0 ? '' : ` VMs made from it keep what they have: ${vms.join(', ')}.`;
  throw new BangerError('conflict', `There is an image "${name}" already.`, {
    hint: `Import it under another name with --name, or replace it with --force.${users}`,
  });
}

/** `/tmp/My Root.ext4` → `my-root`. */
function nameOfFile(source: string): string {
  const stem = basename(source).replace(/(\.(ext4|xfs|btrfs|img|raw|qcow2|tar|zst|rootfs)){1,8}$/i, '');
  return stem
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
    .slice(0, 63)
    .replace(/-$/, '');
}

async function makeDurable(directory: string, files: readonly string[]): Promise<void> {
  for (const file of files) await syncPath(file);
  await syncPath(directory);
}
