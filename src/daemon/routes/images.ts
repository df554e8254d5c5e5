/** Handlers for the image catalogue. */
import { resolve } from 'node:path';
import type { Host } from '../../control/host.ts';
import {
  deleteImage,
  diffImages,
  renameImage,
  viewImage,
  viewImageDetail,
  viewImages,
} from '../../control/images/catalogue.ts';
import { exportImage } from '../../control/images/export.ts';
import { importImage } from '../../control/images/import.ts';
import { pruneImages } from '../../control/images/prune.ts';
import { pullImage } from '../../control/images/pull.ts';
import { pushImage } from '../../control/images/push.ts';
import { viewSbom } from '../../control/images/sbom.ts';
import { warmImage } from '../../control/warm/background.ts';
import { coolImage, pruneTemplates, viewTemplates } from '../../control/warm/view.ts';
import type { Handlers } from '../server.ts';

type ImageHandlers = Pick<
  Handlers,
  | 'listImages'
  | 'showImage'
  | 'showSbom'
  | 'deleteImage'
  | 'renameImage'
  | 'importImage'
  | 'exportImage'
  | 'pullImage'
  | 'pushImage'
  | 'pruneImages'
  | 'diffImages'
  | 'listTemplates'
  | 'warmImage'
  | 'coolImage'
>;

/** Names of images and VMs may be equal; operations on both may not be taken for one another. */
const targetOf = (name: string) => `image ${name}`;

export function imageHandlers(host: Host): ImageHandlers {
  const { operations } = host;
  const { images } = host.stores;
  return {
    listImages: async () => await viewImages(host),
    showImage: async ({ params }) => await viewImageDetail(host, params.name),
    showSbom: async ({ params, query, signal }) => await viewSbom(host, params.name, query.format, signal),
    listTemplates: async () => await viewTemplates(host),
    warmImage: async ({ body }) => warmImage(host, body, { background: false }),
    coolImage: async ({ body }) => await coolImage(host, body.image),
    diffImages: async ({ query }) => await diffImages(host, query.before, query.after),
    deleteImage: async ({ params: { name } }) => {
      images.get(name);
      return operations.start({
        kind: 'image.delete',
        target: targetOf(name),
        run: async () => await deleteImage(host, name),
      });
    },
    renameImage: async ({ params: { name }, body }) => {
      images.get(name);
      return operations.start({
        kind: 'image.rename',
        target: targetOf(name),
        // what is made under that name meanwhile would find another image
        also: [targetOf(body.name)],
        run: async () => await viewImage(host, renameImage(host, name, body.name)),
      });
    },
    importImage: async ({ body }) =>
      operations.start({
        kind: 'image.import',
        target: targetOf(body.name ?? body.source),
        run: async (progress, signal) => await importImage(host, body, progress, signal),
      }),
    pullImage: async ({ body }) =>
      operations.start({
        kind: 'image.pull',
        target: targetOf(body.name ?? body.reference),
        joinable: true,
        run: async (progress, signal) => await pullImage(host, body, progress, signal),
      }),
    pushImage: async ({ params: { name }, body }) => {
      images.get(name);
      return operations.start({
        kind: 'image.push',
        target: targetOf(name),
        run: async (progress, signal) => await pushImage(host, name, body, progress, signal),
      });
    },
    exportImage: async ({ params: { name }, body }) => {
      images.get(name);
      return operations.start({
        kind: 'image.export',
        target: targetOf(name),
        run: async (progress, signal) => await exportImage(host, name, resolve(body.file), progress, signal),
      });
    },
    pruneImages: async ({ body }) =>
      operations.start({
        kind: 'image.prune',
        target: 'image layers',
        run: async (progress, signal) => ({
          ...(await pruneImages(host, body, progress, signal)),
          ...(await pruneTemplates(host, body)),
        }),
      }),
  };
}
