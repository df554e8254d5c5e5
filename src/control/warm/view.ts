/** Templates as the API shows them, and what of them goes. */
import type { ImagePrune, ImagePruned, Template } from '../../api/image.ts';
import { vmDefaults } from '../../config/schema.ts';
import { type TemplateRecord, whyNot } from '../../core/template.ts';
import { messageOf } from '../../errors.ts';
import { findBootFiles, findVmBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import { forgetTemplates, isWhole, templatesOf, wantedTemplate } from '../memory/templates.ts';

type ViewHost = Pick<Host, 'config' | 'stores' | 'checks' | 'system'>;

export async function viewTemplates(host: ViewHost): Promise<Template[]> {
  return await Promise.all(host.stores.templates.list().map((template) => viewTemplate(host, template)));
}

export async function viewTemplate(host: ViewHost, template: TemplateRecord): Promise<Template> {
  const { id, image, shape, rootDiskBytes, workDiskBytes, bytes, createdAt, usedAt } = template;
  const { vcpus, memoryMib, nat, workMount } = shape;
  return {
    ...{ id, image, vcpus, memoryMib, rootDiskBytes, workDiskBytes, workDiskMount: workMount, nat },
    ...{ bytes, createdAt, usedAt, misfits: await misfitsOf(host, template) },
  };
}

/** Removes the templates of an image or bundle. @returns what there was */
export async function coolImage(host: ViewHost, image: string | undefined): Promise<Template[]> {
  const templates = templatesOf(host, await findBootFiles(host, image));
  const views = await Promise.all(templates.map((template) => viewTemplate(host, template)));
  await forgetTemplates(host, templates);
  return views;
}

/** Templates go that no VM can begin as any more; with an age those too that none did for so long. */
export async function pruneTemplates(
  host: ViewHost & Pick<Host, 'now'>,
  { all = false, unusedForMs, dryRun = false }: ImagePrune,
): Promise<Pick<ImagePruned, 'templates' | 'templateBytes'>> {
  const since = host.now().getTime() - (unusedForMs ?? Number.POSITIVE_INFINITY);
  const goes = (await viewTemplates(host)).filter(
    ({ misfits, usedAt }) => all || misfits.length > 0 || Date.parse(usedAt) < since,
  );
  if (!dryRun) await forgetTemplates(host, goes);
  return { templates: goes.length, templateBytes: goes.reduce((total, { bytes }) => total + bytes, 0) };
}

/** Why a VM of just its size could not begin as it, each a clause. */
export async function misfitsOf(host: ViewHost, template: TemplateRecord): Promise<string[]> {
  const { shape, rootDiskBytes, workDiskBytes } = template;
  try {
    const named = { id: template.id, name: template.image, image: template.image, imageId: shape.imageId };
    const boot = await findVmBootFiles(host, named);
    const workDiskMount = shape.workMount ?? vmDefaults(host.config, boot.defaults).workMount;
    const vm = { ...shape, rootDiskBytes, workDiskBytes, workDiskMount };
    const found = whyNot(template, await wantedTemplate(host, vm, boot));
    return (await isWhole(host, template)) ? found : [...found, 'its files were changed since'];
  } catch (error) {
    return [messageOf(error)];
  }
}
