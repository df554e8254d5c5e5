/** Routes of the store. */
import * as s from '../schemas.ts';
import type { Route } from './route.ts';

export const storageRoutes = {
  showStorage: {
    method: 'GET',
    url: '/v1/storage',
    summary: 'The store: file system, room, what takes it',
    response: s.Storage,
  },
  initStorage: {
    method: 'POST',
    url: '/v1/storage/init',
    summary: 'Put the store on an XFS image, where clones cost nothing',
    body: s.StorageInit,
    response: s.Operation,
    status: 202,
  },
  resizeStorage: {
    method: 'POST',
    url: '/v1/storage/resize',
    summary: "Grow the store's image",
    body: s.StorageResize,
    response: s.Operation,
    status: 202,
  },
  undoStorage: {
    method: 'POST',
    url: '/v1/storage/undo',
    summary: 'Put the store back into its directory and delete the image',
    response: s.Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
