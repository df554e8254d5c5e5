/** The store: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';

export const Storage = z.object({
  path: z.string().describe('directory with the disks of images and VMs'),
  fileSystem: z.string().describe('e.g. `ext4` or `xfs`'),
  sharesBlocks: z.boolean().nullable().describe('whether clones cost no time and space; null when it cannot be tried'),
  sizeBytes: z.number(),
  freeBytes: z.number(),
  state: z.enum(['ok', 'low', 'full']).describe('`low`: nine tenths are used; `full`: no VM is started'),
  minFreeBytes: z.number().describe('room below which no VM is started (storage.min_free)'),
  usage: z.array(
    z.object({
      what: z.string().describe('directory of the store, or `bundles`'),
      path: z.string(),
      bytes: z.number().describe('bytes used; blocks that clones share count for each'),
    }),
  ),
  image: z
    .object({
      path: z.string(),
      sizeBytes: z.number().describe('size of the file system in it'),
      allocatedBytes: z.number().describe('bytes it takes of its own file system'),
      hostFreeBytes: z.number().describe('free bytes of the file system the image lies on'),
    })
    .nullable()
    .describe('file the store lies in, when `banger storage init` made one'),
});

export const StorageInit = z.strictObject({
  sizeBytes: z.int().positive().optional().describe('size of the file system; it takes only what it holds'),
  path: z.string().optional().describe('file of the image, absolute; `store.xfs` in the state directory otherwise'),
});

const StorageResize = z.strictObject({ sizeBytes: z.int().positive().describe('new size; it only grows') });

export type Storage = z.infer<typeof Storage>;
export type StorageInit = z.infer<typeof StorageInit>;

export const storageRoutes = {
  showStorage: {
    method: 'GET',
    url: '/v1/storage',
    summary: 'The store: file system, room, what takes it',
    response: Storage,
  },
  initStorage: {
    method: 'POST',
    url: '/v1/storage/init',
    summary: 'Put the store on an XFS image, where clones cost nothing',
    body: StorageInit,
    response: Operation,
    status: 202,
  },
  resizeStorage: {
    method: 'POST',
    url: '/v1/storage/resize',
    summary: "Grow the store's image",
    body: StorageResize,
    response: Operation,
    status: 202,
  },
  undoStorage: {
    method: 'POST',
    url: '/v1/storage/undo',
    summary: 'Put the store back into its directory and delete the image',
    response: Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
