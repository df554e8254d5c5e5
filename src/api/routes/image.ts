/** Routes of the image catalogue, and of a VM's move to another image. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import { named, type Route } from './route.ts';

const image = z.object({ name: s.ImageName });

export const imageRoutes = {
  listImages: { method: 'GET', url: '/v1/images', summary: 'All images, by name', response: z.array(s.Image) },
  showImage: {
    method: 'GET',
    url: '/v1/images/:name',
    summary: 'One image, in detail',
    params: image,
    response: s.ImageDetail,
  },
  deleteImage: {
    method: 'DELETE',
    url: '/v1/images/:name',
    summary: 'Delete an image no VM and no layer needs',
    params: image,
    response: s.Operation,
    status: 202,
  },
  renameImage: {
    method: 'POST',
    url: '/v1/images/:name/rename',
    summary: 'Give an image another name',
    params: image,
    body: s.ImageRename,
    response: s.Operation,
    status: 202,
  },
  importImage: {
    method: 'POST',
    url: '/v1/images/import',
    summary: 'Bring in an image, verified',
    body: s.ImageImport,
    response: s.Operation,
    status: 202,
  },
  exportImage: {
    method: 'POST',
    url: '/v1/images/:name/export',
    summary: 'Write an image as one file',
    params: image,
    body: s.ImageExport,
    response: s.Operation,
    status: 202,
  },
  pruneImages: {
    method: 'POST',
    url: '/v1/images/prune',
    summary: 'Remove layers of image builds',
    body: s.ImagePrune,
    response: s.Operation,
    status: 202,
  },
  diffImages: {
    method: 'GET',
    // not below /v1/images, where it would be the name of an image
    url: '/v1/image-diff',
    summary: 'Packages added, removed and changed between two images or bundles',
    query: z.object({ before: z.string().min(1), after: z.string().min(1) }),
    response: s.ImageDiff,
  },
  rebaseVm: {
    method: 'POST',
    url: '/v1/vms/:name/rebase',
    summary: 'Give a VM a new root disk from another image; undone when SSH does not come up',
    params: named,
    body: s.VmRebase,
    response: s.Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
