/** The templates that are kept: found for a new VM, looked at, and forgotten with what they were made of. */
import { readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { vmDefaults } from '../../config/schema.ts';
import {
  beyondLimits,
  chooseTemplate,
  type TemplateChoice,
  type TemplateRecord,
  type Wanted,
} from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf, systemCode } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { templateFiles } from '../../storage/layout.ts';
import { takeBack } from '../handover.ts';
import type { Host } from '../host.ts';
import { fitOf } from './fit.ts';
import { contentsOf } from './manifest.ts';

/** What of a VM decides which template it may begin as. */
export type TemplateVm = Pick<
  VmRecord,
  'vcpus' | 'memoryMib' | 'rootDiskBytes' | 'workDiskBytes' | 'workDiskMount' | 'nat'
>;

type TemplateHost = Pick<Host, 'config' | 'stores'>;

/**
 * What a template must be like for this VM to begin as it.
 * @param chosen the VMM, where the caller knows it
 */
export async function wantedTemplate(
  host: Pick<Host, 'config' | 'checks' | 'system'>,
  vm: TemplateVm,
  boot: BootFiles,
  chosen?: VmmChoice,
): Promise<Wanted> {
  const [fit, { size, mtime }] = await Promise.all([fitOf(host, vm, boot, chosen), stat(boot.rootfs)]);
  const { vcpus, memoryMib, rootDiskBytes, workDiskBytes, workDiskMount, nat } = vm;
  const shape = {
    imageId: boot.imageId ?? null,
    rootfs: { path: boot.rootfs, size, modifiedAt: mtime.toISOString() },
    bootArgs: vmDefaults(host.config, boot.defaults).bootArgs,
    ...{ vcpus, memoryMib, nat },
    workMount: workDiskBytes > 0 ? workDiskMount : null,
  };
  return { shape, rootDiskBytes, workDiskBytes, fit };
}

/** The template that a VM may begin as, or why there is none for it. */
export async function findTemplate(host: TemplateHost, wanted: Wanted): Promise<TemplateChoice> {
  const found = chooseTemplate(host.stores.templates.list(), wanted);
  if (found.template === undefined || (await isWhole(host, found.template))) return found;
  return { template: undefined, why: ['its files were changed since'] };
}

/** Whether its files are what they were when it was made. */
export async function isWhole(host: TemplateHost, { id, files, workDiskBytes }: TemplateRecord): Promise<boolean> {
  try {
    return isDeepStrictEqual(await contentsOf(pathsOf(host, { id, workDiskBytes })), files);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Its files in the order in which its record has them. */
export function pathsOf({ config }: TemplateHost, { id, workDiskBytes }: Pick<TemplateRecord, 'id' | 'workDiskBytes'>) {
  const { memory, state, rootDisk, workDisk } = templateFiles(config.paths.store, id);
  return [memory, state, rootDisk, ...(workDiskBytes > 0 ? [workDisk] : [])];
}

/** Removes templates: records first, so that a crash leaves files without one, which the next start removes. */
export async function forgetTemplates(
  host: TemplateHost,
  templates: readonly Pick<TemplateRecord, 'id'>[],
): Promise<void> {
  host.stores.atomically(() => {
    for (const { id } of templates) host.stores.templates.remove(id);
  });
  for (const { id } of templates) {
    await rm(templateFiles(host.config.paths.store, id).directory, { recursive: true, force: true });
  }
}

/** Those of an image, or of the bundle whose root file system this is. */
export function templatesOf({ stores }: Pick<Host, 'stores'>, boot: Pick<BootFiles, 'imageId' | 'rootfs'>) {
  const { imageId = null, rootfs } = boot;
  return stores.templates
    .list()
    .filter(({ shape }) => shape.imageId === imageId && (imageId !== null || shape.rootfs.path === rootfs));
}

/** Removes the longest unused beyond those that may be kept. @param kept one that stays in any case */
export async function limitTemplates(host: TemplateHost, kept?: string): Promise<void> {
  const { templates: count, roomBytes: bytes } = host.config.warm;
  await forgetTemplates(host, beyondLimits(host.stores.templates.list(), { count, bytes }, kept));
}

const TEMPLATE_ID = /^[0-9a-f]{8}$/;

/**
 * For the start of a daemon: removes what is not whole, and files without a record. A file may belong to the user of a VM that
 * was loading it.
 */
export async function sweepTemplates(host: TemplateHost & Pick<Host, 'log' | 'system'>): Promise<void> {
  const gone: TemplateRecord[] = [];
  for (const template of host.stores.templates.list()) {
    if (isOrphaned(host, template) || !(await isWhole(host, template))) gone.push(template);
    else for (const path of pathsOf(host, template)) await takeBack(host, path);
  }
  if (gone.length > 0) host.log.info({ templates: gone.map(({ image }) => image) }, 'templates are of no use any more');
  await forgetTemplates(host, gone);
  await limitTemplates(host);
  for (const path of await strayTemplates(host)) {
    host.log.info({ path }, 'removing a template that is in no record');
    await rm(path, { recursive: true, force: true }).catch((error) =>
      host.log.error({ path, error: messageOf(error) }, 'it could not be removed'),
    );
  }
}

/** Its image was deleted or replaced. */
function isOrphaned({ stores }: Pick<Host, 'stores'>, { shape }: TemplateRecord): boolean {
  return shape.imageId !== null && stores.images.findById(shape.imageId) === undefined;
}

/** Directories of templates of which there is no record; one that is being made is none of them. */
export async function strayTemplates({ config, stores }: TemplateHost): Promise<string[]> {
  const directory = dirname(templateFiles(config.paths.store, '0').directory);
  const making = new Set(stores.buildVms.list().map(({ id }) => id));
  const names = await readdir(directory).catch((error) => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  return names
    .filter((name) => TEMPLATE_ID.test(name) && !making.has(name) && !stores.templates.find(name))
    .map((name) => join(directory, name));
}
