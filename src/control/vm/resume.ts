/**
 * Lets a suspended VM go on where it stood. Until its memory is on record as spent, whatever fails leaves it suspended;
 * from then on its guest may have written to its disks, and the memory is used no second time unless it has not. Until the
 * guest is awake its record says that it is resuming, so that the next daemon finishes what this one could not.
 */
import type { Fit } from '../../core/fit.ts';
import type { SavedMemory, VmRecord } from '../../core/vm.ts';
import { failed, goneOn, resuming, spent, suspendedAgain } from '../../core/vm-changes.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { memoryFiles } from '../../storage/layout.ts';
import { sideBySide } from '../../system/abort.ts';
import { readBootId } from '../../system/processes.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import { fitOf } from '../memory/fit.ts';
import { type Manifest, readManifest } from '../memory/manifest.ts';
import { isUnused, loadMemory, obstacles } from '../memory/restore.ts';
import type { Progress } from '../operations.ts';
import { requireStoreSpace } from '../store/space.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';
import { type LaunchedVm, launchVm } from './boot.ts';
import { requireFreeDisks } from './free-disks.ts';
import { releaseVm } from './release.ts';
import type { StartedVm } from './start.ts';
import { goOnRunning } from './suspend.ts';
import { thawGuest, wakeGuest } from './wake.ts';

export interface ResumedVm extends Pick<StartedVm, 'vm'> {
  /** how its VMM ends; undefined for one that an earlier daemon launched */
  ended: StartedVm['ended'] | undefined;
}

/**
 * Resumes a suspended VM, or finishes the resume of one whose daemon ended when its guest had gone on or was about to.
 * @throws BangerError `conflict` when it is not suspended, or what it was suspended with is not what is here now; it stays
 *   suspended then
 */
export async function resumeVm(host: Host, name: string, progress: Progress, signal: AbortSignal): Promise<ResumedVm> {
  const vm = host.stores.vms.get(name);
  const loaded = await loadedMemory(host, vm);
  if (loaded) return await finishResume(host, vm, loaded, progress);
  const memory = requireSuspended(vm);
  progress.step('preflight', 'checking the host');
  const boot = await findVmBootFiles(host, vm);
  const shape = { ...vm, ...vm.run };
  const vmm = await host.checks.chooseVmm(boot);
  const [now] = await Promise.all([
    fitOf(host, shape, boot, vmm),
    host.checks.beforeStart(boot, shape, progress.warn),
    requireFreeDisks(host, vm),
    requireStoreSpace(host, vm, progress),
  ]);
  const manifest = await requireFitting(host, vm, memory, now);
  signal.throwIfAborted();

  host.stores.vms.update(vm.id, resuming());
  let launched: LaunchedVm;
  try {
    await releaseVm(host, vm); // what its last run may have left
    progress.step('load', 'loading its memory');
    launched = await loadInto(host, vm, manifest, boot, vmm, signal);
    // who replaced or wrote a file did it before it was looked at, or while it was loaded
    await requireFitting(host, vm, memory, now);
    signal.throwIfAborted();
    host.stores.vms.update(vm.id, spent(memory, await readBootId()));
  } catch (error) {
    await releaseVm(host, vm);
    host.stores.vms.update(vm.id, suspendedAgain(memory));
    if (signal.aborted) throw signal.reason;
    throw error instanceof BangerError ? error.reworded(`${error.message} ${name} is still suspended.`) : error;
  }
  await letGoOn(host, vm, memory, manifest, progress);
  return { vm: host.stores.vms.get(vm.name), ended: launched.ended };
}

/** Memory that is spent and in a VMM that lives: a resume that was cut off, and nothing else, leaves a VM so. */
async function loadedMemory(host: Host, vm: VmRecord): Promise<SavedMemory | undefined> {
  if (vm.phase !== 'resuming' || vm.memory === null || vm.memory.spentOn === null) return undefined;
  return (await findVmmOf(host, vm)) ? vm.memory : undefined;
}

async function finishResume(host: Host, vm: VmRecord, memory: SavedMemory, progress: Progress): Promise<ResumedVm> {
  const manifest = await readManifest(memoryFiles(host.config.paths.store, vm.id), memory.id).catch((error) => {
    if (!(error instanceof BangerError)) throw error;
    progress.warn(`${error.message} ${vm.name} goes on; its clock may be wrong: banger restart ${vm.name}`);
    return undefined;
  });
  if (manifest) await letGoOn(host, vm, memory, manifest, progress);
  else {
    // without what its manifest knew, but nothing else has what its guest holds
    await goOnRunning(host, vm);
    await thawGuest(host, vm);
  }
  return { vm: host.stores.vms.get(vm.name), ended: undefined };
}

/**
 * Lets a guest go on whose memory is loaded and spent, and wakes it. Repeatable for as long as its VMM lives.
 * @throws BangerError unless it runs on
 */
