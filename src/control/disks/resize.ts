/** Grows the disks of a VM: of a stopped one with e2fsck and resize2fs, of a running one through VMM and guest. */
import { basename, dirname } from 'node:path';
import type { Disk, DiskResize } from '../../api/disk.ts';
import { requireNoMemory } from '../../core/saved-memory.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { updateDrive } from '../../firecracker/requests.ts';
import { runScript } from '../../guest/run-script.ts';
import { requireSpace } from '../../storage/clone.ts';
import { apparentBytes, growFile, requireDiskSize } from '../../storage/disk.ts';
import { MIN_WORK_DISK_BYTES, readSuperblock } from '../../storage/ext4.ts';
import { vmFiles } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import { formatSize, MIB } from '../../units.ts';
import { letDiskGrow } from '../confine.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';
import { growDisk } from './disk-work.ts';
import { disksOf } from './view.ts';

type Role = 'root' | 'work';

/** Name of each disk in the guest; the order is that of `vm/boot.ts`. */
const GUEST_DEVICES: Record<Role, string> = { root: 'vda', work: 'vdc' };

/** The tables of new groups: resize2fs writes 1 MiB for 92 GiB, and a guest more of them in time. */
const TABLES_SHARE = 4096;

/** The guest grows a mounted file system in seconds; an emulated one that is busy takes longer. */
const GUEST_LIMIT_MS = 120_000;

const EXIT_SIZE_UNKNOWN = 91;
const EXIT_NO_PROGRAM = 92;

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
    if (running) await growOnline(host, vm, role, path);
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

async function growOnline(host: Host, vm: VmRecord, role: Role, path: string): Promise<void> {
  await letDiskGrow(host, vm);
  const later = `The disk has its new size; its file system grows at the next start: banger restart ${vm.name}`;
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  const vmm = host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'vmm');
  const relative = vmm?.kind === 'vmm' && vmm.directory === dirname(path);
  await api.send(updateDrive({ drive_id: role, path_on_host: relative ? basename(path) : path }));
  const device = GUEST_DEVICES[role];
  const connection = await host.guests.get(vm);
  const blocks = Math.floor((await apparentBytes(path)) / (await readSuperblock(path)).blockBytes);
  const script = growScript(device, Math.floor((await apparentBytes(path)) / 512), blocks);
  const { exitCode, output } = await runScript(connection, script, GUEST_LIMIT_MS);
  if (exitCode === 0) return;
  const reasons: Record<number, string> = {
    [EXIT_SIZE_UNKNOWN]: `its kernel does not see the new size of /dev/${device}`,
    [EXIT_NO_PROGRAM]: 'it has neither resize2fs (package e2fsprogs) nor perl nor python3',
  };
  const reason =
    exitCode === null
      ? `it did not finish within ${GUEST_LIMIT_MS / 1000} s`
      : (reasons[exitCode] ?? (output.split('\n').at(-1) || `resize2fs ended with ${exitCode}`));
  throw new BangerError('guest_failed', `The guest of ${vm.name} did not grow its file system: ${reason}.`, {
    hint: later,
    details: { output: output.slice(-2000) },
  });
}

/** Linux, include/uapi/linux/ext4.h: EXT4_IOC_RESIZE_FS, which takes the new number of blocks. */
const EXT4_IOC_RESIZE_FS = '0x40086610';

/**
 * Waits until the kernel has heard of the new size, then grows the mounted file system: by resize2fs, or by what
 * resize2fs would ask the kernel for, in a language that small images have too.
 */
function growScript(device: string, sectors: number, blocks: number): string {
  return `tries=0
while [ "$(cat /sys/class/block/${device}/size)" -lt ${sectors} ]; do
  tries=$((tries + 1))
  [ "$tries" -gt 50 ] && exit ${EXIT_SIZE_UNKNOWN}
  sleep 0.1 2> /dev/null || sleep 1
done
if command -v resize2fs > /dev/null; then
  resize2fs /dev/${device} 2>&1
  exit
fi
point=''
while read -r source where rest; do
  [ "$source" = /dev/${device} ] && point=$where && break
done < /proc/mounts
if [ -z "$point" ]; then
  echo '/dev/${device} is not mounted'
  exit 1
elif command -v perl > /dev/null; then
  perl -e 'open(my $f, "<", $ARGV[0]) or die "$!\n"; my $n = pack("Q", $ARGV[1]); ioctl($f, ${EXT4_IOC_RESIZE_FS}, $n) or die "$!\n"' "$point" ${blocks}
elif command -v python3 > /dev/null; then
  python3 -c 'import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), ${EXT4_IOC_RESIZE_FS}, struct.pack("Q", int(sys.argv[2])))' "$point" ${blocks}
else
  exit ${EXIT_NO_PROGRAM}
fi
`;
}
