/** What a VM boots: an image of that name before a bundle, and for a VM that exists the image it was made from. */

import type { Config, VmConfig } from '../../config/schema.ts';
import { bootSource, bundleBelow, type KnownImage, vmBootSource } from '../../core/boot-source.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { imageFiles, vmFiles } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import type { Host } from '../host.ts';
import { bundleBootFiles } from './access.ts';

/** What finding boot files needs. */
export type BootHost = Pick<Host, 'config' | 'stores'>;

/**
 * Files of an image or bundle by name, or of a bundle by absolute path; of the configured default bundle without one.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function findBootFiles({ config, stores: { images } }: BootHost, name?: string): Promise<BootFiles> {
  const known = images.list();
  const source = bootSource(name, known);
  if (source.from === 'image') {
    const files = await imageBootFiles(config, source.image, known);
    if (await pathExists(files.rootfs)) return files;
    const { name: image } = source.image;
    throw new BangerError('corrupt', `The root file system of the image ${image} is gone: ${files.rootfs}.`, {
      hint: `Delete what is left of it: banger image delete ${image}`,
    });
  }
  try {
    return await bundleBootFiles(config, source.name);
  } catch (error) {
    if (name === undefined || !(error instanceof BangerError) || error.code !== 'not_found') throw error;
    const names = known.length === 0 ? '' : ` The images are: ${known.map((one) => one.name).join(', ')}.`;
    throw new BangerError('not_found', `There is no image and no bundle named "${name}".${names}`, {
      cause: error,
      hint: 'See what exists: banger image list   and: banger bundle list',
      details: { name },
    });
  }
}

/**
 * Files an existing VM boots.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function findVmBootFiles(
  { config, stores: { images } }: BootHost,
  vm: Pick<VmRecord, 'id' | 'name' | 'image' | 'imageId'>,
): Promise<BootFiles> {
  const known = images.list();
  const source = vmBootSource(vm, known);
  if (source.from === 'bundle') return await bundleBootFiles(config, source.name);
  try {
    const files = await imageBootFiles(config, source.image, known);
    // of an image that another replaced only what its VMs boot with is kept
    if (await pathExists(files.rootfs)) return files;
    return { ...files, rootfs: vmFiles(config.paths.store, vm.id).rootDisk };
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'corrupt') throw error;
    throw error.reworded(error.message, {
      hint: `Give the VM another image: banger vm rebase ${vm.name} --image NAME`,
    });
  }
}

async function imageBootFiles(config: Config, image: KnownImage, known: readonly KnownImage[]): Promise<BootFiles> {
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
  const defaults = await bundleDefaults(config, bundleBelow(image, known));
  return { name: image.name, imageId: image.id, kernel, initrd, rootfs, defaults };
}

/** What VMs of a bundle get; nothing when it is not here, which leaves what is built in. */
async function bundleDefaults(config: Config, bundle: string | undefined): Promise<VmConfig> {
  try {
    return bundle === undefined ? {} : (await bundleBootFiles(config, bundle)).defaults;
  } catch (error) {
    if (error instanceof BangerError) return {}; // gone, or an image that was brought in
    throw error;
  }
}
