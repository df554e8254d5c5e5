/** What a dead daemon left of images and layers: half an import or export, files whose record is gone or never came. */
import { readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { messageOf, systemCode } from '../../errors.ts';
import { imageFiles, layerFile, ociFiles } from '../../storage/layout.ts';
import { endProcess, findLeftPrograms, isIn, worksIn } from '../../system/processes.ts';
import { forgetOldKeptVms } from '../builds/kept-vm.ts';
import type { Host } from '../host.ts';
import { type ImageHost, isNeeded } from '../images/catalogue.ts';
import { EXPORT_SUFFIX } from '../images/export.ts';
import { IMPORT_SUFFIX } from '../images/import.ts';
import { sweepTemplates } from '../memory/templates.ts';

const IMAGE_ID = /^[0-9a-f]{8}$/;
const LAYER_FILE = /^([0-9a-f]{64})\.(ext4|memory|vmstate)$/;

/**
 * For the start of a daemon, when nobody imports or exports yet. Other names are left to whoever made them, and what
 * an image that was replaced left for its VMs stays while there are any.
 */
export async function sweepImages(host: ImageHost & Pick<Host, 'log' | 'system'>): Promise<void> {
  await forgetOldKeptVms(host);
  await sweepTemplates(host);
  await sweepLayers(host);
  await sweepPulls(host);
  const store = dirname(imageFiles(host.config.paths.store, '0').directory);
  for (const name of await namesIn(store)) {
    const path = join(store, name);
    const inWork = name.endsWith(IMPORT_SUFFIX) || name.endsWith(EXPORT_SUFFIX);
    if (!inWork && !(IMAGE_ID.test(name) && !host.stores.images.findById(name) && !isNeeded(host, name))) continue;
    await remove(host, path, 'removing what is left of an image');
  }
}

/** Disks and machines of build steps that a daemon did not come to register, or had begun to remove. */
async function sweepLayers(host: ImageHost & Pick<Host, 'log'>): Promise<void> {
  const directory = dirname(layerFile(host.config.paths.store, '0'));
  for (const name of await namesIn(directory)) {
    const [, key, kind] = LAYER_FILE.exec(name) ?? [];
    if (key === undefined) continue;
    const layer = host.stores.layers.find(key);
    if (layer && (kind === 'ext4' || layer.machine !== null)) continue;
    await remove(host, join(directory, name), 'removing a layer that is in no record');
  }
}

/** Layouts that were being fetched; their blobs are elsewhere, and stay. */
async function sweepPulls(host: ImageHost & Pick<Host, 'log'>): Promise<void> {
  const { pulls } = ociFiles(host.config.paths.store);
  for (const name of await namesIn(pulls)) await remove(host, join(pulls, name), 'removing what is left of a pull');
}

async function remove(host: Pick<Host, 'log'>, path: string, why: string): Promise<void> {
  host.log.info({ path }, why);
  try {
    await endWriters(path);
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    host.log.error({ path, error: messageOf(error) }, 'it could not be removed'); // the next start tries again
  }
}

/** Programs outlive the daemon that started them. */
async function endWriters(directory: string): Promise<void> {
  const writers = await findLeftPrograms(
    (argv, pid) => worksIn(directory, pid) || argv.some((word) => isIn(directory, word.replace(/^oci:/, ''), pid)),
    async (_user, pid) => worksIn(directory, pid),
  );
  for (const writer of writers) await endProcess(writer, { graceMs: 0 });
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}
