/** What a VM boots: an image of that name before a bundle, and for a VM that exists the image it was made from. */

import type { Config, VmConfig } from '../../config/schema.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { ImageRecord, ImageStore } from '../../state/images.ts';
import { imageFiles, vmFiles } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import type { Host } from '../host.ts';
import { bundleBootFiles } from './access.ts';

/** What finding boot files needs. */
export type BootHost = Pick<Host, 'config' | 'stores'>;

/** Images made from images made from images; nobody builds deeper, and records could name each other. */
const MAX_BASES = 16;

/**
 * Files of an image or bundle by name, or of a bundle by absolute path; of the configured default bundle without one.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function findBootFiles({ config, stores: { images } }: BootHost, name?: string): Promise<BootFiles> {
  const image = name === undefined ? undefined : images.find(name);
  if (image) {
    const files = await imageBootFiles(config, images, image);
    if (await pathExists(files.rootfs)) return files;
    throw new BangerError('corrupt', `The root file system of the image ${image.name} is gone: ${files.rootfs}.`, {
      hint: `Delete what is left of it: banger image delete ${image.name}`,
    });
  }
  try {
    return await bundleBootFiles(config, name);
  } catch (error) {
    if (name === undefined || !(error instanceof BangerError) || error.code !== 'not_found') throw error;
    const names = images.list().map((one) => one.name);
    const known = names.length === 0 ? '' : ` The images are: ${names.join(', ')}.`;
    throw new BangerError('not_found', `There is no image and no bundle named "${name}".${known}`, {
      cause: error,
      hint: 'See what exists: banger image list   and: banger bundle list',
      details: { name },
    });
  }
}

/**
 * Files an existing VM boots. A VM of an image keeps that image's kernel and initrd, whatever the image is called
 * now and also when another took its name.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function findVmBootFiles(
  { config, stores: { images } }: BootHost,
  vm: Pick<VmRecord, 'id' | 'name' | 'image' | 'imageId'>,
): Promise<BootFiles> {
  if (vm.imageId === null) return await bundleBootFiles(config, vm.image);
  const hint = `Give the VM another image: banger vm rebase ${vm.name} --image NAME`;
  const record = images.findById(vm.imageId) ?? { id: vm.imageId, name: vm.image, base: '' };
  try {
    const files = await imageBootFiles(config, images, record);
    // of an image that another replaced only what its VMs boot with is kept
    if (await pathExists(files.rootfs)) return files;
    return { ...files, rootfs: vmFiles(config.paths.store, vm.id).rootDisk };
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'corrupt') throw error;
    throw new BangerError('corrupt', error.message, { cause: error, hint });
  }
}

async function imageBootFiles(
  config: Config,
  images: ImageStore,
  image: Pick<ImageRecord, 'id' | 'name' | 'base'>,
): Promise<BootFiles> {
  const { kernel, initrd, rootfs } = imageFiles(config.paths.store, image.id);
  for (const [what, path] of [
    ['kernel', kernel],
    ['initrd', initrd],
  ] as const) {
    if (await pathExists(path)) continue;
    throw new BangerError('corrupt', `The ${what} of the image ${image.name} is gone: ${path}.`, {
      hint: `Delete what is left of it: banger image delete ${image.name}`,
    });
  }
  const defaults = await baseDefaults(config, images, image.base, MAX_BASES);
  return { name: image.name, imageId: image.id, kernel, initrd, rootfs, defaults };
}

/** What VMs of the base get; nothing when it is not here, which leaves what is built in. */
async function baseDefaults(config: Config, images: ImageStore, base: string, depth: number): Promise<VmConfig> {
  const image = images.find(base);
  if (image) return depth === 0 || image.base === base ? {} : await baseDefaults(config, images, image.base, depth - 1);
  try {
    return base === '' ? {} : (await bundleBootFiles(config, base)).defaults;
  } catch (error) {
    if (error instanceof BangerError) return {}; // gone, or an image that was brought in
    throw error;
  }
}
