/** The image catalogue: what there is, who needs it, other names, comparing, deleting. */
import { readFile, rm } from 'node:fs/promises';
import type { ImageDetail, ImageDiff, Image as ImageView } from '../../api/image.ts';
import { openBundle } from '../../bundle/store/catalogue.ts';
import { diffPackages, type InstalledPackage, parsePackageList } from '../../core/packages.ts';
import { BangerError, systemCode } from '../../errors.ts';
import type { ImageRecord } from '../../state/images.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { imageFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';
import { forgetTemplates, templatesOf } from '../memory/templates.ts';
import { type OciRecord, readOciRecord } from './oci-record.ts';

/** What the catalogue needs of the host. */
export type ImageHost = Pick<Host, 'config' | 'stores'>;

/** Who cannot do without an image. */
export interface ImageNeeds {
  /** names of VMs: they boot with its kernel and initrd */
  vms: string[];
  /** names of deleted VMs that can still be restored */
  trashed: string[];
  /** snapshots, as VM/NAME: their disks boot with its kernel and initrd */
  snapshots: string[];
  /** steps of layers that begin with it */
  layers: string[];
  /** what is being made from it, e.g. `the build of app` */
  work: string[];
}

export function needsOf(host: ImageHost, image: Pick<ImageRecord, 'id' | 'name'>): ImageNeeds {
  const vms = host.stores.vms
    .list()
    .filter(({ imageId }) => imageId === image.id)
    .map(({ name }) => name);
  // a VM between two images needs both: which of them it gets is not decided yet
  for (const { owner, resource } of host.stores.ledger.all()) {
    if (resource.kind !== 'rebase') continue;
    if (resource.imageId !== image.id && resource.before.imageId !== image.id) continue;
    const name = host.stores.vms.findById(owner)?.name;
    if (name !== undefined && !vms.includes(name)) vms.push(name);
  }
  const layers = host.stores.layers
    .list()
    .filter(({ base }) => base === image.name)
    .map(({ step }) => step);
  const trashed = host.stores.trash
    .list()
    .filter(({ vm }) => vm.imageId === image.id)
    .map(({ vm }) => vm.name);
  const snapshots = host.stores.snapshots
    .list()
    .filter(({ values }) => values.imageId === image.id)
    .map(({ vmId, name }) => `${nameOfVm(host, vmId)}/${name}`);
  return { vms, trashed, snapshots, layers, work: host.stores.imageHolds.of(image.id) };
}

/** Every image, broken ones included. */
export async function viewImages(host: ImageHost): Promise<ImageView[]> {
  return await Promise.all(host.stores.images.list().map((image) => viewImage(host, image)));
}

export async function viewImage(host: ImageHost, image: ImageRecord): Promise<ImageView> {
  const { rootfs, kernel, initrd } = imageFiles(host.config.paths.store, image.id);
  const missing: string[] = [];
  let allocated = 0;
  for (const path of [rootfs, kernel, initrd]) {
    const bytes = await allocatedOrGone(path);
    if (bytes === undefined) missing.push(path);
    else allocated += bytes;
  }
  const { id, name, arch, base, digest, sizeBytes, createdAt } = image;
  return {
    ...{ id, name, arch, base, digest, sizeBytes, createdAt },
    allocatedBytes: allocated,
    usedBy: needsOf(host, image).vms,
    problem: missing.length === 0 ? null : `missing: ${missing.join(', ')}`,
    templates: templatesOf(host, { imageId: id, rootfs }).length,
  };
}

/** @throws BangerError `not_found` */
export async function viewImageDetail(host: ImageHost, name: string): Promise<ImageDetail> {
  const image = host.stores.images.get(name);
  const { directory, rootfs, kernel, initrd, packages, oci } = imageFiles(host.config.paths.store, image.id);
  const listed = await readPackages(packages);
  const { trashed, layers } = needsOf(host, image);
  return {
    ...(await viewImage(host, image)),
    ...{ directory, rootfs, kernel, initrd, trashed },
    packages: listed === undefined ? null : packages,
    packageCount: listed?.length ?? null,
    recipe: recipeOf(image),
    layers: layers.length,
    oci: viewOci(await readOciRecord(oci)),
  };
}

function viewOci(record: OciRecord | undefined): ImageDetail['oci'] {
  if (record === undefined) return null;
  const { reference, digest, platform, process } = record;
  return { reference, digest, platform, ...process };
}

/** An imported image's recipe is what its archive says, which need not be one. */
function recipeOf({ recipe }: ImageRecord): unknown {
  try {
    return recipe === null ? null : JSON.parse(recipe);
  } catch {
    return recipe;
  }
}

/**
 * Gives an image another name, in the records of its VMs and layers too.
 * @throws BangerError `not_found`, or `conflict` when the name is taken
 */
export function renameImage(host: ImageHost, from: string, to: string): ImageRecord {
  return host.stores.atomically(() => {
    const image = host.stores.images.get(from);
    host.stores.images.rename(image.id, to);
    for (const vm of host.stores.vms.list()) {
      if (vm.imageId === image.id) host.stores.vms.update(vm.id, { image: to });
    }
    host.stores.snapshots.renameImage(image.id, to);
    host.stores.templates.renameImage(image.id, to);
    for (const layer of host.stores.layers.list()) {
      if (layer.base === from) host.stores.layers.insert({ ...layer, base: to });
    }
    return host.stores.images.get(to);
  });
}

/**
 * Deletes an image: its record first, so that a crash leaves files without a record, which the next start removes.
 * @throws BangerError `not_found`, or `conflict` with the names of those who need it
 */
