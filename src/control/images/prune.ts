/** Removes layers of image builds: they are shortcuts, and the next build makes again what it misses. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImagePrune, ImagePruned } from '../../api/image.ts';
import type { Operation } from '../../api/operation.ts';
import { planPrune } from '../../core/prune-layers.ts';
import { BangerError } from '../../errors.ts';
import type { LayerRecord } from '../../state/layers.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { imageFiles, layerFiles, ociFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { readOciRecord } from './oci-record.ts';

/** Templates are not its own. */
type PrunedLayers = Omit<ImagePruned, 'templates' | 'templateBytes'>;

type PruneHost = Pick<Host, 'config' | 'stores' | 'operations' | 'now'>;

/** @throws BangerError `conflict` while an image is built: it may be about to begin from one of them */
export async function pruneImages(
  host: PruneHost,
  request: ImagePrune,
  progress: Progress,
  signal: AbortSignal,
): Promise<PrunedLayers> {
  const dryRun = request.dryRun ?? false;
  const layers = await Promise.all(host.stores.layers.list().map((layer) => withRealSize(host, layer)));
  const { unusedForMs, keepBytes, all } = request;
  const { remove, keep } = planPrune(layers, {
    bases: new Set(host.stores.images.list().flatMap(({ recipe, base }) => (recipe === null ? [] : [base]))),
    ...(keepBytes === undefined ? {} : { keepBytes }),
    ...(unusedForMs === undefined ? {} : { unusedSince: new Date(host.now().getTime() - unusedForMs).toISOString() }),
    ...(all ? { all } : {}),
  });
  const gone: LayerRecord[] = dryRun ? remove : [];
  if (!dryRun) {
    requireNoBuild(host);
    progress.step('remove-layers', 'removing layers');
    for (const [index, layer] of remove.entries()) {
      signal.throwIfAborted();
      progress.report({ label: 'removing layers', detail: layer.step, done: index, total: remove.length });
      if (isWantedAgain(host, layer)) {
        keep.push(layer);
        continue;
      }
      // the record first: a layer without a file would be begun from, a file without a record is never looked at
      host.stores.layers.remove(layer.key);
      for (const path of layerFiles(host.config.paths.store, layer.key)) await rm(path, { force: true });
      gone.push(layer);
    }
  }
  const blobs = await pruneBlobs(host, all ?? false, dryRun);
  return {
    ...blobs,
    removed: gone.map(({ key, base, step, sizeBytes, usedAt }) => ({ key, base, step, sizeBytes, usedAt })),
    removedBytes: sum(gone),
    kept: keep.length,
    keptBytes: sum(keep),
    dryRun,
  };
}

/** A build has begun since, while other layers were removed, or has begun from this one and ended. */
function isWantedAgain(host: PruneHost, { key, usedAt }: LayerRecord): boolean {
  const now = host.stores.layers.find(key);
  return findBuild(host) !== undefined || (now !== undefined && now.usedAt !== usedAt);
}

/** Blobs that no image names go; with `all` every one of them: they only spare the next pull its transfer. */
async function pruneBlobs(
  host: PruneHost,
  all: boolean,
  dryRun: boolean,
): Promise<Pick<ImagePruned, 'blobs' | 'blobBytes'>> {
  const { store } = host.config.paths;
  const directory = join(ociFiles(store).blobs, 'sha256');
  const isPulling = () =>
    host.operations.list().some(({ kind, state }) => kind === 'image.pull' && state === 'running');
  const named = new Set<string>();
  for (const { id } of all ? [] : host.stores.images.list()) {
    const record = await readOciRecord(imageFiles(store, id).oci).catch(() => undefined);
    for (const { digest } of record?.layers ?? []) named.add(digest.replace('sha256:', ''));
  }
  const result = { blobs: 0, blobBytes: 0 };
  for (const name of await readdir(directory).catch((): string[] => [])) {
    if (named.has(name)) continue;
    const path = join(directory, name);
    const bytes = await allocatedBytes(path).catch(() => 0);
    // one that is under way, or has begun meanwhile, may need any of them
    if (isPulling()) return result;
    result.blobs += 1;
    result.blobBytes += bytes;
    if (!dryRun) await rm(path, { force: true });
  }
  return result;
}

/** What it takes now: a file that shares blocks with others counts whole, because nobody can tell whose they are. */
async function withRealSize({ config }: PruneHost, layer: LayerRecord): Promise<LayerRecord> {
  const files = layerFiles(config.paths.store, layer.key);
  const sizes = await Promise.all(files.map((path) => allocatedBytes(path).catch(() => 0)));
  return { ...layer, sizeBytes: sizes.reduce((sum, bytes) => sum + bytes, 0) };
}

function findBuild({ operations }: Pick<PruneHost, 'operations'>): Operation | undefined {
  return operations.list().find(({ kind, state }) => kind === 'image.build' && state === 'running');
}

function requireNoBuild({ operations }: Pick<PruneHost, 'operations'>): void {
  const build = findBuild({ operations });
  if (!build) return;
  throw new BangerError('conflict', `${build.target} is being built and may begin from a layer at any time.`, {
    hint: `Wait for it to end: banger operation wait ${build.id}`,
  });
}

function sum(layers: readonly LayerRecord[]): number {
  return layers.reduce((bytes, { sizeBytes }) => bytes + sizeBytes, 0);
}
