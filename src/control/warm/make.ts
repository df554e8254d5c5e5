/**
 * Makes a template: boots a VM that nobody sees, waits until its boot is over, lets it stand still, and keeps its memory and
 * disks of that moment. Until its record is written it is a VM of nobody, which the next daemon frees.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { TemplateRecord, Wanted } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { action, setState } from '../../firecracker/requests.ts';
import type { GuestAgent } from '../../guest/agent/agent.ts';
import { AgentError } from '../../guest/agent/errors.ts';
import { runThroughAgent } from '../../guest/run-script.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { cloneThroughBase } from '../../storage/base-cache.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { makeExt4 } from '../../storage/ext4.ts';
import { memoryFiles, templateFiles, vmFiles } from '../../storage/layout.ts';
import { sideBySide } from '../../system/abort.ts';
import { syncPath } from '../../system/files.ts';
import { formatDuration, formatSize, MIB, timerMs } from '../../units.ts';
import { admitBuildVm, discardBuildVm } from '../builds/build-vm.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { growDisk } from '../disks/disk-work.ts';
import { diskRunner, handOverFile, takeBack } from '../handover.ts';
import type { Host } from '../host.ts';
import { requireImage } from '../images/hold.ts';
import { prepareSave, saveMemory, syncAll } from '../memory/checkpoint.ts';
import { contentsOf } from '../memory/manifest.ts';
import { findTemplate, forgetTemplates, limitTemplates, pathsOf, wantedTemplate } from '../memory/templates.ts';
import type { Progress } from '../operations.ts';
import { costOfClone, storeSpace } from '../store/space.ts';
import { awaitLogin, configureVm, launchVm, writeVmSeed } from '../vm/boot.ts';
import { decideShape } from '../vm/create.ts';
import { releaseVm } from '../vm/release.ts';
import { requireSavable } from '../vm/suspend.ts';
import { holdGuest, neededAgent } from '../vm/wake.ts';
import { vmmSocketOf } from '../vmm.ts';

/** What a template is for: VMs of an image or bundle, of a size. What is left out is as for a new VM. */
export interface TemplateRequest {
  image?: string | undefined;
  vcpus?: number | undefined;
  memoryMib?: number | undefined;
  rootDiskBytes?: number | undefined;
  workDiskBytes?: number | undefined;
  workMount?: string | undefined;
  nat?: boolean | undefined;
}

/** Name that the guest has while it boots; nothing of it is left in a VM that begins as it. */
const NAME = 'template';

/** What a guest leaves for after its boot gets this long; the rest comes in each VM. */
const REST_LIMIT_MS = 60_000;

/** Left free in the store beside what storage.min_free asks for. */
const RESERVE_BYTES = 512 * MIB;

/**
 * Until init and udev have nothing to do any more: what they are in the middle of, each copy would go on with. Workers of udev's
 * wait some seconds for more. Then what most commands are made of is read into memory.
 */
const REST_SCRIPT = `command -v systemctl > /dev/null || exit 0
tries=0
while [ "$tries" -lt 120 ]; do
  tries=$((tries + 1))
  timer=$(systemctl is-active banger-rest.timer 2> /dev/null)
  rest=$(systemctl is-active banger-rest.target 2> /dev/null)
  [ "$timer" != active ] || [ "$rest" = active ] && systemctl list-jobs 2> /dev/null | grep -q 'No jobs' && break
  sleep 0.5
done
command -v udevadm > /dev/null && udevadm settle --timeout=30
for each in /proc/[0-9]*; do
  name=
  read -r name 2> /dev/null < "$each/comm"
  [ "$name" = '(udev-worker)' ] && kill "\${each#/proc/}"
done
for each in true env cat ls id uname bash; do command -v "$each" > /dev/null && "$each" < /dev/null > /dev/null 2>&1; done
sleep 1
`;

export interface MakeOptions {
  /** whether its VM is to leave the processors to everybody else */
  background: boolean;
}

/**
 * Makes the template for such VMs, unless there is one.
 * @throws BangerError `conflict` when its guest has no agent that could give a copy an identity, `host_unprepared` when there is
 *   no room, `timeout` when its guest is not ready in time
 */
