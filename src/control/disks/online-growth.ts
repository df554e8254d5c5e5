/** Grows disks that a guest has mounted: the VMM tells it of their new size, and it grows its file systems itself. */
import { basename, dirname } from 'node:path';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { updateDrive } from '../../firecracker/requests.ts';
import type { GuestAgent } from '../../guest/agent/agent.ts';
import { AgentError } from '../../guest/agent/errors.ts';
import { runScript, runThroughAgent, type ScriptResult } from '../../guest/run-script.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { letFilesGrow } from '../confine.ts';
import type { Host } from '../host.ts';
import { vmmSocketOf } from '../vmm.ts';

export type Role = 'root' | 'work';

/** Name of each disk in the guest; the order is that of `vm/boot.ts`. */
const GUEST_DEVICES: Record<Role, string> = { root: 'vda', work: 'vdc' };

/** The guest grows a mounted file system in seconds; an emulated one that is busy takes longer. */
const GUEST_LIMIT_MS = 120_000;

const EXIT_SIZE_UNKNOWN = 91;
const EXIT_NO_PROGRAM = 92;

/**
 * Has the guest of a running VM take up the size that a disk of it has got, and grow the file system that it has mounted.
 * @throws BangerError `guest_failed` when it does not
 */
export async function growMounted(host: Host, vm: VmRecord, role: Role): Promise<void> {
  const { rootDisk, workDisk } = vmFiles(host.config.paths.store, vm.id);
  const path = role === 'root' ? rootDisk : workDisk;
  await letFilesGrow(host, vm);
  const later = `The disk has its new size; its file system grows at the next start: banger restart ${vm.name}`;
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  const vmm = host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'vmm');
  const relative = vmm?.kind === 'vmm' && vmm.directory === dirname(path);
  await api.send(updateDrive({ drive_id: role, path_on_host: relative ? basename(path) : path }));
  const device = GUEST_DEVICES[role];
  const { kind, blockBytes } = await readRootVolume(path);
  const bytes = await apparentBytes(path);
  const agent = await host.agents.get(vm);
  const byAgent = kind !== 'ext4' || agent?.hello.features.has('grow-ext4');
  const grow = byAgent ? growByAgentScript(device) : growExt4Script(device, Math.floor(bytes / blockBytes));
  const script = awaitSizeScript(device, Math.floor(bytes / 512)) + grow;
  const { exitCode, output } = await runInGuest(host, vm, agent, script);
  if (exitCode === 0) return;
  const reasons: Record<number, string> = {
    [EXIT_SIZE_UNKNOWN]: `its kernel does not see the new size of /dev/${device}`,
    [EXIT_NO_PROGRAM]: 'it has neither resize2fs (package e2fsprogs) nor perl nor python3',
  };
  const reason =
    exitCode === null
      ? `it did not finish within ${GUEST_LIMIT_MS / 1000} s`
      : (reasons[exitCode] ?? (output.split('\n').at(-1) || `its program ended with ${exitCode}`));
  throw new BangerError('guest_failed', `The guest of ${vm.name} did not grow its file system: ${reason}.`, {
    hint: later,
    details: { output: output.slice(-2000) },
  });
}

/**
 * Through its agent where it has one: no login is made for it. The script changes nothing that it has done before, so it is run
 * again over SSH when the agent is lost meanwhile.
 */
export async function runInGuest(
  host: Pick<Host, 'agents' | 'guests'>,
  vm: VmRecord,
  agent: GuestAgent | undefined,
  script: string,
): Promise<ScriptResult> {
  if (agent?.hello.features.has('exec')) {
    try {
      return await runThroughAgent(agent, script, GUEST_LIMIT_MS);
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      host.agents.failed(vm, error);
    }
  }
  return await runScript(await host.guests.get(vm), script, GUEST_LIMIT_MS);
}

/** Linux, include/uapi/linux/ext4.h: EXT4_IOC_RESIZE_FS, which takes the new number of blocks. */
const EXT4_IOC_RESIZE_FS = '0x40086610';

/** Waits until the kernel has heard of the new size. */
function awaitSizeScript(device: string, sectors: number): string {
  return `tries=0
while [ "$(cat /sys/class/block/${device}/size)" -lt ${sectors} ]; do
  tries=$((tries + 1))
  [ "$tries" -gt 50 ] && exit ${EXIT_SIZE_UNKNOWN}
  sleep 0.1 2> /dev/null || sleep 1
done
`;
}

/** Sets `point` to where the device is mounted. */
function findPointScript(device: string): string {
  return `point=''
while read -r source where rest; do
  [ "$source" = /dev/${device} ] && point=$where && break
done < /proc/mounts
if [ -z "$point" ]; then
  echo '/dev/${device} is not mounted'
  exit 1
fi
`;
}

/** The agent asks the kernel itself, whatever programs the guest has. */
function growByAgentScript(device: string): string {
  return `${findPointScript(device)}/run/banger/agent --grow /dev/${device} "$point"\n`;
}

/**
 * Grows the mounted file system by resize2fs, or by what resize2fs would ask the kernel for, in a language that small images have
 * too.
 */
function growExt4Script(device: string, blocks: number): string {
  return `if command -v resize2fs > /dev/null; then
  resize2fs /dev/${device} 2>&1
  exit
fi
${findPointScript(device)}if command -v perl > /dev/null; then
  perl -e 'open(my $f, "<", $ARGV[0]) or die "$!\n"; my $n = pack("Q", $ARGV[1]); ioctl($f, ${EXT4_IOC_RESIZE_FS}, $n) or die "$!\n"' "$point" ${blocks}
elif command -v python3 > /dev/null; then
  python3 -c 'import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), ${EXT4_IOC_RESIZE_FS}, struct.pack("Q", int(sys.argv[2])))' "$point" ${blocks}
else
  exit ${EXIT_NO_PROGRAM}
fi
`;
}
