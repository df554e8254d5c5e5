/** Loads a template into the VMM of a VM that is to begin as it: disks and memory become the VM's, and its guest stands still. */
import { mkdir, rm } from 'node:fs/promises';
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { cloneFile } from '../../storage/clone.ts';
import { memoryFiles, templateFiles, vmFiles } from '../../storage/layout.ts';
import { handOverFile } from '../handover.ts';
import type { Host } from '../host.ts';
import { needsOwnMemory, shareMemory } from '../memory/share.ts';
import { forgetTemplates, isWhole } from '../memory/templates.ts';
import { costOfClone } from '../store/space.ts';
import type { LaunchedVm } from './boot.ts';
import { loadPrepared, prepareAsNew, type Timeline } from './start-as-new.ts';

/** What of a template is loaded by what. */
export interface TemplateStart {
  template: TemplateRecord;
  boot: BootFiles;
  vmm: VmmChoice;
}

/**
 * Gives a VM disks and memory of a template, a device and a VMM. Its directory has to be there, and of its user. What fails
 * leaves the VM to be discarded.
 */
export async function prepareTemplate(
  host: Host,
  vm: VmRecord,
  { template, boot, vmm }: TemplateStart,
  timeline: Timeline,
  signal: AbortSignal,
): Promise<LaunchedVm> {
  const ownMemory = needsOwnMemory(host, vm, template.fit);
  const first = {
    'clone-disks': (either: AbortSignal) => takeDisks(host, vm, template, either),
    'take-memory': (either: AbortSignal) => takeMemory(host, vm, template, ownMemory, either),
  };
  return await prepareAsNew(host, vm, { boot, vmm, first }, timeline, signal);
}

/**
 * Loads the memory of one that was prepared.
 * @throws BangerError `corrupt` when the template is not what it was; it is forgotten then
 */
export async function loadTemplate(
  host: Host,
  vm: VmRecord,
  template: TemplateRecord,
  timeline: Timeline,
  signal: AbortSignal,
): Promise<void> {
  const ownMemory = needsOwnMemory(host, vm, template.fit);
  await loadPrepared(host, vm, { vmmVersion: template.vmmVersion, ownMemory }, timeline, signal);
  await requireWhole(host, template);
}

/**
 * Who replaced or wrote a file did it before it was copied, or while it was; one that is mapped must never change.
 * @throws BangerError `corrupt` when the template is not what it was; it is forgotten then
 */
export async function requireWhole(host: Host, template: TemplateRecord): Promise<void> {
  if (await isWhole(host, template)) return;
  await forgetTemplates(host, [template]);
  throw new BangerError('corrupt', 'The files of its template were changed since.');
}

/** What loading it takes of the store, in bytes. */
export async function costOfTemplate(host: Host, { id, workDiskBytes, fit }: TemplateRecord): Promise<number> {
  const { memory, rootDisk, workDisk } = templateFiles(host.config.paths.store, id);
  const copied = [
    rootDisk,
    ...(workDiskBytes > 0 ? [workDisk] : []),
    ...(fit.vmm === 'fcqemu' && host.system.vmUsers.range ? [memory] : []),
  ];
  const costs = await Promise.all(copied.map((path) => costOfClone(host, path)));
  return costs.reduce((sum, each) => sum + each, 0);
}

async function takeDisks(host: Host, vm: VmRecord, template: TemplateRecord, signal: AbortSignal): Promise<void> {
  const { store } = host.config.paths;
  const { runner } = host.system;
  const [from, to] = [templateFiles(store, template.id), vmFiles(store, vm.id)];
  for (const disk of ['rootDisk', 'workDisk'] as const) {
    if (disk === 'workDisk' && template.workDiskBytes === 0) continue;
    await cloneFile(runner, host.config.programs.cp, from[disk], to[disk], 0, signal);
    await handOverFile(host, vm, to[disk]);
  }
}

/** Under Firecracker what nobody has written is in memory once for all VMs that began as the same. */
async function takeMemory(
  host: Host,
  vm: VmRecord,
  template: TemplateRecord,
  ownMemory: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { store } = host.config.paths;
  const [from, to] = [templateFiles(store, template.id), memoryFiles(store, vm.id)];
  await rm(to.directory, { recursive: true, force: true });
  await mkdir(to.directory, { mode: 0o700 });
  await shareMemory(host, from, to, ownMemory, signal);
}