export async function deleteImage(host: ImageHost, name: string): Promise<{ name: string }> {
  const image = host.stores.atomically(() => {
    const found = host.stores.images.get(name);
    requireUnneeded(found, needsOf(host, found));
    host.stores.images.remove(found.id);
    return found;
  });
  await forgetTemplates(host, templatesOf(host, { imageId: image.id, rootfs: '' }));
  await rm(imageFiles(host.config.paths.store, image.id).directory, { recursive: true, force: true });
  return { name };
}

/**
 * An image takes long to make, and what it may replace is decided when that begins: what has got its name since is another one.
 * @param replaces id of the image that had the name then; undefined when it was free
 * @throws BangerError `conflict`
 */
export function requireSameHolder(
  { stores }: ImageHost,
  name: string,
  replaces: string | undefined,
  hint: string,
): void {
  const holder = stores.images.find(name);
  if (holder === undefined || holder.id === replaces) return;
  throw new BangerError('conflict', `Another image has got the name "${name}" meanwhile; it stays as it is.`, { hint });
}

/**
 * Clears away an image that was replaced by another of its name. While VMs need it, its kernel and initrd stay; they
 * go with the last of those, see `leaveImage`. While something is made from it, all of it stays; see `holdImage`.
 */
export async function retireImage(host: ImageHost, image: Pick<ImageRecord, 'id'>): Promise<void> {
  await forgetTemplates(host, templatesOf(host, { imageId: image.id, rootfs: '' }));
  const files = imageFiles(host.config.paths.store, image.id);
  if (isHeld(host, image.id)) return;
  const gone = isNeeded(host, image.id) ? [files.rootfs, files.packages] : [files.directory];
  for (const path of gone) await rm(path, { recursive: true, force: true });
}

/** For a VM that is gone or has another image now: what a replaced image had left for it goes when it was the last. */
export async function leaveImage(host: ImageHost, imageId: string | null): Promise<void> {
  if (imageId === null || host.stores.images.findById(imageId)) return;
  if (isNeeded(host, imageId) || isHeld(host, imageId)) return;
  await rm(imageFiles(host.config.paths.store, imageId).directory, { recursive: true, force: true });
}

function isHeld({ stores }: ImageHost, id: string): boolean {
  return stores.imageHolds.of(id).length > 0;
}

/** Whether a VM boots with its kernel, or will when it is had back. */
export function isNeeded(host: ImageHost, id: string): boolean {
  const { vms, trashed, snapshots } = needsOf(host, { id, name: '' });
  return vms.length + trashed.length + snapshots.length > 0;
}

/**
 * Compares the packages of two images or bundles.
 * @throws BangerError `not_found`, or `conflict` when one has no list of packages
 */
export async function diffImages(host: ImageHost, before: string, after: string): Promise<ImageDiff> {
  const [old, fresh] = [await packagesOf(host, before), await packagesOf(host, after)];
  return { before, after, ...diffPackages(old, fresh) };
}

/** @throws BangerError `not_found`, or `conflict` when there is no list of them */
export async function packagesOf(host: ImageHost, name: string): Promise<InstalledPackage[]> {
  const image = host.stores.images.find(name);
  const path = image ? imageFiles(host.config.paths.store, image.id).packages : await bundlePackages(host, name);
  const packages = path === undefined ? undefined : await readPackages(path);
  if (packages) return packages;
  throw new BangerError('conflict', `${name} has no list of packages.`, {
    hint: 'Images have one when they were built by banger, or when dpkg, apk, rpm or pacman keeps a database in them.',
  });
}

async function bundlePackages({ config }: ImageHost, name: string): Promise<string | undefined> {
  try {
    return (await openBundle(config.paths.bundles, name)).packages;
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'not_found') throw error;
    throw new BangerError('not_found', `There is no image and no bundle named "${name}".`, {
      cause: error,
      hint: 'See what exists: banger image list   and: banger bundle list',
    });
  }
}

async function readPackages(path: string): Promise<InstalledPackage[] | undefined> {
  try {
    return parsePackageList(await readFile(path, 'utf8'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

async function allocatedOrGone(path: string): Promise<number | undefined> {
  try {
    return await allocatedBytes(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function nameOfVm({ stores }: ImageHost, id: string): string {
  return stores.vms.findById(id)?.name ?? stores.trash.list().find(({ vm }) => vm.id === id)?.vm.name ?? id;
}

function requireUnneeded({ name }: ImageRecord, { vms, trashed, snapshots, layers, work }: ImageNeeds): void {
  const who = [
    ...(vms.length === 0 ? [] : [`${plural(vms.length, 'VM')} (${vms.join(', ')})`]),
    ...(trashed.length === 0 ? [] : [`${plural(trashed.length, 'deleted VM')} in the trash (${trashed.join(', ')})`]),
    ...(snapshots.length === 0 ? [] : [`${plural(snapshots.length, 'snapshot')} (${snapshots.join(', ')})`]),
    ...(layers.length === 0 ? [] : [plural(layers.length, 'layer of image builds', 'layers of image builds')]),
    ...work,
  ];
  if (who.length === 0) return;
  const [vm] = vms;
  const hint =
    work.length > 0
      ? 'Wait for its end, or call it off: banger operation list'
      : vm !== undefined
        ? `Give the VM another image: banger vm rebase ${vm} --image NAME   or delete it for good: banger rm --now ${vm}`
        : layers.length > 0
          ? 'Remove the layers: banger image prune --all'
          : snapshots[0] !== undefined
            ? `Delete them: banger snapshot delete ${snapshots[0].replace('/', ' ')}`
            : `Delete them for good first: banger trash empty ${trashed.join(' ')}`;
  throw new BangerError('conflict', `The image ${name} is needed by ${who.join(' and ')}.`, {
    hint,
    details: { vms, trashed, snapshots, layers, work },
  });
}

function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
