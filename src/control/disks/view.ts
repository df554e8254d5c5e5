/** Disks as the API shows them: those of VMs, and work disks that were kept. */
import { stat } from 'node:fs/promises';
import type { Disk } from '../../api/disk.ts';
import type { VmRecord } from '../../core/vm.ts';
import { systemCode } from '../../errors.ts';
import { listKept } from '../../storage/kept-disks.ts';
import { vmFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';

/** Root and work disk of one VM; a work disk is there from the first start on. */
export async function disksOf(host: Host, vm: VmRecord): Promise<Disk[]> {
  const files = vmFiles(host.config.paths.store, vm.id);
  const root = await viewDisk({ vm: vm.name, role: 'root', path: files.rootDisk, mount: '/' });
  const work = await viewDisk({ vm: vm.name, role: 'work', path: files.workDisk, mount: vm.workDiskMount });
  return [...root, ...work];
}

/** Disks of every VM by name, then the kept ones. */
export async function allDisks(host: Host): Promise<Disk[]> {
  const owned = await Promise.all(host.stores.vms.list().map((vm) => disksOf(host, vm)));
  return [...owned.flat(), ...(await keptDisks(host))];
}

async function keptDisks(host: Host): Promise<Disk[]> {
  const kept = await listKept(host.config.paths.store);
  const disks = await Promise.all(
    kept.map(({ name, path }) => viewDisk({ vm: null, role: 'kept', keptName: name, path, mount: null })),
  );
  return disks.flat();
}

type Described = Pick<Disk, 'vm' | 'role' | 'path' | 'mount'> & { keptName?: string };

async function viewDisk({ keptName = null, ...disk }: Omit<Described, 'keptName'> & { keptName?: string | null }) {
  try {
    const { size, blocks } = await stat(disk.path);
    return [{ ...disk, name: keptName, apparentBytes: size, allocatedBytes: blocks * 512 }];
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return []; // not made yet, or deleted between two looks
    throw error;
  }
}
