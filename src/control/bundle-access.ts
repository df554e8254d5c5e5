/** Bundles as VMs see them: files to boot from, with what the configuration puts in their place. */
import { basename, dirname } from 'node:path';
import type { Bundle as BundleView } from '../api/schemas.ts';
import { listBundles, openBundle } from '../bundle/catalog.ts';
import type { Bundle } from '../bundle/manifest.ts';
import type { Config, VmConfig } from '../config/schema.ts';
import { BangerError } from '../errors.ts';
import type { BootFiles } from '../preflight/context.ts';
import type { VmStore } from '../state/vms.ts';
import { pathExists } from '../system/files.ts';
import { parseSize } from '../units.ts';

/**
 * Files of a bundle by name or absolute path; of the configured default without one.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function bootFiles(config: Config, name: string | undefined): Promise<BootFiles> {
  const bundle = await openBundle(config.paths.bundles, name ?? config.bundle.default);
  const override = config.bundle;
  const kernel = override.kernel ?? bundle.kernel;
  await requireFile(kernel, bundleName(config, bundle), 'kernel');
  const rootfs = override.rootfs ?? bundle.rootfs;
  await requireFile(rootfs, bundleName(config, bundle), 'root file system');
  return {
    name: bundleName(config, bundle),
    kernel,
    initrd: override.initrd ?? bundle.initrd,
    rootfs,
    defaults: bundleVmDefaults(bundle),
  };
}

/** Every bundle with the VMs made from it. */
export async function viewBundles(config: Config, vms: VmStore): Promise<BundleView[]> {
  const entries = await listBundles(config.paths.bundles);
  return entries.map(({ name, dir, isDefault, bundle, problem }) => ({
    name,
    directory: dir,
    arch: bundle?.manifest.arch ?? 'unknown',
    kernelRelease: bundle?.modules ? basename(bundle.modules) : null,
    createdAt: bundle?.manifest.created ?? null,
    legacy: bundle?.legacy ?? false,
    isDefault,
    problem: problem ?? null,
    usedBy: vms
      .list()
      .filter((vm) => vm.image === name)
      .map((vm) => vm.name),
  }));
}

/** How a bundle is found again: by name inside the catalog, by path elsewhere. */
function bundleName(config: Config, bundle: Bundle): string {
  return dirname(bundle.dir) === config.paths.bundles ? basename(bundle.dir) : bundle.dir;
}

function bundleVmDefaults({ manifest }: Bundle): VmConfig {
  const { vcpus, memoryMib, bootArgs, rootDiskSize, workDiskSize } = manifest.defaults;
  return {
    vcpus,
    memoryMib,
    bootArgs,
    rootDiskBytes: parseSize(rootDiskSize),
    workDiskBytes: parseSize(workDiskSize),
  };
}

async function requireFile(path: string, bundle: string, what: string): Promise<void> {
  if (await pathExists(path)) return;
  throw new BangerError('corrupt', `The ${what} of the bundle ${bundle} is gone: ${path}.`, {
    hint: 'Build it again with: banger bundle build',
  });
}
