/**
 * Starts a new VM from a template, which stands where its boot would end. Whatever does not fit or fails leaves nothing, and
 * the VM boots instead.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { growFile } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { growMounted } from '../disks/online-growth.ts';
import { settleUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import { findTemplate, wantedTemplate } from '../memory/templates.ts';
import type { Progress } from '../operations.ts';
import { requireStoreSpace } from '../store/space.ts';
import { writeVmSeed } from './boot.ts';
import { admitVm, decideShape, type NewVmRequest, requireFreeName, type Shape } from './create.ts';
import { costOfTemplate, loadTemplate, prepareTemplate, requireWhole } from './load-template.ts';
import { discardVm, releaseVm } from './release.ts';
import { NO_STANDBY, type Standby, type StandbyPool } from './standby.ts';
import type { StartedVm } from './start.ts';
import { createTimeline, goOnAsNew, type Timeline } from './start-as-new.ts';

/**
 * Creates a VM and starts it from a template.
 * @returns undefined when it has to boot; nothing of it is there then
 * @throws BangerError `conflict` when the name is taken; whatever `signal` was aborted with
 */
export async function startWarm(
  host: Host,
  request: NewVmRequest,
  pool: StandbyPool,
  progress: Progress,
  signal: AbortSignal,
): Promise<StartedVm | undefined> {
  requireFreeName(host, request.name);
  const timeline = createTimeline();
  const found = await look(host, request);
  if (found === undefined) return undefined;
  const { template, boot, vmm, shape } = found;
  let vm: VmRecord | undefined;
  const standby = pool.take(template);
  try {
    progress.step('preflight', 'checking the host');
    const machineId = randomBytes(16).toString('hex');
    vm = await admitVm(host, request, boot, { ...shape, machineId, keptDisk: null }, signal, standby?.vm);
    progress.step('load', `starting ${vm.name} from a template`);
    await requireStoreSpace(host, vm, progress);
    // beside the rest, and done before a guest is let go on: a host that fails them is told so by the boot that follows
    const check = async () => {
      await Promise.all([
        host.checks.beforeCreate(boot, standby ? 0 : await costOfTemplate(host, template), progress.warn),
        host.checks.beforeStart(boot, { ...shape, nat: request.nat ?? true }, progress.warn),
        // its memory is mapped by a guest that stands ready
        ...(standby ? [requireWhole(host, template)] : []),
      ]);
    };
    const checks = check();
    // what fails first is told
    checks.catch(() => {});
    return await begin(host, vm, { template, boot, vmm, checks, timeline, standby }, signal);
  } catch (error) {
    if (vm || standby) progress.step('undo', 'undoing it');
    if (vm) await discard(host, vm);
    else if (standby) await pool.free(standby);
    signal.throwIfAborted();
    if (standby && !(error instanceof BangerError && error.code === 'corrupt')) {
      // what stood ready may have ended meanwhile, which says nothing of its template
      host.log.warn({ vm: request.name, error: messageOf(error) }, 'a guest that stood ready could not be taken over');
      return await startWarm(host, request, NO_STANDBY, progress, signal);
    }
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
  timeline: Timeline;
  /** what it takes over */
  standby: Standby | undefined;
}

async function begin(
  host: Host,
  admitted: VmRecord,
  { template, boot, vmm, checks, timeline, standby }: Start,
  signal: AbortSignal,
): Promise<StartedVm> {
  const { timed } = timeline;
  let vm = admitted;
  let launched = standby?.launched;
  if (launched) {
    // what it is from its next boot on
    await timed('write-seed-drive', () => writeVmSeed(host, vm))(signal);
  } else {
    await mkdir(vmFiles(host.config.paths.store, vm.id).directory, { recursive: true, mode: 0o700 });
    vm = await settleUser(host, vm);
    launched = await prepareTemplate(host, vm, { template, boot, vmm }, timeline, signal);
  }
  if (!standby?.isLoaded) await loadTemplate(host, vm, template, timeline, signal);
  const started = await goOnAsNew(
    host,
    vm,
    launched,
    {
      failedUnits: template.failedUnits,
      check: () => checks,
      awake: () => growDisks(host, vm, template),
    },
    timeline,
    signal,
  );
  host.stores.templates.touch(template.id, host.now().toISOString());
  return started;
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

function tellWhy(host: Host, name: string, why: string): void {
  host.log.info({ vm: name, why }, 'it boots: there is no template that it could start from');
  host.events.publish({ type: 'vm.not-warm', vm: name, reason: why });
}
