/** Snapshots as the API shows them. */
import type { Snapshot } from '../../api/snapshot.ts';
import type { SnapshotRecord } from '../../core/snapshots.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { snapshotFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';

type ViewHost = Pick<Host, 'config' | 'stores'>;

/** @param vmName of one VM alone. Throws `not_found` for one that is not there. */
export async function viewSnapshots(host: ViewHost, vmName?: string): Promise<Snapshot[]> {
  const { vms, snapshots } = host.stores;
  const vm = vmName === undefined ? undefined : vms.get(vmName);
  // those of VMs in the trash are not to be had before their VM is
  const shown = snapshots.list(vm?.id).filter(({ vmId }) => vms.findById(vmId) !== undefined);
  return await Promise.all(shown.map((record) => viewSnapshot(host, record)));
}

export async function viewSnapshot(host: ViewHost, record: SnapshotRecord): Promise<Snapshot> {
  const {
    directory,
    rootDisk,
    workDisk,
    memory: saved,
  } = snapshotFiles(host.config.paths.store, record.vmId, record.id);
  const sizes = await Promise.all([rootDisk, workDisk, saved].map((path) => allocatedBytes(path).catch(() => 0)));
  const { id, name, createdAt, automatic, memory, taken, pauseMs, hasWorkDisk, values } = record;
  return {
    vm: host.stores.vms.findById(record.vmId)?.name ?? record.vmId,
    ...{ name, id, createdAt, automatic, memory, taken, pauseMs },
    image: values.image,
    rootDiskBytes: values.rootDiskBytes,
    workDiskBytes: hasWorkDisk ? values.workDiskBytes : 0,
    allocatedBytes: sizes.reduce((sum, bytes) => sum + bytes, 0),
    directory,
  };
}
