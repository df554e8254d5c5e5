/** Grows the disks of a VM: of a stopped one with e2fsck and resize2fs, of a running one through VMM and guest. */
import type { Disk, DiskResize } from '../../api/disk.ts';
import { requireNoMemory } from '../../core/saved-memory.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { requireSpace } from '../../storage/clone.ts';
import { growFile, requireDiskSize } from '../../storage/disk.ts';
import { MIN_WORK_DISK_BYTES } from '../../storage/ext4.ts';
import { vmFiles } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import { formatSize, MIB } from '../../units.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf } from '../vmm.ts';
import { growDisk, requireWholeDisks } from './disk-work.ts';
import { growMounted, type Role } from './online-growth.ts';
import { disksOf } from './view.ts';

/** The tables of new groups: resize2fs writes 1 MiB for 92 GiB, and a guest more of them in time. */
const TABLES_SHARE = 4096;

/**
 * The record is written first: whatever is cut off afterwards is finished by the next start.
 * @throws BangerError `invalid_input` for a size that is smaller, `conflict` for a running VM without `online`,
 *   `guest_failed` when the guest does not take the new size up
 */
export async function resizeDisks(
  host: Host,
  name: string,
  request: DiskResize,
  progress: Progress,
  signal: AbortSignal,
): Promise<Disk[]> {
  const vm = host.stores.vms.get(name);
  requireNoMemory(vm, 'resized');
  requireWholeDisks(host, vm);
  const wanted = wantedSizes(vm, request);
  if (request.online && vm.paused !== null) {
    throw new BangerError('conflict', `${name} is paused: ${vm.paused.why}`, {
      hint: `Its disks can be grown when it goes on. See: banger show ${name}`,
    });
  }
  const running = (await findVmmOf(host, vm)) !== undefined;
  if (running && !request.online) {
    throw new BangerError('conflict', `${name} is running.`, {
      hint: `Grow it while it runs with --online, or stop it first: banger stop ${name}`,
    });
  }
  const { directory, rootDisk, workDisk } = vmFiles(host.config.paths.store, vm.id);
  const growth = wanted.reduce((sum, { role, bytes }) => sum + bytes - recordedBytes(vm, role), 0);
  await host.checks.beforeResize(Math.ceil(growth / TABLES_SHARE), progress.warn);
  await requireSpace(directory, growth / TABLES_SHARE, `larger disks of ${name}`);
  signal.throwIfAborted();
  for (const { role, bytes } of wanted) {
    const path = role === 'root' ? rootDisk : workDisk;
    if (role === 'work' && running && vm.workDiskBytes === 0) {
      throw new BangerError('conflict', `${name} has no work disk, and a running VM cannot get one.`, {
        hint: `Stop it first: banger stop ${name}`,
      });
    }
    if (role === 'work' && !(await pathExists(path))) {
      // made with this size at the first start
      recordSize(host, vm, role, bytes);
      continue;
    }
    progress.step(`grow-${role}-disk`, `growing the ${role} disk to ${formatSize(bytes)}`);
    recordSize(host, vm, role, bytes);
    try {
      await lengthen(path, bytes);
    } catch (error) {
      recordSize(host, vm, role, recordedBytes(vm, role));
      throw error;
    }
    if (running) await growMounted(host, vm, role);
    else await growDisk(host, vm, path, bytes);
  }
  return await disksOf(host, host.stores.vms.get(name));
}

function wantedSizes(vm: VmRecord, { rootBytes, workBytes }: DiskResize): { role: Role; bytes: number }[] {
  const wanted = (['root', 'work'] as const).flatMap((role) => {
    const bytes = role === 'root' ? rootBytes : workBytes;
    // whole MiB: disks are counted in sectors and file systems in blocks
    return bytes === undefined ? [] : [{ role, bytes: Math.ceil(bytes / MIB) * MIB }];
  });
  if (wanted.length === 0) {
    throw new BangerError('invalid_input', 'There is nothing to resize: neither root nor work disk was given.', {
      hint: `For example: banger disk resize ${vm.name} --work 20G`,
    });
  }
  for (const { role, bytes } of wanted) {
    const now = recordedBytes(vm, role);
    if (bytes < now) {
      throw new BangerError(
        'invalid_input',
        `The ${role} disk of ${vm.name} has ${formatSize(now)} and cannot shrink to ${formatSize(bytes)}: its file system may use the end of it.`,
        {
          hint: 'It takes only what it holds; see: banger disk list. For a smaller one, make another VM and copy with banger cp.',
        },
      );
    }
    requireDiskSize(bytes);
    if (role === 'work' && bytes < MIN_WORK_DISK_BYTES) {
      throw new BangerError('invalid_input', `A work disk of ${formatSize(bytes)} is too small for a file system.`, {
        hint: `Ask for at least --work ${MIN_WORK_DISK_BYTES / MIB}M`,
      });
    }
  }
  return wanted;
}

function recordedBytes(vm: VmRecord, role: Role): number {
  return role === 'root' ? vm.rootDiskBytes : vm.workDiskBytes;
}

function recordSize(host: Host, vm: VmRecord, role: Role, bytes: number): void {
  host.stores.vms.update(vm.id, role === 'root' ? { rootDiskBytes: bytes } : { workDiskBytes: bytes });
}

/** @throws BangerError `invalid_input` when the host's file system holds no file that large */
async function lengthen(path: string, bytes: number): Promise<void> {
  try {
    await growFile(path, bytes);
  } catch (error) {
    if (systemCode(error) !== 'EFBIG') throw error;
    throw new BangerError('invalid_input', `The host's file system holds no file of ${formatSize(bytes)}.`, {
      cause: error,
    });
  }
}