async function letGoOn(
  host: Host,
  vm: VmRecord,
  memory: SavedMemory,
  manifest: Manifest,
  progress: Progress,
): Promise<void> {
  try {
    progress.step('go-on', 'letting the guest go on');
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(setState('Resumed'));
    progress.step('wake', 'telling it the time');
    await wakeGuest(host, vm, manifest);
  } catch (error) {
    await afterBadWake(host, vm, memory, manifest, progress, error);
  }
  host.stores.vms.update(vm.id, goneOn({ at: host.now(), vmm: manifest.fit.vmm }));
  await forgetMemory(host, vm);
}

/** Why a suspended VM cannot go on, each a clause; empty when it can. */
export async function whyNotResumable(
  host: Pick<Host, 'checks' | 'config' | 'stores' | 'system'>,
  vm: VmRecord,
): Promise<string[]> {
  if (vm.memory === null) return [];
  try {
    const boot = await findVmBootFiles(host, vm);
    const files = memoryFiles(host.config.paths.store, vm.id);
    const manifest = await readManifest(files, vm.memory.id);
    return await obstacles(host, vm, files, manifest, await fitOf(host, vm.run ?? vm, boot));
  } catch (error) {
    return [messageOf(error)];
  }
}

function requireSuspended(vm: VmRecord): SavedMemory {
  if (vm.phase === 'suspended' && vm.memory) return vm.memory;
  throw new BangerError('conflict', `${vm.name} is not suspended (${vm.phase}).`, {
    hint: vm.phase === 'running' ? `Log in with: banger ssh ${vm.name}` : `Start it with: banger start ${vm.name}`,
  });
}

/** @throws BangerError `conflict` or `corrupt` when it cannot go on here and now */
export async function requireFitting(host: Host, vm: VmRecord, { id }: SavedMemory, now: Fit): Promise<Manifest> {
  const files = memoryFiles(host.config.paths.store, vm.id);
  const wayOut = {
    hint: `Nothing is deleted. Boot it without its memory: banger start --discard-memory ${vm.name}`,
  };
  const manifest = await readManifest(files, id).catch((error) => {
    throw error instanceof BangerError ? error.reworded(error.message, wayOut) : error;
  });
  const found = await obstacles(host, vm, files, manifest, now);
  if (found.length === 0) return manifest;
  throw new BangerError('conflict', `${vm.name} cannot go on from its memory: ${found.join('; ')}.`, {
    ...wayOut,
    details: { obstacles: found },
  });
}

/** Gives it its network and a VMM that has its memory loaded; the guest stands still. */
async function loadInto(
  host: Host,
  vm: VmRecord,
  { vmmVersion }: Manifest,
  boot: BootFiles,
  vmm: VmmChoice,
  signal: AbortSignal,
): Promise<LaunchedVm> {
  let launched: LaunchedVm | undefined;
  await sideBySide(signal, [
    () => host.network.attach(vm),
    async (either) => {
      launched = await launchVm(host, vm, boot, either, { continues: true, vmm });
    },
  ]);
  if (!launched) throw new BangerError('internal', `The VMM of ${vm.name} was not launched.`);
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  await loadMemory(host, vm, api, memoryFiles(host.config.paths.store, vm.id), vmmVersion);
  return launched;
}

/**
 * A guest that went on and did not answer: where it has written nothing it is suspended as before, and where it has, it is
 * left running, because nothing else has what it holds.
 * @throws BangerError unless it is left running
 */
async function afterBadWake(
  host: Host,
  vm: VmRecord,
  memory: SavedMemory,
  manifest: Manifest,
  progress: Progress,
  error: unknown,
): Promise<void> {
  const socketPath = vmmSocketOf(host, vm.id);
  const files = memoryFiles(host.config.paths.store, vm.id);
  const lives = (await findVmmOf(host, vm)) !== undefined;
  await using api = connectVmm(socketPath);
  // held, so that it is the same when its VMM has ended
  if (lives) await api.send(setState('Paused')).catch(() => {});
  if (await isUnused(host, vm, files, manifest)) {
    await releaseVm(host, vm);
    host.stores.vms.update(vm.id, suspendedAgain(memory));
    throw reworded(error, `It had written nothing, and ${vm.name} is suspended again.`);
  }
  if (lives) {
    await api.send(setState('Resumed'));
    progress.warn(`${vm.name} goes on, but ${messageOf(error)} Its clock may be wrong: banger restart ${vm.name}`);
    return;
  }
  await releaseVm(host, vm);
  host.stores.vms.update(vm.id, failed(`Its VMM ended just after it had gone on from its memory: ${messageOf(error)}`));
  await forgetMemory(host, vm);
  throw reworded(error, `The memory of ${vm.name} is lost; its disks have all that was written to them.`);
}

function reworded(error: unknown, outcome: string): unknown {
  return error instanceof BangerError ? error.reworded(`${error.message} ${outcome}`) : error;
}
