/**
 * Takes memory and disks of a VM at one moment, while it goes on or stays suspended: what forks begin as, and what a snapshot
 * keeps. A daemon that dies meanwhile leaves it to the next to let the guest go on.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import type { VmRecord } from '../../core/vm.ts';
import { suspending } from '../../core/vm-changes.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import { type MemoryFiles, memoryFiles, vmFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';
import { prepareSave, saveMemory, syncAll } from '../memory/checkpoint.ts';
import type { Progress } from '../operations.ts';
import { vmmSocketOf } from '../vmm.ts';
import { goOnRunning } from './suspend.ts';
import { holdGuest, letHeldGoOn } from './wake.ts';

export interface Moment {
  /** how long its processors stood still, in `ms`; 0 for one that was suspended */
  pausedMs: number;
  /** what the VMM that wrote the state calls itself */
  vmmVersion: string;
  /** settles, and never fails, when its programs run again: what was taken can be used meanwhile */
  awake: Promise<void>;
}

/**
 * @param to where memory and state come, in a directory that is there
 * @param copyDisks called while the guest stands still
 * @throws BangerError `conflict` when its agent cannot hold it and wake a copy; it goes on whatever happens
 */
export async function copyMoment(
  host: Host,
  vm: VmRecord,
  to: Pick<MemoryFiles, 'memory' | 'state'>,
  copyDisks: () => Promise<void>,
  progress: Progress,
  signal: AbortSignal,
): Promise<Moment> {
  const { store } = host.config.paths;
  const { rootDisk, workDisk } = vmFiles(store, vm.id);
  // its VMM writes to no other directory than the VM's own
  const own = memoryFiles(store, vm.id, true);
  // little is left to be written, or copied, when it stands still
  await syncAll(vm.workDiskBytes > 0 ? [rootDisk, workDisk] : [rootDisk]);
  host.stores.vms.update(vm.id, suspending());
  let held = false;
  let moment: Omit<Moment, 'awake'> | undefined;
  let awake = Promise.resolve();
  try {
    await rm(own.directory, { recursive: true, force: true });
    await mkdir(own.directory, { mode: 0o700 });
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    const vmmVersion = await prepareSave(host, vm, api, own);
    progress.step('hold', `holding ${vm.name}`);
    await holdGuest(host, vm, randomUUID(), signal);
    held = true;
    progress.step('save-memory', 'saving its memory and disks');
    const began = performance.now();
    await api.send(setState('Paused'));
    await saveBoth(vm, () => saveMemory(host, vm, api, own), copyDisks);
    await api.send(setState('Resumed'));
    const pausedMs = performance.now() - began;
    for (const file of ['memory', 'state'] as const) await rename(own[file], to[file]);
    moment = { pausedMs, vmmVersion };
  } finally {
    let isWritten = false;
    try {
      await goOnRunning(host, vm);
      isWritten = true;
    } finally {
      // also where that could not be written down: its programs stand still
      if (held) awake = letHeldGoOn(host, vm, held, progress.warn);
      if (!moment || !isWritten) await awake;
    }
  }
  return { ...moment, awake };
}

/**
 * Side by side where the VMM has written everything to the disks when it is paused, as QEMU does; Firecracker does it while it
 * saves. Both are over before the guest goes on, whichever fails.
 */
async function saveBoth(vm: VmRecord, saveMemory: () => Promise<void>, copyDisks: () => Promise<void>): Promise<void> {
  if (vm.vmm !== 'fcqemu') {
    await saveMemory();
    await copyDisks();
    return;
  }
  const [memory, disks] = await Promise.allSettled([saveMemory(), copyDisks()]);
  if (memory.status === 'rejected') throw memory.reason;
  if (disks.status === 'rejected') throw disks.reason;
}
