/**
 * Starts a new VM from a template, which stands where its boot would end. Whatever does not fit or fails leaves nothing, and
 * the VM boots instead.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { cloneFile } from '../../storage/clone.ts';
import { growFile } from '../../storage/disk.ts';
import { memoryFiles, templateFiles, vmFiles } from '../../storage/layout.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { growMounted } from '../disks/online-growth.ts';
import { handOverFile, settleUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import { needsOwnMemory, shareMemory } from '../memory/share.ts';
import { findTemplate, forgetTemplates, isWhole, wantedTemplate } from '../memory/templates.ts';
import type { Progress } from '../operations.ts';
import { costOfClone, requireStoreSpace } from '../store/space.ts';
import type { Blank, Blanks } from './blank.ts';
import type { LaunchedVm } from './boot.ts';
import { admitVm, decideShape, type NewVmRequest, requireFreeName, type Shape } from './create.ts';
import { discardVm, releaseVm } from './release.ts';
import type { StartedVm } from './start.ts';
import { startAsNew } from './start-as-new.ts';

/**
 * Creates a VM and starts it from a template.
 * @returns undefined when it has to boot; nothing of it is there then
 * @throws BangerError `conflict` when the name is taken; whatever `signal` was aborted with
 */
export async function startWarm(
  host: Host,
  request: NewVmRequest,
  blanks: Blanks,
  progress: Progress,
  signal: AbortSignal,
): Promise<StartedVm | undefined> {
  requireFreeName(host, request.name);
  const began = performance.now();
  const found = await look(host, request);
  if (found === undefined) return undefined;
  const { template, boot, vmm, shape } = found;
  let vm: VmRecord | undefined;
  let blank: Blank | undefined;
  try {
    blank = await blanks.take(boot, template);
    progress.step('preflight', 'checking the host');
    const machineId = randomBytes(16).toString('hex');
    vm = await admitVm(host, request, boot, { ...shape, machineId, keptDisk: null }, signal, blank?.vm);
    progress.step('load', `starting ${vm.name} from a template`);
    await requireStoreSpace(host, vm, progress);
    // beside the rest, and done before a guest is let go on: a host that fails them is told so by the boot that follows
    const check = async () => {
      await Promise.all([
        host.checks.beforeCreate(boot, await costOfTemplate(host, template), progress.warn),
        host.checks.beforeStart(boot, { ...shape, nat: request.nat ?? true }, progress.warn),
      ]);
    };
    const checks = check();
    // what fails first is told
    checks.catch(() => {});
    return await begin(host, vm, { template, boot, vmm, checks, began, launched: blank?.launched }, signal);
  } catch (error) {
    if (vm || blank) progress.step('undo', 'undoing it');
    if (vm) await discard(host, vm);
    else if (blank) await blanks.free(blank);
    signal.throwIfAborted();
    tellWhy(host, request.name, messageOf(error));
    return undefined;
  }
}

/** What a VM may begin as, and in. */
interface Found {
  template: TemplateRecord;
  boot: BootFiles;
  vmm: VmmChoice;
  shape: Shape;
}

/** What cannot be found or is asked for in vain is told by the creation that follows. */
async function look(host: Host, request: NewVmRequest): Promise<Found | undefined> {
  // a file system that is used elsewhere must not change under a guest that has it mounted
  // the process of a template is the image's, and its first boot was long ago
  if (request.process !== undefined || request.userData !== undefined) return undefined;
  if (request.workDiskFrom !== undefined || host.stores.templates.list().length === 0) return undefined;
  try {
    const boot = await findBootFiles(host, request.image);
    const [shape, vmm] = await Promise.all([decideShape(host, request, boot), host.checks.chooseVmm(boot)]);
    const wanted = await wantedTemplate(host, { ...shape, nat: request.nat ?? true }, boot, vmm);
    const { template, why } = await findTemplate(host, wanted);
    if (template) return { template, boot, vmm, shape };
    if (why.length > 0) tellWhy(host, request.name, why.join('; '));
  } catch (error) {
    host.log.warn({ vm: request.name, error: messageOf(error) }, 'no template could be looked for');
  }
  return undefined;
}

async function discard(host: Host, vm: VmRecord): Promise<void> {
  await releaseVm(host, vm);
  await discardVm(host, vm);
  await leaveImage(host, vm.imageId);
}

/** How one begins. */
interface Start extends Omit<Found, 'shape'> {
  checks: Promise<void>;
  began: number;
  /** its VMM, where it took a blank one */
  launched: LaunchedVm | undefined;
}

async function begin(
  host: Host,
  admitted: VmRecord,
  { template, boot, vmm, checks, began, launched }: Start,
  signal: AbortSignal,
): Promise<StartedVm> {
  const { store } = host.config.paths;
  await mkdir(vmFiles(store, admitted.id).directory, { recursive: true, mode: 0o700 });
  // the user of a blank one has a program already
  const vm = launched ? admitted : await settleUser(host, admitted);
  const ownMemory = needsOwnMemory(host, vm, template.fit);
  const started = await startAsNew(
    host,
    vm,
    {
      ...{ boot, vmm },
      vmmVersion: template.vmmVersion,
      failedUnits: template.failedUnits,
      ownMemory,
      began,
      launched,
      checks,
      first: {
        'clone-disks': (either) => takeDisks(host, vm, template, either),
        'take-memory': (either) => takeMemory(host, vm, template, ownMemory, either),
      },
      async loaded() {
        // who replaced or wrote a file did it before it was copied, or while it was
        if (await isWhole(host, template)) return;
        await forgetTemplates(host, [template]);
        throw new BangerError('corrupt', 'The files of its template were changed since.');
      },
      awake: () => growDisks(host, vm, template),
    },
    signal,
  );
  host.stores.templates.touch(template.id, host.now().toISOString());
  return started;
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

/** Its guest has file systems of the template's size mounted. */
async function growDisks(host: Host, vm: VmRecord, template: TemplateRecord): Promise<void> {
  const { rootDisk, workDisk } = vmFiles(host.config.paths.store, vm.id);
  for (const [role, path, bytes, grown] of [
    ['root', rootDisk, vm.rootDiskBytes, vm.rootDiskBytes > template.rootDiskBytes],
    ['work', workDisk, vm.workDiskBytes, vm.workDiskBytes > template.workDiskBytes],
  ] as const) {
    if (!grown) continue;
    await growFile(path, bytes);
    await growMounted(host, vm, role);
  }
}

async function costOfTemplate(host: Host, { id, workDiskBytes, fit }: TemplateRecord): Promise<number> {
  const { memory, rootDisk, workDisk } = templateFiles(host.config.paths.store, id);
  const copied = [
    rootDisk,
    ...(workDiskBytes > 0 ? [workDisk] : []),
    ...(fit.vmm === 'fcqemu' && host.system.vmUsers.range ? [memory] : []),
  ];
  const costs = await Promise.all(copied.map((path) => costOfClone(host, path)));
  return costs.reduce((sum, each) => sum + each, 0);
}

function tellWhy(host: Host, name: string, why: string): void {
  host.log.info({ vm: name, why }, 'it boots: there is no template that it could start from');
  host.events.publish({ type: 'vm.not-warm', vm: name, reason: why });
}
