/** The store as the API shows it. */
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Storage } from '../../api/storage.ts';
import { allocatedBytes, apparentBytes } from '../../storage/disk.ts';
import { mountOf, sharesBlocks, spaceOf, usedBytes } from '../../storage/file-system.ts';
import type { Host } from '../host.ts';
import { storeImage } from './image.ts';
import { storeSpace } from './space.ts';

export async function showStorage(host: Host): Promise<Storage> {
  const { store, bundles } = host.config.paths;
  const parts = (await readdir(store, { withFileTypes: true })).filter((entry) => entry.isDirectory());
  const directories = parts.map(({ name }) => ({ what: name, path: join(store, name) }));
  const usage = await Promise.all(
    [...directories, { what: 'bundles', path: bundles }].map(async (part) => ({
      ...part,
      bytes: await usedBytes(part.path),
    })),
  );
  return {
    path: store,
    fileSystem: (await mountOf(store))?.type ?? 'unknown',
    sharesBlocks: (await sharesBlocks(store)) ?? null,
    ...(await storeSpace(host)),
    minFreeBytes: host.config.storage.minFreeBytes,
    usage: usage.sort((a, b) => b.bytes - a.bytes),
    image: await viewImage(host),
  };
}

async function viewImage(host: Host): Promise<Storage['image']> {
  const image = storeImage(host);
  if (!image) return null;
  return {
    path: image.name,
    sizeBytes: await apparentBytes(image.name),
    allocatedBytes: await allocatedBytes(image.name),
    hostFreeBytes: (await spaceOf(dirname(image.name))).freeBytes,
  };
}
