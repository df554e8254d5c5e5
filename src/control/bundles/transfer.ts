/** Long actions on finished bundles: verifying, importing, exporting and adopting them, with progress. */
import { lstat, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { BundleFile, BundleImport, BundleVerdict, Bundle as BundleView } from '../../api/bundle.ts';
import { useFirstBundle } from '../../bundle/store/catalogue.ts';
import { listTree } from '../../bundle/store/checksum.ts';
import { adoptBundle, loadBundle } from '../../bundle/store/legacy-layout.ts';
import { type Bundle, MANIFEST_FILE } from '../../bundle/store/manifest.ts';
import { exportBundle, importBundle, type TransferDeps } from '../../bundle/store/transfer.ts';
import { verifyBundle } from '../../bundle/store/verify.ts';
import { BangerError } from '../../errors.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { viewBundle } from './access.ts';
import { countBytes, hostArch } from './support.ts';

/** What these actions need of the host. */
export type BundleHost = Pick<Host, 'config' | 'stores' | 'system'>;

const COMPARING = { step: 'compare-checksums', label: 'comparing checksums' };

/**
 * Every answer about a bundle; a wrong sum is an answer, not an error.
 * @throws BangerError `not_found` or `corrupt` when its bundle.json cannot be used at all
 */
export async function verify(
  host: BundleHost,
  dir: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<BundleVerdict> {
  progress.step(COMPARING.step, COMPARING.label);
  const total = await bytesToSum(await loadBundle(dir));
  const onBytes = countBytes(progress, COMPARING.label, total);
  const { bundle, ok, checks } = await verifyBundle(dir, { arch: hostArch(), signal, onBytes });
  const { name } = await viewBundle(host.config, host.stores.vms, bundle);
  return { name, directory: dir, ok, checks };
}

/**
 * Brings a bundle into the bundle store; the first one there becomes the default.
 * @throws BangerError as `importBundle` does
 */
export async function importToStore(
  host: BundleHost,
  request: BundleImport,
  progress: Progress,
  signal: AbortSignal,
): Promise<BundleView> {
  const catalog = host.config.paths.bundles;
  progress.step('unpack', 'unpacking');
  const count = countBytes(progress, COMPARING.label, undefined);
  let comparing = false;
  const bundle = await importBundle(transferDeps(host, signal), {
    source: request.source,
    catalog,
    ...(request.name === undefined ? {} : { name: request.name }),
    replace: request.force ?? false,
    arch: hostArch(),
    onBytes: (bytes) => {
      if (!comparing) progress.step(COMPARING.step, COMPARING.label);
      comparing = true;
      count(bytes);
    },
  });
  await useFirstBundle(catalog, basename(bundle.dir));
  return await viewBundle(host.config, host.stores.vms, bundle);
}

/**
 * Writes a bundle as one file.
 * @throws BangerError `conflict` when the file exists, or the bundle has no bundle.json to say what belongs to it
 */
export async function exportToFile(
  host: BundleHost,
  dir: string,
  file: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<BundleFile> {
  const bundle = await loadBundle(dir);
  if (bundle.legacy) {
    throw new BangerError('conflict', `${dir} has no ${MANIFEST_FILE}, which says what belongs to a bundle.`, {
      hint: `Write one: banger bundle adopt ${dir}`,
    });
  }
  progress.step('pack', 'packing');
  await exportBundle(transferDeps(host, signal), dir, file);
  const { name } = await viewBundle(host.config, host.stores.vms, bundle);
  return { name, file, sizeBytes: (await stat(file)).size };
}

/**
 * Writes the bundle.json of a directory in the legacy layout.
 * @throws BangerError `conflict` when it has one already
 */
export async function adopt(
  host: BundleHost,
  dir: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<BundleView> {
  const label = 'computing checksums';
  progress.step('compute-checksums', label);
  const bundle = await adoptBundle(dir, { signal, onBytes: countBytes(progress, label, undefined) });
  return await viewBundle(host.config, host.stores.vms, bundle);
}

function transferDeps({ config, system }: BundleHost, signal: AbortSignal): TransferDeps {
  return { runner: system.runner, programs: config.programs, signal };
}

/** Bytes that are read to compare every sum of a bundle. */
async function bytesToSum({ dir, manifest }: Bundle): Promise<number> {
  let total = Object.values(manifest.files).reduce((sum, { size }) => sum + size, 0);
  for (const tree of Object.keys(manifest.trees)) {
    for (const { path, kind } of await listTree(join(dir, tree))) {
      if (kind === 'file') total += (await lstat(join(dir, tree, path))).size;
    }
  }
  return total;
}
