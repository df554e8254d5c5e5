/** Which image or bundle a VM boots from, by the names that records have. */

/** What the decision needs of an image. */
export interface KnownImage {
  id: string;
  name: string;
  /** name of the image or bundle it was made from */
  base: string;
}

export type BootSource<I extends KnownImage = KnownImage> =
  | { from: 'image'; image: I }
  /** the configured default bundle without a name */
  | { from: 'bundle'; name: string | undefined };

/** Images made from images made from images; nobody builds deeper, and records could name each other. */
const MAX_BASES = 16;

/** What a new VM is made from: an image of that name before a bundle. */
export function bootSource<I extends KnownImage>(name: string | undefined, images: readonly I[]): BootSource<I> {
  const image = name === undefined ? undefined : images.find((each) => each.name === name);
  return image ? { from: 'image', image } : { from: 'bundle', name };
}

/**
 * What a VM that exists boots from: the image it was made from, whatever that is called now and also when another took
 * its name. One that was replaced has no record any more, and is known by its id.
 */
export function vmBootSource(vm: { image: string; imageId: string | null }, images: readonly KnownImage[]): BootSource {
  const { image: name, imageId: id } = vm;
  if (id === null) return { from: 'bundle', name };
  return { from: 'image', image: images.find((each) => each.id === id) ?? { id, name, base: '' } };
}

/** The bundle below an image, whose defaults its VMs get; undefined when none is known. */
export function bundleBelow({ base }: Pick<KnownImage, 'base'>, images: readonly KnownImage[]): string | undefined {
  let name = base;
  for (let depth = 0; depth <= MAX_BASES; depth++) {
    const image = images.find((each) => each.name === name);
    if (!image) return name === '' ? undefined : name;
    name = image.base;
  }
  return undefined;
}
