/** Writes an image as one file, after a look at whether it still is what was registered. */
import { mkdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageFile } from '../../api/image.ts';
import { sumDisk, sumFile } from '../../bundle/store/checksum.ts';
import { BangerError } from '../../errors.ts';
import type { ImageRecord } from '../../state/images.ts';
import { imageFiles } from '../../storage/layout.ts';
import { packArchive } from '../../system/archive.ts';
import { pathExists } from '../../system/files.ts';
import { VERITY_PREFIX } from '../../system/verity.ts';
import { countBytes } from '../bundles/support.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import {
  formatManifest,
  IMAGE_MANIFEST,
  IMAGE_MEMBERS,
  ImageManifest,
  OCI_MEMBER,
  PACKAGES_MEMBER,
} from './archive.ts';

/** Ends the name of a directory an export works in; the first start of a daemon after that removes it. */
export const EXPORT_SUFFIX = '.export.part';

const SUMMING = { step: 'compute-checksums', label: 'computing checksums' };

/**
 * @throws BangerError `conflict` when the file exists, `corrupt` when the image changed since it was registered
 */
export async function exportImage(
  host: Pick<Host, 'config' | 'stores' | 'system'>,
  name: string,
  file: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImageFile> {
  const image = host.stores.images.get(name);
  if (await pathExists(file)) {
    throw new BangerError('conflict', `${file} exists already.`, { hint: 'Choose another name, or remove it first.' });
  }
  const { directory } = imageFiles(host.config.paths.store, image.id);
  progress.step(SUMMING.step, SUMMING.label);
  const files = await sumMembers(image, directory, progress, signal);

  // the archive's description lies in no image, so it is packed from beside links to what does
  const stage = `${directory}${EXPORT_SUFFIX}`;
  await rm(stage, { recursive: true, force: true });
  try {
    await mkdir(stage, { recursive: true, mode: 0o700 });
    await writeFile(join(stage, IMAGE_MANIFEST), manifestOf(image, files));
    for (const member of Object.keys(files)) await symlink(join(directory, member), join(stage, member));
    progress.step('pack', 'packing');
    const members = [IMAGE_MANIFEST, ...Object.keys(files)];
    const deps = { runner: host.system.runner, programs: host.config.programs, signal };
    await packArchive(deps, { file, directory: stage, members, top: name, followLinks: true });
  } finally {
    await rm(stage, { recursive: true, force: true });
  }
  return { name, file, sizeBytes: (await stat(file)).size };
}

async function sumMembers(
  image: ImageRecord,
  directory: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImageManifest['files']> {
  const options = { signal, onBytes: countBytes(progress, SUMMING.label, undefined) };
  const find = async (member: string): Promise<string> => {
    if (await pathExists(join(directory, member))) return join(directory, member);
    throw changed(image, `${member} is gone`);
  };
  const sum = async (member: string) => await sumFile(await find(member), options);
  const disk = await sumDisk(await find(IMAGE_MEMBERS.rootfs), options);
  const files: ImageManifest['files'] = {
    [IMAGE_MEMBERS.rootfs]: disk,
    [IMAGE_MEMBERS.kernel]: await sum(IMAGE_MEMBERS.kernel),
    [IMAGE_MEMBERS.initrd]: await sum(IMAGE_MEMBERS.initrd),
  };
  // records of older bangers have the sum of the whole file
  const digest = image.digest.startsWith('sha256:')
    ? `sha256:${(await sum(IMAGE_MEMBERS.rootfs)).sha256}`
    : `${VERITY_PREFIX}${disk.fsverity}`;
  if (digest !== image.digest) throw changed(image, `the digest of ${IMAGE_MEMBERS.rootfs} is another one`);
  for (const member of [PACKAGES_MEMBER, OCI_MEMBER] as const) {
    if (await pathExists(join(directory, member))) files[member] = await sum(member);
  }
  return files;
}

function manifestOf(image: ImageRecord, files: ImageManifest['files']): string {
  const { name, base, recipe, recipeKey, createdAt } = image;
  const arch = ImageManifest.shape.arch.parse(image.arch);
  return formatManifest({ name, arch, base, recipe, recipeKey, createdAt, files });
}

function changed({ name }: ImageRecord, how: string): BangerError {
  return new BangerError('corrupt', `The image ${name} is not what it was when it was made: ${how}.`, {
    hint: `Build or import it again, then delete it: banger image delete ${name}`,
  });
}
