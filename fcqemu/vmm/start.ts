/** From the configured resources to QEMU's arguments: the checks InstanceStart makes. */
import { readFileSync, statSync } from 'node:fs';
import { Panic } from '../exit-code.ts';
import { Fault, type FaultOptions, ioErrorDebug, ioErrorText, systemError } from '../fault.ts';
import { asU64 } from '../json/number-text.ts';
import { debugText } from '../json/scanner.ts';
import type { ThreadLog } from '../log.ts';
import type { AcceleratorChoice } from '../qemu/accelerator.ts';
import type { Accelerator, QemuDrive, QemuSpec } from '../qemu/arguments.ts';
import { randomBytes } from '../random.ts';
import { composeCommandLine } from './command-line.ts';
import type { StoredDrive } from './drives.ts';
import { type BootProblem, initrdProblem, kernelProblem } from './kernel-image.ts';
import type { Resources, StoredBootSource } from './resources.ts';

/** Interrupts Firecracker has for virtio devices on x86. */
const MAX_VIRTIO_DEVICES = 17;

export interface StartOptions {
  instanceId: string;
  accelerators: AcceleratorChoice;
  /** confine QEMU with its seccomp filter */
  sandbox: boolean;
  log: ThreadLog;
}

/** What QEMU says when the host will not give the guest its memory. */
const NO_MEMORY = /guest RAM|guest memory/;

/** What a process has room for on x86: 47 bits. */
const ADDRESS_SPACE_BYTES = 2n ** 47n;

const MAX_U64 = 2n ** 64n - 1n;

/** What is left of all addresses by the two gaps for devices, of 1 and 256 GiB. */
const MAX_MEMORY_BYTES = MAX_U64 - (257n << 30n);

/** The largest offset in a file. */
const MAX_OFFSET = 2n ** 63n - 1n;

/** A refused InstanceStart; the microVM stays "Not started". */
export function startFault(cause: string, options: FaultOptions = {}): Fault {
  if (NO_MEMORY.test(cause)) return memoryFault();
  return new Fault(`Start microvm error: ${cause}`, { debug: `Internal(${debugText(cause)})`, ...options });
}

function memoryFault(): Fault {
  const error = systemError('ENOMEM');
  return new Fault(
    `Start microvm error: Invalid Memory Configuration: Cannot create mmap region: ${ioErrorText(error)}`,
    { debug: `GuestMemory(MmapRegionError(Mmap(${ioErrorDebug(error)})))` },
  );
}

/**
 * The guest's memory in bytes. Firecracker counts it in 64 bits, whatever was asked for.
 * @throws Fault, or Panic when nothing is left of it
 */
function memoryBytes(mib: number, log: Pick<ThreadLog, 'warn'>): bigint {
  const bytes = BigInt.asUintN(64, asU64(mib) << 20n);
  if (bytes === 0n) throw new Panic('Attempt to allocate guest memory of length 0');
  if (bytes > MAX_MEMORY_BYTES) {
    const limit = `architectural maximum (1022GiB). Size has been truncated to ${MAX_MEMORY_BYTES}`;
    log.warn(`Requested memory size ${bytes} exceeds ${limit}`);
  }
  if (bytes >= MAX_OFFSET) {
    const cause = 'Total sum of memory regions exceeds largest possible file offset';
    throw new Fault(`Start microvm error: Invalid Memory Configuration: ${cause}`, {
      debug: 'GuestMemory(OffsetTooLarge)',
    });
  }
  if (bytes >= ADDRESS_SPACE_BYTES) throw memoryFault();
  return bytes;
}

/** @throws Fault when Firecracker would not load kernel or initrd */
function checkBootFiles({ kernel_image_path, initrd_path }: StoredBootSource, memory: bigint): void {
  let problem: BootProblem | undefined;
  try {
    problem = kernelProblem(kernel_image_path, memory);
    if (!problem && initrd_path !== null) problem = initrdProblem(initrd_path, memory);
  } catch (error) {
    // Firecracker has both open since they were configured
    throw startFault(`The kernel or initrd is gone: ${ioErrorText(error)}`);
  }
  if (problem) throw startFault(problem.text, { debug: problem.debug });
}

/**
 * The machine for the configured microVM.
 * @throws Fault
 */
export async function planStart(resources: Resources, options: StartOptions): Promise<QemuSpec> {
  const { bootSource, machine, drives, interfaces, entropy, balloon, vsock } = resources;
  if (!bootSource) {
    throw startFault('Cannot start microvm without kernel configuration.', { debug: 'MissingKernelConfig' });
  }
  checkBootFiles(bootSource, memoryBytes(machine.mem_size_mib, options.log));
  const single = [entropy, balloon.config, vsock.config].filter((device) => device !== null);
  const devices = drives.list.length + interfaces.list.length + single.length;
  if (devices > MAX_VIRTIO_DEVICES) {
    throw startFault(
      'Could not attach device: MMIO transport error: Failed to allocate requested resource: ' +
        'The requested resource is not available.',
      { debug: 'AttachDevice(MmioTransport(Allocator(ResourceNotAvailable)))' },
    );
  }
  const accelerator = await accelerate(options, bootSource.kernel_image_path);
  // other ELF files are refused when they are configured
  options.log.debug('Kernel loaded using PVH boot protocol');
  const root = drives.root && { partuuid: drives.root.partuuid, readOnly: drives.root.is_read_only };
  const commandLine = composeCommandLine({
    bootArgs: bootSource.boot_args,
    root,
    devices,
    devicesBeforeRoot: balloon.config ? 1 : 0,
    extra: emulationArguments(accelerator),
  });
  if ('problem' in commandLine) throw startFault(commandLine.problem, { debug: commandLine.debug });
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
    drives: drives.list.map(qemuDrive),
    interfaces: interfaces.list.map((iface) => ({ ...iface, mac: iface.guest_mac ?? randomMac() })),
    announces: false,
    entropy,
    balloon: balloon.config,
    vsock: vsock.config,
    sandbox: options.sandbox,
    restore: false,
  };
}

async function accelerate({ accelerators }: StartOptions, kernelPath: string): Promise<Accelerator> {
  try {
    return await accelerators.choose(kernelPath);
  } catch (error) {
    throw startFault(error instanceof Error ? error.message : String(error));
  }
}

/**
 * No timer of QEMU's microvm interrupts a guest before its local APIC's does, so a kernel that could not measure its TSC
 * against the i8254, as is common on a busy host, waits for a tick for ever. TCG hands the host's TSC to the guest, so
 * its frequency is known. The APIC's timer is the other half: see timer-watch.ts.
 */
export function emulationArguments(accelerator: Accelerator): string[] {
  if (accelerator !== 'tcg') return [];
  const bogomips = Number(/^bogomips\s*:\s*([\d.]+)/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1]);
  // reliable: the emulated timer the kernel would check the TSC against is the worse clock of the two
  return bogomips > 0 ? [`tsc_early_khz=${Math.round((bogomips / 2) * 1000)}`, 'tsc=reliable'] : [];
}

function qemuDrive(drive: StoredDrive): QemuDrive {
  const stat = statSync(drive.path_on_host, { bigint: true });
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
