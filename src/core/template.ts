/** Templates: guests that stand still just after their boot, and which of them a new VM may begin as. */
import { type FileMark, type Fit, misfits } from './fit.ts';

/** What a VM is made of, as far as its guest has read it by the end of its boot. */
export interface TemplateShape {
  /** id of the image, null for a bundle */
  imageId: string | null;
  /** root file system of the image or bundle */
  rootfs: FileMark;
  /** added to the kernel command line */
  bootArgs: string;
  vcpus: number;
  memoryMib: number;
  /** where the work disk is mounted; null for a VM without one */
  workMount: string | null;
  /** whether it reached the outside while it booted */
  nat: boolean;
}

/** One of its files: one that was written or replaced since is told apart. */
export interface TemplateFile {
  inode: string;
  /** bytes */
  size: string;
  /** nanoseconds since 1970 */
  modified: string;
}

export interface TemplateRecord {
  /** 8 hexadecimal digits; names its directory */
  id: string;
  /** name of the image or bundle when it was made */
  image: string;
  shape: TemplateShape;
  rootDiskBytes: number;
  /** 0 for one without a work disk */
  workDiskBytes: number;
  /** what its memory goes on with */
  fit: Fit;
  /** what the VMM that wrote its state calls itself; no other version reads it */
  vmmVersion: string;
  /** its memory, its state and its disks, in this order, which are of one moment */
  files: TemplateFile[];
  /** units of its init that had failed */
  failedUnits: string[];
  /** what its files take of the host's disk, in bytes */
  bytes: number;
  /** ISO 8601 */
  createdAt: string;
  /** when a VM last began as it, ISO 8601 */
  usedAt: string;
}

/** A VM that is to begin as a template. */
export interface Wanted {
  shape: TemplateShape;
  rootDiskBytes: number;
  workDiskBytes: number;
  fit: Fit;
}

export interface TemplateChoice {
  template: TemplateRecord | undefined;
  /** why the one that comes nearest is of no use, each a clause; empty when there is none of the image at all */
  why: string[];
}

/** The template with the largest disks among those that fit: less is left to grow then. */
export function chooseTemplate(templates: readonly TemplateRecord[], wanted: Wanted): TemplateChoice {
  const judged = templates
    .filter(({ shape }) => isOfImage(shape, wanted.shape))
    .map((template) => ({ template, why: whyNot(template, wanted) }))
    .sort((a, b) => a.why.length - b.why.length || bytesOf(b.template) - bytesOf(a.template));
  const [best] = judged;
  return { template: best?.why.length === 0 ? best.template : undefined, why: best?.why ?? [] };
}

function bytesOf({ rootDiskBytes, workDiskBytes }: Pick<TemplateRecord, 'rootDiskBytes' | 'workDiskBytes'>): number {
  return rootDiskBytes + workDiskBytes;
}

function isOfImage(a: TemplateShape, b: TemplateShape): boolean {
  return a.imageId === null || b.imageId === null
    ? a.imageId === b.imageId && a.rootfs.path === b.rootfs.path
    : a.imageId === b.imageId;
}

/** What keeps a VM from beginning as this one, each a clause; empty when nothing does. */
export function whyNot(template: TemplateRecord, wanted: Wanted): string[] {
  const { shape } = template;
  const found = misfits(template.fit, wanted.fit);
  if (shape.rootfs.size !== wanted.shape.rootfs.size || shape.rootfs.modifiedAt !== wanted.shape.rootfs.modifiedAt) {
    found.push(`the root file system ${shape.rootfs.path} was replaced`);
  }
  if (shape.bootArgs !== wanted.shape.bootArgs) found.push('the kernel command line was another');
  if (shape.workMount !== wanted.shape.workMount) found.push(workDisks(shape.workMount, wanted.shape.workMount));
  if (shape.nat !== wanted.shape.nat) {
    found.push(shape.nat ? 'it booted with a way to the outside' : 'it booted without a way to the outside');
  }
  if (template.rootDiskBytes > wanted.rootDiskBytes) found.push('its root disk is larger than what is asked for');
  if (template.workDiskBytes > wanted.workDiskBytes && wanted.workDiskBytes > 0) {
    found.push('its work disk is larger than what is asked for');
  }
  return found;
}

function workDisks(then: string | null, now: string | null): string {
  if (then === null) return 'it has no work disk';
  return now === null ? 'it has a work disk' : `its work disk is mounted at ${then}`;
}

/** How many templates are kept, and what they may take of the host's disk. */
export interface TemplateLimits {
  count: number;
  bytes: number;
}

/** The longest unused beyond what may be kept; `kept` stays in any case. */
export function beyondLimits(
  templates: readonly TemplateRecord[],
  { count, bytes }: TemplateLimits,
  kept: string | undefined,
): TemplateRecord[] {
  const byUse = templates
    .filter(({ id }) => id !== kept)
    .sort((a, b) => b.usedAt.localeCompare(a.usedAt) || b.id.localeCompare(a.id));
  const own = templates.find(({ id }) => id === kept);
  let left = { count: count - (own ? 1 : 0), bytes: bytes - (own?.bytes ?? 0) };
  const gone: TemplateRecord[] = [];
  for (const template of byUse) {
    const after = { count: left.count - 1, bytes: left.bytes - template.bytes };
    if (after.count < 0 || after.bytes < 0) gone.push(template);
    else left = after;
  }
  return gone;
}