export async function makeTemplate(
  host: Host,
  request: TemplateRequest,
  { background }: MakeOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<{ template: TemplateRecord; made: boolean }> {
  const { nat = true } = request;
  const boot = await findBootFiles(host, request.image);
  const shape = await decideShape(host, { ...request, name: NAME }, boot);
  const wanted = await wantedTemplate(host, { ...shape, nat }, boot);
  const { template } = await findTemplate(host, wanted);
  if (template && isAsLarge(template, wanted)) return { template, made: false };
  if (host.config.warm.templates === 0) {
    throw new BangerError('conflict', 'No templates are kept here: warm.templates is 0.', {
      hint: 'Set it in the configuration, see: banger config show',
    });
  }
  progress.step('preflight', 'checking the host');
  await host.checks.beforeCreate(boot, await costOfClone(host, boot.rootfs), progress.warn);
  await host.checks.beforeStart(boot, { ...shape, nat }, progress.warn);
  await requireRoomFor(host, boot, shape.memoryMib * MIB);
  const vm = await admitBuildVm(host, { name: NAME, image: boot.name, imageId: boot.imageId, ...shape, nat });
  try {
    const failedUnits = await bootToTheEnd(host, vm, boot, background, progress, signal);
    requireSavable(host, vm, wanted.fit);
    const vmmVersion = await standStill(host, vm, progress, signal);
    progress.step('keep', 'keeping its memory and disks');
    const made = await keep(host, vm, boot, { wanted, vmmVersion, failedUnits });
    await limitTemplates(host, made.id);
    return { template: made, made: true };
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (!(error instanceof AgentError)) throw error;
    throw new BangerError('guest_failed', `The guest of the template did not come up: ${error.message}.`, {
      cause: error,
      hint: `See whether VMs of it do: banger run --cold NAME --image ${boot.name}`,
    });
  } finally {
    await discardBuildVm(host, vm);
    if (!host.stores.templates.find(vm.id)) await forgetTemplates(host, [vm]);
  }
}

/** Its disks need not be grown for such a VM. */
function isAsLarge(template: TemplateRecord, wanted: Wanted): boolean {
  return template.rootDiskBytes === wanted.rootDiskBytes && template.workDiskBytes === wanted.workDiskBytes;
}

async function requireRoomFor(host: Host, boot: BootFiles, memoryBytes: number): Promise<void> {
  const { freeBytes } = await storeSpace(host);
  const { minFreeBytes } = host.config.storage;
  const bytes = memoryBytes + (await allocatedBytes(boot.rootfs)) + RESERVE_BYTES;
  if (freeBytes >= bytes + minFreeBytes) return;
  throw new BangerError(
    'host_unprepared',
    `There is no room for a template of ${boot.name}: it may take ${formatSize(bytes)}, ${formatSize(freeBytes)} are free in ${host.config.paths.store}, and storage.min_free keeps ${formatSize(minFreeBytes)}.`,
    { hint: 'See what takes it: banger storage show   and: banger disk list' },
  );
}

/** @returns units of its init that failed */
async function bootToTheEnd(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  background: boolean,
  progress: Progress,
  signal: AbortSignal,
): Promise<string[]> {
  const { bootTimeoutMs, readyTimeoutMs } = host.config.limits;
  progress.step('prepare', 'preparing its disks');
  await makeDisks(host, vm, boot, signal);
  await sideBySide(signal, [
    () => writeVmSeed(host, vm),
    () => host.network.attach(vm),
    async (either) => {
      vm.vmm = (await launchVm(host, vm, boot, either, { background })).kind;
    },
  ]);
  await configureVm(host, vm, boot, signal);
  progress.step('boot', 'booting it');
  {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(action('InstanceStart'));
  }
  vm.startedAt = host.now().toISOString();
  const connection = await awaitLogin(host, vm, bootTimeoutMs, signal);
  await connection[Symbol.asyncDispose]();
  const agent = await requireAgent(host, vm, signal);
  progress.step('wait-for-ready', 'waiting until it is ready');
  const late = AbortSignal.timeout(timerMs(readyTimeoutMs));
  const ready = await agent.ready(AbortSignal.any([signal, late])).catch((error) => {
    if (!late.aborted || signal.aborted) throw error;
    throw new BangerError(
      'timeout',
      `The guest of the template is not ready after ${formatDuration(readyTimeoutMs)}.`,
      {
        cause: error,
        hint: `See what it waits for: banger run --cold NAME --image ${boot.name}   Wait longer: limits.ready_timeout, see: banger config show`,
      },
    );
  });
  signal.throwIfAborted();
  await standOnce(agent, signal);
  // and programs that most VMs will run are in its memory then
  await runThroughAgent(agent, REST_SCRIPT, REST_LIMIT_MS);
  signal.throwIfAborted();
  return ready?.failedUnits ?? [];
}

/** What its agent does when it holds a guest for the first time others hear of, and each copy would find them at that. */
async function standOnce(agent: GuestAgent, signal: AbortSignal): Promise<void> {
  const token = randomUUID();
  await agent.quiesce(token, { signal });
  await agent.thaw(token, { signal });
}

async function requireAgent(host: Host, vm: VmRecord, signal: AbortSignal): Promise<GuestAgent> {
  const agent = await neededAgent(host, vm, signal);
  const needed = ['ready', 'quiesce', 'wake-new', 'exec'];
  if (agent && needed.every((feature) => agent.hello.features.has(feature))) return agent;
  throw new BangerError(
    'conflict',
    `VMs of ${vm.image} have no agent, and only one can give a copy its own identity. They boot as before.`,
    { hint: 'Its bundle is an earlier one: banger bundle build' },
  );
}

async function makeDisks(host: Host, vm: VmRecord, boot: BootFiles, signal: AbortSignal): Promise<void> {
  const { runner } = host.system;
  const { programs, paths } = host.config;
  const { rootDisk, workDisk } = vmFiles(paths.store, vm.id);
  await cloneThroughBase(runner, programs.cp, paths.store, boot.rootfs, rootDisk, vm.rootDiskBytes, signal);
  await handOverFile(host, vm, rootDisk);
  await growDisk(host, vm, rootDisk, vm.rootDiskBytes);
  if (vm.workDiskBytes > 0) await makeExt4(diskRunner(host, vm), programs, workDisk, vm.workDiskBytes, 'work');
  signal.throwIfAborted();
}

/** Saves its memory and ends its VMM. @returns what the VMM calls itself */
async function standStill(host: Host, vm: VmRecord, progress: Progress, signal: AbortSignal): Promise<string> {
  const files = memoryFiles(host.config.paths.store, vm.id);
  progress.step('hold', 'letting it stand still');
  await holdGuest(host, vm, randomUUID(), signal);
  await rm(files.directory, { recursive: true, force: true });
  await mkdir(files.directory, { mode: 0o700 });
  let vmmVersion: string;
  {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(setState('Paused'));
    progress.step('save-memory', 'saving its memory');
    vmmVersion = await prepareSave(host, vm, api, files);
    await saveMemory(host, vm, api, files);
  }
  signal.throwIfAborted();
  await releaseVm(host, vm);
  return vmmVersion;
}

/** Its files go where templates are; the record is written when they are safe on disk. */
async function keep(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  { wanted, vmmVersion, failedUnits }: Pick<TemplateRecord, 'vmmVersion' | 'failedUnits'> & { wanted: Wanted },
): Promise<TemplateRecord> {
  const { store } = host.config.paths;
  const [disks, memory, own] = [vmFiles(store, vm.id), memoryFiles(store, vm.id), templateFiles(store, vm.id)];
  await mkdir(own.directory, { recursive: true, mode: 0o700 });
  for (const file of ['memory', 'state'] as const) await rename(memory[file], own[file]);
  await rename(disks.rootDisk, own.rootDisk);
  if (vm.workDiskBytes > 0) await rename(disks.workDisk, own.workDisk);
  const paths = pathsOf(host, vm);
  for (const path of paths) await takeBack(host, path);
  await syncAll(paths);
  await syncPath(own.directory);
  await syncPath(dirname(own.directory));
  const bytes = (await Promise.all(paths.map(allocatedBytes))).reduce((sum, each) => sum + each, 0);
  const { roomBytes } = host.config.warm;
  if (bytes > roomBytes) {
    throw new BangerError(
      'conflict',
      `A template of ${boot.name} takes ${formatSize(bytes)}, more than all of them may together (warm.room, ${formatSize(roomBytes)}).`,
      { hint: 'Allow more in the configuration, see: banger config show' },
    );
  }
  const at = host.now().toISOString();
  const template: TemplateRecord = {
    ...{ id: vm.id, image: boot.name, shape: wanted.shape, fit: wanted.fit, vmmVersion, failedUnits },
    ...{ rootDiskBytes: vm.rootDiskBytes, workDiskBytes: vm.workDiskBytes },
    files: await contentsOf(paths),
    ...{ bytes, createdAt: at, usedAt: at },
  };
  const useless = uselessBeside(host, template);
  host.stores.atomically(() => {
    requireImage(host, boot);
    host.stores.templates.insert(template);
  });
  await forgetTemplates(host, useless);
  return template;
}

/** Those of the same image that nothing can begin as any more, or whose place this one takes. */
function uselessBeside(host: Host, made: TemplateRecord): TemplateRecord[] {
  const { shape } = made;
  return host.stores.templates.list().filter((template) => {
    const same = template.shape.imageId === shape.imageId && template.shape.rootfs.path === shape.rootfs.path;
    if (!same) return false;
    const { modifiedAt, size } = template.shape.rootfs;
    if (modifiedAt !== shape.rootfs.modifiedAt || size !== shape.rootfs.size) return true;
    const alike =
      template.shape.vcpus === shape.vcpus &&
      template.shape.memoryMib === shape.memoryMib &&
      template.shape.workMount === shape.workMount &&
      template.shape.nat === shape.nat;
    return alike && template.rootDiskBytes === made.rootDiskBytes && template.workDiskBytes === made.workDiskBytes;
  });
}
