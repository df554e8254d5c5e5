/** Whether the memory of a guest that stands still can go on here and now: what was around it then and what is now. */

/** A file that is told apart from one that took its place. */
export interface FileMark {
  path: string;
  /** bytes */
  size: number;
  /** ISO 8601 */
  modifiedAt: string;
}

/** What of the host and of its programs a guest's memory depends on. */
export interface Fit {
  vmm: 'firecracker' | 'fcqemu';
  acceleration: 'kvm' | 'tcg';
  /** version of Firecracker, or of the QEMU below fcqemu */
  program: string;
  /** the host's processor as guests see it under KVM; null for emulated ones, which have the same everywhere */
  processor: string | null;
  /** release of the host's kernel, whose KVM holds part of the state; null for emulated guests */
  hostKernel: string | null;
  /** rate of the host's time stamp counter in MHz, by which an emulated guest counts time; null under KVM */
  tscMhz: number | null;
  /** kernel and initrd that the VM boots with */
  kernel: FileMark;
  initrd: FileMark | null;
  vcpus: number;
  memoryMib: number;
}

/** A counter that differs by less is the same one, measured again at another boot of the host. */
const TSC_TOLERANCE = 0.001;

const NAMES = { firecracker: 'Firecracker', fcqemu: 'QEMU' } as const;

/** What differs, each a clause; empty when the memory can go on. */
export function misfits(then: Fit, now: Fit): string[] {
  const found: string[] = [];
  const program = (fit: Fit) => `${NAMES[fit.vmm]} ${fit.program}`;
  if (program(then) !== program(now)) found.push(`it ran on ${program(then)}, now ${program(now)}`);
  if (then.acceleration !== now.acceleration) found.push(`it was ${how(then)}, and would be ${how(now)}`);
  else if (then.processor !== now.processor) {
    found.push(`the processor was ${then.processor ?? 'unknown'}, now ${now.processor ?? 'unknown'}`);
  }
  if (then.hostKernel !== null && now.hostKernel !== null && then.hostKernel !== now.hostKernel) {
    found.push(`the host's kernel was ${then.hostKernel}, now ${now.hostKernel}`);
  }
  if (then.tscMhz !== null && now.tscMhz !== null && !isNear(then.tscMhz, now.tscMhz)) {
    found.push(`the processor's clock ran at ${then.tscMhz} MHz, now at ${now.tscMhz} MHz`);
  }
  if (!sameFile(then.kernel, now.kernel)) found.push(`its kernel ${then.kernel.path} was replaced`);
  if (!sameFile(then.initrd, now.initrd)) {
    found.push(`its initrd ${then.initrd?.path ?? now.initrd?.path ?? ''} was replaced`);
  }
  if (then.vcpus !== now.vcpus) found.push(`it had ${then.vcpus} processors, and would have ${now.vcpus}`);
  if (then.memoryMib !== now.memoryMib) {
    found.push(`it had ${then.memoryMib} MiB of memory, and would have ${now.memoryMib} MiB`);
  }
  return found;
}

function how({ acceleration }: Fit): string {
  return acceleration === 'kvm' ? 'run by KVM' : 'emulated';
}

function isNear(a: number, b: number): boolean {
  return Math.abs(a - b) <= Math.max(a, b) * TSC_TOLERANCE;
}

/** Where it lies does not matter. */
function sameFile(a: FileMark | null, b: FileMark | null): boolean {
  return a === null || b === null ? a === b : a.size === b.size && a.modifiedAt === b.modifiedAt;
}
