/**
 * Suspends a VM: its memory goes to disk, and nothing of it stays on the host but files. What is interrupted before the
 * memory is on record lets the guest go on; what is interrupted later is suspended.
 */
import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Fit } from '../../core/fit.ts';
import type { VmRecord } from '../../core/vm.ts';
import { notSuspended, suspended, suspending } from '../../core/vm-changes.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import { can, parseVmmVersion } from '../../firecracker/versions.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { memoryFiles, vmFiles } from '../../storage/layout.ts';
import { syncPath } from '../../system/files.ts';
import { formatSize, MIB } from '../../units.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import { forgetMemory, takeCheckpoint } from '../memory/checkpoint.ts';
import { fitOf } from '../memory/fit.ts';
import type { Progress } from '../operations.ts';
import { isFull, storeSpace } from '../store/space.ts';
import { vmmSocketOf } from '../vmm.ts';
import { haltedProcess, requireRunning } from './problem.ts';
import { letHeldGoOn, quiesceGuest } from './wake.ts';

/** A VMM that still writes the memory of its guest answers nothing else until that is done. */
const GO_ON_LIMIT_MS = 10 * 60_000;

/**
 * Saves the memory of a running VM and puts it on record; its VMM stands still then, and is to be ended.
 * @throws BangerError `conflict` when it does not run or cannot be suspended, `host_unprepared` when there is no room;
 *   whatever fails, it runs on
 */
export async function suspendVm(host: Host, name: string, progress: Progress, signal: AbortSignal): Promise<void> {
  const vm = host.stores.vms.get(name);
  requireRunning(vm);
  const run = vm.run ?? vm;
  const fit = await fitOf(host, run, await findVmBootFiles(host, vm));
  requireSuspendable(host, vm, fit);
  await requireRoom(host, name, run.memoryMib * MIB);
  const { store } = host.config.paths;
  const unfinished = memoryFiles(store, vm.id, true);
  const files = memoryFiles(store, vm.id);
  const id = randomUUID();
  host.stores.vms.update(vm.id, suspending());
  let held = false;
  try {
    progress.step('quiesce', 'having the guest write out its caches');
    const waker = await quiesceGuest(host, vm, id, signal);
    held = waker === 'agent';
    const { at } = await takeCheckpoint(host, vm, { id, files: unfinished, fit, waker }, progress, signal);
    await rm(files.directory, { recursive: true, force: true });
    await rename(unfinished.directory, files.directory);
    await syncPath(dirname(files.directory));
    const bytes = (await allocatedBytes(files.memory)) + (await allocatedBytes(files.state));
    signal.throwIfAborted();
    host.stores.vms.update(vm.id, suspended({ id, at, bytes, spentOn: null }));
  } catch (error) {
    progress.step('undo', 'letting the guest go on');
    try {
      await goOnRunning(host, vm);
    } finally {
      // also where that could not be written down: its programs stand still
      await letHeldGoOn(host, vm, held, progress.warn);
    }
    throw explain(error, vm, signal);
  }
}

/** Lets a guest run on that was held, or was to be held; no memory of it is kept. Repeatable. */
export async function goOnRunning(host: Host, vm: Pick<VmRecord, 'id' | 'name'>): Promise<void> {
  try {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(setState('Resumed'), GO_ON_LIMIT_MS);
  } catch (error) {
    // a VMM that has ended is noticed by whoever watches it
    host.log.warn({ vm: vm.name, error: messageOf(error) }, 'a guest that was held could not be told to go on');
  }
  host.stores.vms.update(vm.id, notSuspended());
  await forgetMemory(host, vm);
}

/** @throws BangerError `conflict` when the memory of a running VM would be of no use */
export function requireSuspendable(host: Host, vm: VmRecord, fit: Fit): void {
  requireSavable(host, vm, fit);
  const { directory } = vmFiles(host.config.paths.store, vm.id);
  const vmm = host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'vmm');
  if (vmm?.kind !== 'vmm' || vmm.directory !== directory) {
    throw new BangerError('conflict', `${vm.name} was started by an earlier banger and has to be restarted first.`, {
      hint: `Do it once, then suspend it: banger restart ${vm.name}`,
    });
  }
  if (vm.ready === null) {
    throw new BangerError('conflict', `${vm.name} still boots.`, {
      hint: `Wait for it: banger wait ${vm.name} --for ready`,
    });
  }
  const halted = haltedProcess(host, vm);
  if (halted === undefined) return;
  throw new BangerError('conflict', `The VMM of ${vm.name} is halted (process ${halted} got SIGSTOP).`, {
    hint: `Let it go on with: kill -CONT ${halted}`,
  });
}

/** @throws BangerError `conflict` when what runs it writes no memory that could go on later */
export function requireSavable(host: Pick<Host, 'health'>, vm: VmRecord, fit: Fit): void {
  const version = fit.vmm === 'firecracker' ? parseVmmVersion(fit.program) : undefined;
  if (version && !can(version, 'memory')) {
    throw new BangerError(
      'conflict',
      `${vm.name} runs on Firecracker ${version.text}, whose saved memory is not to be relied on.`,
      {
        hint: `Get a later one, then restart it: banger vmm install   and: banger restart ${vm.name}`,
      },
    );
  }
  if (fit.vmm !== vm.vmm) {
    throw new BangerError('conflict', `${vm.name} runs on ${vm.vmm}, and would have to go on on ${fit.vmm}.`, {
      hint: `Have it run on that first: banger restart ${vm.name}`,
    });
  }
  if (host.health.emulatedMeanwhile.has(vm.id)) {
    throw new BangerError('conflict', `${vm.name} is emulated only because KVM was still being tested.`, {
      hint: `Do it once, then suspend it: banger restart ${vm.name}`,
    });
  }
}

/** @throws BangerError `host_unprepared` when the memory would leave less than what starts need */
export async function requireRoom(host: Host, name: string, bytes: number): Promise<void> {
  const { freeBytes } = await storeSpace(host);
  const { minFreeBytes } = host.config.storage;
  if (freeBytes >= bytes + minFreeBytes) return;
  const { store } = host.config.paths;
  throw new BangerError(
    'host_unprepared',
    `There is no room for the memory of ${name}: it may take ${formatSize(bytes)}, ${formatSize(freeBytes)} are free in ${store}, and storage.min_free keeps ${formatSize(minFreeBytes)}.`,
    { hint: 'See what takes it: banger storage show   and: banger disk list' },
  );
}

function explain(error: unknown, { name }: VmRecord, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (isFull(error)) {
    return new BangerError('host_unprepared', `There was no room left for the memory of ${name}. It runs on.`, {
      cause: error,
      hint: 'See what takes it: banger storage show   and: banger disk list',
    });
  }
  return error instanceof BangerError ? error.reworded(`${error.message} ${name} is not suspended.`) : error;
}
