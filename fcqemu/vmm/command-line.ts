/** The kernel command line: the client's arguments plus what Firecracker adds, within its 2048 bytes. */

/** Used when the client gives no `boot_args`. No console: a client that wants one says so. */
const DEFAULT_ARGUMENTS =
  'reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce';

/** Bytes including the terminating NUL. */
const MAX_BYTES = 2048;

/** Arguments that would take the virtio interrupts away: they arrive through the second I/O APIC of microvm. */
const FATAL_ON_MICROVM = new Set(['noapic', 'acpi=off']);

export interface RootDevice {
  partuuid: string | null;
  readOnly: boolean;
}

/** @returns what is wrong with client arguments, in linux-loader's words; undefined when they are fine */
export function bootArgsProblem(bootArgs: string): string | undefined {
  if (!/^[ -~]*$/.test(bootArgs)) return 'String contains a non-printable ASCII character.';
  if (bootArgs.length >= MAX_BYTES) return 'Inserting string would make command line too long.';
  return undefined;
}

export interface CommandLine {
  text: string;
  /** arguments of the client that were left out because no guest could use its devices with them */
  dropped: string[];
}

/**
 * Composes the guest's command line; text behind ` -- ` stays last because it is for init.
 * `extra` is what the emulator needs and does not count against the limit.
 * @returns undefined when it does not fit
 */
export function composeCommandLine(
  bootArgs: string | null,
  root: RootDevice | undefined,
  extra: string[],
): CommandLine | undefined {
  const given = bootArgs ?? DEFAULT_ARGUMENTS;
  const separator = given.indexOf(' -- ');
  const forKernel = separator === -1 ? given : given.slice(0, separator);
  const forInit = separator === -1 ? '' : given.slice(separator);
  const added = ['pci=off'];
  if (root) {
    added.push(root.partuuid === null ? 'root=/dev/vda' : `root=PARTUUID=${root.partuuid}`);
    added.push(root.readOnly ? 'ro' : 'rw');
  }
  const counted = [forKernel.trim(), ...added].filter(Boolean).join(' ') + forInit;
  if (counted.length >= MAX_BYTES) return undefined;

  const words = forKernel.split(' ').filter(Boolean);
  const dropped = words.filter((word) => FATAL_ON_MICROVM.has(word));
  const kept = dropped.length > 0 ? words.filter((word) => !FATAL_ON_MICROVM.has(word)).join(' ') : forKernel.trim();
  return { text: [kept, ...added, ...extra].filter(Boolean).join(' ') + forInit, dropped };
}
