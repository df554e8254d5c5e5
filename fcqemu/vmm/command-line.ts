/** The kernel command line: the client's arguments plus what Firecracker adds, within its 2048 bytes. */

/** Used when the client gives no `boot_args`. No console: a client that wants one says so. */
const DEFAULT_ARGUMENTS =
  'reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce';

/** Bytes including the terminating NUL. */
const MAX_BYTES = 2048;

const TOO_LONG = 'Inserting string would make command line too long.';

/**
 * What Firecracker adds for each virtio device, whose addresses and interrupts are numbered. QEMU tells the guest
 * of its devices in another way, but a command line that is too long for Firecracker is too long here.
 */
const DEVICE_BYTES = 'virtio_mmio.device=4K@0xc0001000:5'.length;
/** Interrupts begin at 5: the sixth device has one with two digits. */
const DEVICES_WITH_ONE_DIGIT = 5;

/** Arguments that would take the virtio interrupts away: they arrive through the second I/O APIC of microvm. */
const FATAL_ON_MICROVM = new Set(['noapic', 'acpi=off']);

export interface RootDevice {
  partuuid: string | null;
  readOnly: boolean;
}

/** @returns what is wrong with client arguments, in linux-loader's words; undefined when they are fine */
export function bootArgsProblem(bootArgs: string): string | undefined {
  const { forKernel, forInit } = divided(bootArgs);
  const length = Buffer.byteLength(forKernel + forInit);
  return length >= MAX_BYTES ? 'Invalid cmdline capacity provided.' : undefined;
}

export interface CommandLineOptions {
  /** the client's arguments */
  bootArgs: string | null;
  root?: RootDevice | undefined;
  /** how many virtio devices the machine has, and how many of them come before the root drive */
  devices: number;
  devicesBeforeRoot: number;
  /** what the emulator needs, which does not count against the limit */
  extra: string[];
}

export interface CommandLine {
  text: string;
  /** arguments of the client that were left out because no guest could use its devices with them */
  dropped: string[];
}

/** Where a command line became too long, in Firecracker's words. */
export interface CommandLineProblem {
  problem: string;
  debug: string;
}

/** Composes the guest's command line; text behind ` -- ` stays last because it is for init. */
export function composeCommandLine(options: CommandLineOptions): CommandLine | CommandLineProblem {
  const { forKernel, forInit } = divided(options.bootArgs ?? DEFAULT_ARGUMENTS);
  const added = ['pci=off', ...rootArguments(options.root)];
  const problem = lengthProblem(Buffer.byteLength(forKernel), Buffer.byteLength(forInit), options);
  if (problem) return problem;
  const words = forKernel.split(' ').filter(Boolean);
  const dropped = words.filter((word) => FATAL_ON_MICROVM.has(word));
  const kept = dropped.length > 0 ? words.filter((word) => !FATAL_ON_MICROVM.has(word)).join(' ') : forKernel;
  return { text: [kept, ...added, ...options.extra].filter(Boolean).join(' ') + forInit, dropped };
}

function rootArguments(root: RootDevice | undefined): string[] {
  if (!root) return [];
  return [root.partuuid === null ? 'root=/dev/vda' : `root=PARTUUID=${root.partuuid}`, root.readOnly ? 'ro' : 'rw'];
}

/** Adds one argument after the other, as Firecracker does, to find the one that does not fit any more. */
function lengthProblem(
  kernelBytes: number,
  initBytes: number,
  { root, devices, devicesBeforeRoot }: CommandLineOptions,
): CommandLineProblem | undefined {
  let length = kernelBytes;
  const fits = (bytes: number) => {
    length += (length === 0 ? 0 : 1) + bytes;
    return length + initBytes < MAX_BYTES;
  };
  const device = (index: number) => fits(DEVICE_BYTES + (index < DEVICES_WITH_ONE_DIGIT ? 0 : 1));
  const others = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at).every(device);
  const tooLong = { problem: `Invalid kernel command line: ${TOO_LONG}`, debug: `KernelCmdline("${TOO_LONG}")` };
  const noRoom = {
    problem: `Could not attach device: MMIO transport error: Failed to allocate requested resourc: ${TOO_LONG}`,
    debug: 'AttachDevice(MmioTransport(Cmdline(TooLarge)))',
  };
  if (!fits('pci=off'.length)) return tooLong;
  if (!others(0, devicesBeforeRoot)) return noRoom;
  if (!rootArguments(root).every((argument) => fits(Buffer.byteLength(argument)))) return tooLong;
  return others(devicesBeforeRoot, devices) ? undefined : noRoom;
}

function divided(bootArgs: string): { forKernel: string; forInit: string } {
  const separator = bootArgs.indexOf(' -- ');
  const init = separator === -1 ? '' : bootArgs.slice(separator + 4).trim();
  return {
    forKernel: (separator === -1 ? bootArgs : bootArgs.slice(0, separator)).trim(),
    forInit: init && ` -- ${init}`,
  };
}
