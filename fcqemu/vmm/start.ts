/** From the configured resources to QEMU's arguments: the checks InstanceStart makes. */
import { readFileSync, statSync } from 'node:fs';
import { Fault, systemErrorText } from '../fault.ts';
import type { ThreadLog } from '../log.ts';
import { chooseAccelerator, KvmUnavailable } from '../qemu/accelerator.ts';
import type { Accelerator, QemuDrive, QemuSpec } from '../qemu/arguments.ts';
import { randomBytes } from '../random.ts';
import type { Settings } from '../settings.ts';
import { composeCommandLine } from './command-line.ts';
import type { StoredDrive } from './drives.ts';
import type { Resources } from './resources.ts';

/** Interrupts Firecracker has for virtio devices on x86. */
const MAX_VIRTIO_DEVICES = 17;

export interface StartOptions {
  instanceId: string;
  settings: Settings;
  /** confine QEMU with its seccomp filter */
  sandbox: boolean;
  log: ThreadLog;
}

/** What QEMU says when the host will not give the guest its memory. */
const NO_MEMORY = /guest RAM|guest memory/;

/** What a process has room for on x86: 47 bits. */
const ADDRESS_SPACE_MIB = 2 ** 27;

/** A refused InstanceStart; the microVM stays "Not started". */
export function startFault(cause: string): Fault {
  if (NO_MEMORY.test(cause)) return memoryFault();
  return new Fault(`Start microvm error: ${cause}`);
}

function memoryFault(): Fault {
  const cause = `Cannot create mmap region: ${systemErrorText('ENOMEM')}`;
  return new Fault(`Start microvm error: Invalid Memory Configuration: ${cause}`);
}

/**
 * The machine for the configured microVM.
 * @throws Fault
 */
export async function planStart(resources: Resources, options: StartOptions): Promise<QemuSpec> {
  const { bootSource, machine, drives, interfaces, entropy, balloon, vsock } = resources;
  if (!bootSource) throw startFault('Cannot start microvm without kernel configuration.');
  if (machine.mem_size_mib >= ADDRESS_SPACE_MIB) throw memoryFault();
  const single = [entropy, balloon.config, vsock.config].filter((device) => device !== null);
  const devices = drives.list.length + interfaces.list.length + single.length;
  if (devices > MAX_VIRTIO_DEVICES) {
    throw startFault(
      'Cannot attach device: Failed to allocate requested resource: Could not allocate GSI: ' +
        'The requested resource is not available.',
    );
  }
  const accelerator = await accelerate(options, bootSource.kernel_image_path);
  // other ELF files are refused when they are configured
  options.log.debug('Kernel loaded using PVH boot protocol');
  const root = drives.root && { partuuid: drives.root.partuuid, readOnly: drives.root.is_read_only };
  const commandLine = composeCommandLine(bootSource.boot_args, root, emulationArguments(accelerator));
  if (!commandLine) throw startFault('Invalid kernel command line: Inserting string would make command line too long.');
  for (const word of commandLine.dropped) {
    options.log.warn(`The kernel argument ${word} was left out: without it no virtio device would work here.`);
  }
  return {
    instanceId: options.instanceId,
    accelerator,
    vcpuCount: machine.vcpu_count,
    memoryMib: machine.mem_size_mib,
    kernelPath: bootSource.kernel_image_path,
    initrdPath: bootSource.initrd_path,
    commandLine: commandLine.text,
    drives: drives.list.map((drive) => qemuDrive(drive, options.log)),
    interfaces: interfaces.list.map((iface) => ({ ...iface, mac: iface.guest_mac ?? randomMac() })),
    entropy,
    balloon: balloon.config,
    vsock: vsock.config,
    sandbox: options.sandbox,
    restore: false,
  };
}

async function accelerate({ settings, log }: StartOptions, kernelPath: string): Promise<Accelerator> {
  try {
    return await chooseAccelerator(settings, kernelPath, log);
  } catch (error) {
    if (error instanceof KvmUnavailable) throw startFault(error.message);
    throw startFault(error instanceof Error ? error.message : String(error));
  }
}

/**
 * Under TCG the timer tick that calibrates the clock is sometimes lost and the guest waits for ever; a known
 * TSC frequency makes it use the TSC instead. TCG hands the host's TSC to the guest.
 */
function emulationArguments(accelerator: Accelerator): string[] {
  if (accelerator !== 'tcg') return [];
  const bogomips = Number(/^bogomips\s*:\s*([\d.]+)/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1]);
  // reliable: the emulated timer the kernel would check the TSC against is the worse clock of the two
  return bogomips > 0 ? [`tsc_early_khz=${Math.round((bogomips / 2) * 1000)}`, 'tsc=reliable'] : [];
}

function qemuDrive(drive: StoredDrive, log: ThreadLog): QemuDrive {
  const stat = statSync(drive.path_on_host, { bigint: true });
  if (stat.isFile() && stat.size % 512n !== 0n) {
    log.warn(
      `Disk size ${stat.size} is not a multiple of sector size 512; the remainder will not be visible to the guest.`,
    );
  }
  return {
    ...drive,
    // the id Firecracker gives its disks: device, device of a special file, inode; at most 20 bytes
    serial: `${stat.dev}${stat.rdev}${stat.ino}`.slice(0, 20),
    isBlockDevice: stat.isBlockDevice(),
  };
}

/** QEMU cannot leave the address to the guest, as Firecracker does when none is given. */
function randomMac(): string {
  const bytes = randomBytes(6);
  // locally administered, unicast
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
