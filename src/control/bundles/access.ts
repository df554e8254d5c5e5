/** Bundles as VMs see them: files to boot from, with what the configuration puts in their place. */
import { basename, dirname, resolve } from 'node:path';
import type { BundleDetail, Bundle as BundleView } from '../../api/bundle.ts';
import {
  type CatalogEntry,
  DEFAULT_LINK,
  listBundles,
  locateBundle,
  openBundle,
  useBundle,
} from '../../bundle/store/catalogue.ts';
import { loadBundle } from '../../bundle/store/legacy-layout.ts';
import type { Bundle } from '../../bundle/store/manifest.ts';
import type { Config } from '../../config/schema.ts';
import { BangerError } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmStore } from '../../state/vms.ts';
import { pathExists } from '../../system/files.ts';
import { parseSize } from '../../units.ts';

/**
 * Files of a bundle by name or absolute path; of the configured default without one.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function bundleBootFiles(config: Config, name: string | undefined): Promise<BootFiles> {
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
  return entries.map((entry) => viewEntry(entry, usersOf(vms, entry.name)));
}

/** A bundle that was just opened, wherever it lies. */
export async function viewBundle(config: Config, vms: VmStore, bundle: Bundle): Promise<BundleView> {
  const listed = (await viewBundles(config, vms)).find(({ directory }) => directory === bundle.dir);
  if (listed) return listed;
  const entry = { name: bundle.manifest.name, dir: bundle.dir, isDefault: false, bundle, problem: undefined };
  return viewEntry(entry, usersOf(vms, bundle.dir));
}

/**
 * Everything about a bundle, by name or absolute path; about the configured default without one.
 * @throws BangerError `not_found` or `corrupt`, with the command that helps
 */
export async function viewBundleDetail(config: Config, vms: VmStore, name: string | undefined): Promise<BundleDetail> {
  const bundle = await loadBundle(await bundleDirectory(config, name));
  const { kernel, initrd, rootfs, modules, packages, helpers, notice } = bundle;
  return {
    ...(await viewBundle(config, vms, bundle)),
    kernel,
    initrd,
    rootfs,
    modules: modules ?? null,
    packages: packages ?? null,
    helpers,
    defaults: bundleVmDefaults(bundle),
    notice: notice ?? null,
  };
}

/**
 * Where a bundle lies, by name or absolute path; the configured default without one.
 * @throws BangerError `not_found` with the names there are
 */
export async function bundleDirectory(config: Config, name: string | undefined): Promise<string> {
  return resolve(await locateBundle(config.paths.bundles, name ?? config.bundle.default));
}

/**
 * Makes a bundle of the bundle store the default one.
 * @throws BangerError `conflict` when the configuration names another, which would go on to count
 */
export async function chooseBundle(config: Config, vms: VmStore, name: string): Promise<BundleView> {
  const configured = config.bundle.default;
  if (configured !== DEFAULT_LINK && configured !== name) {
    throw new BangerError('conflict', `The configuration says that ${configured} is used: bundle.default.`, {
      hint: 'See where it says so: banger config show --origin',
    });
  }
  return await viewBundle(config, vms, await useBundle(config.paths.bundles, name));
}

function viewEntry({ name, dir, isDefault, bundle, problem }: CatalogEntry, usedBy: string[]): BundleView {
  return {
    name,
    directory: dir,
    arch: bundle?.manifest.arch ?? 'unknown',
    kernelRelease: bundle?.modules ? basename(bundle.modules) : null,
    createdAt: bundle?.manifest.created ?? null,
    legacy: bundle?.legacy ?? false,
    isDefault,
    problem: problem ?? null,
    usedBy,
  };
}

/** Names of the VMs made from the bundle that is called that. */
function usersOf(vms: VmStore, image: string): string[] {
  return vms
    .list()
    .filter((vm) => vm.imageId === null && vm.image === image)
    .map((vm) => vm.name);
}

/** How a bundle is found again: by name inside the catalog, by path elsewhere. */
function bundleName(config: Config, bundle: Bundle): string {
  return dirname(bundle.dir) === config.paths.bundles ? basename(bundle.dir) : bundle.dir;
}

function bundleVmDefaults({ manifest }: Bundle): BundleDetail['defaults'] {
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
