/** Removes layers of image builds: they are shortcuts, and the next build makes again what it misses. */
import { rm } from 'node:fs/promises';
import type { ImagePrune, ImagePruned } from '../../api/image.ts';
import { planPrune } from '../../core/prune-layers.ts';
import { BangerError } from '../../errors.ts';
import type { LayerRecord } from '../../state/layers.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { layerFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';

type PruneHost = Pick<Host, 'config' | 'stores' | 'operations' | 'now'>;

/** @throws BangerError `conflict` while an image is built: it may be about to begin from one of them */
export async function pruneImages(
  host: PruneHost,
  request: ImagePrune,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImagePruned> {
  const dryRun = request.dryRun ?? false;
  const layers = await Promise.all(host.stores.layers.list().map((layer) => withRealSize(host, layer)));
  const { unusedForMs, keepBytes, all } = request;
  const { remove, keep } = planPrune(layers, {
    bases: new Set(host.stores.images.list().flatMap(({ recipe, base }) => (recipe === null ? [] : [base]))),
    ...(keepBytes === undefined ? {} : { keepBytes }),
    ...(unusedForMs === undefined ? {} : { unusedSince: new Date(host.now().getTime() - unusedForMs).toISOString() }),
    ...(all ? { all } : {}),
  });
  if (!dryRun) {
    requireNoBuild(host);
    progress.step('remove-layers', 'removing layers');
    for (const [index, { key, step }] of remove.entries()) {
      signal.throwIfAborted();
      progress.report({ label: 'removing layers', detail: step, done: index, total: remove.length });
      // the record first: a layer without a file would be begun from, a file without a record is never looked at
      host.stores.layers.remove(key);
      for (const path of layerFiles(host.config.paths.store, key)) await rm(path, { force: true });
    }
  }
  return {
    removed: remove.map(({ key, base, step, sizeBytes, usedAt }) => ({ key, base, step, sizeBytes, usedAt })),
    removedBytes: sum(remove),
    kept: keep.length,
    keptBytes: sum(keep),
    dryRun,
  };
}

/** What it takes now: a file that shares blocks with others counts whole, because nobody can tell whose they are. */
async function withRealSize({ config }: PruneHost, layer: LayerRecord): Promise<LayerRecord> {
  const files = layerFiles(config.paths.store, layer.key);
  const sizes = await Promise.all(files.map((path) => allocatedBytes(path).catch(() => 0)));
  return { ...layer, sizeBytes: sizes.reduce((sum, bytes) => sum + bytes, 0) };
}

function requireNoBuild({ operations }: PruneHost): void {
  const build = operations.list().find(({ kind, state }) => kind === 'image.build' && state === 'running');
  if (!build) return;
  throw new BangerError('conflict', `${build.target} is being built and may begin from a layer at any time.`, {
    hint: `Wait for it to end: banger operation wait ${build.id}`,
  });
}

function sum(layers: readonly LayerRecord[]): number {
  return layers.reduce((bytes, { sizeBytes }) => bytes + sizeBytes, 0);
}
