/** Images that somebody works from: what a build or a new VM is made of stays until that is made, also when another replaces it. */
import { BangerError } from '../../errors.ts';
import { type ImageHost, retireImage } from './catalogue.ts';

/** What is asked of an image by whoever found its files; without an id it is a bundle. */
export interface FoundSource {
  name: string;
  imageId?: string | undefined;
}

/**
 * Keeps the files of an image until it is disposed of; what an image that was replaced has left goes then.
 * @param who what people are told who would delete it, e.g. `the build of app`
 * @throws BangerError `not_found` when the image was deleted or replaced since its files were looked up
 */
export function holdImage(host: ImageHost, source: FoundSource, who: string): AsyncDisposable {
  requireImage(host, source);
  const { imageId: id } = source;
  if (id === undefined) return { [Symbol.asyncDispose]: async () => {} };
  const hold = host.stores.imageHolds.hold(id, who);
  return {
    async [Symbol.asyncDispose]() {
      hold[Symbol.dispose]();
      if (host.stores.images.findById(id)) return;
      // what was made is whole without that, and the next daemon sweeps it
      await retireImage(host, { id }).catch(() => {});
    },
  };
}

/** @throws BangerError `not_found` when the image was deleted since its files were looked up */
export function requireImage({ stores }: Pick<ImageHost, 'stores'>, { imageId, name }: FoundSource): void {
  if (imageId === undefined || stores.images.findById(imageId)) return;
  throw new BangerError('not_found', `The image ${name} was deleted or replaced meanwhile.`, {
    hint: 'See what exists: banger image list',
  });
}
