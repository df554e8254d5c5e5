/** Takes a snapshot of a VM: its disks and, of a guest that runs or is suspended, its memory, all of one moment. */
import { requireSnapshotName, type SnapshotRecord, timedName, valuesOf } from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { snapshotFiles } from '../../storage/layout.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { requireWholeDisks } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { takeWithMemory, whyNoMemory } from './memory.ts';
import { newSnapshotId, provisionally, takeDisks, writeManifest } from './take.ts';

export interface SnapshotRequest {
  /** a name made of the time without */
  name?: string | undefined;
  /** whether the guest may stand still for as long as a copy takes */
  pauseOk: boolean;
  /** whether the memory of its guest is left out */
  diskOnly: boolean;
}

/**
 * @throws BangerError `conflict` when the name is taken, or when the guest would stand still for long and that is not allowed;
 *   `host_unprepared` when there is no room; `guest_failed` when the guest cannot hold still
 */
export async function createSnapshot(
  host: Host,
  vmName: string,
  request: SnapshotRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<SnapshotRecord> {
  const vm = host.stores.vms.get(vmName);
  const { snapshots } = host.stores;
  const at = host.now();
  const taken = new Set(snapshots.list(vm.id).map((each) => each.name));
  const name = request.name ?? timedName(at, taken);
  requireSnapshotName(name);
  if (taken.has(name)) {
    throw new BangerError('conflict', `${vmName} has a snapshot "${name}" already.`, {
      hint: `Choose another name, or delete it: banger snapshot delete ${vmName} ${name}`,
    });
  }
  requireWholeDisks(host, vm);
  const id = newSnapshotId();
  return await provisionally(host, vm, id, async () => {
    const memory = !request.diskOnly && (await mayKeepMemory(host, vm, progress, signal));
    const take = memory ? takeWithMemory : takeDisks;
    const taken = await take(host, vm, id, request.pauseOk, progress, signal);
    throwIfCancelled(signal);
    const record: SnapshotRecord = {
      ...{ id, vmId: vm.id, name, createdAt: at.toISOString(), automatic: false, memory },
      ...taken,
      values: valuesOf(vm),
    };
    await writeManifest(host, record);
    return await commit(host, vm, record);
  });
}

/** Whether there is memory to be kept; where it cannot be, that is told, and the disks are kept alone. */
async function mayKeepMemory(host: Host, vm: VmRecord, progress: Progress, signal: AbortSignal): Promise<boolean> {
  if (vm.memory !== null) return true;
  if (vm.phase !== 'running' || vm.paused !== null) return false;
  const why = await whyNoMemory(host, vm, signal);
  if (why !== undefined) progress.warn(`The memory of its guest is not in it: ${why}`);
  return why === undefined;
}

async function commit(host: Host, vm: VmRecord, record: SnapshotRecord): Promise<SnapshotRecord> {
  const { directory } = snapshotFiles(host.config.paths.store, vm.id, record.id);
  host.stores.atomically(() => {
    host.stores.snapshots.insert(record);
    host.stores.ledger.strike('snapshot', directory);
  });
  host.events.publish({ type: 'snapshot.created', vm: vm.name, id: vm.id, snapshot: record.name });
  return record;
}
