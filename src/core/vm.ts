/** What banger knows of a VM: its record, and what is seen of it on the host. */
import type { ProcessRequest } from './guest-process.ts';
import type { LastEnd } from './run-end.ts';

/** What the daemon last decided about a VM; only `running` needs the host to agree. */
export type VmPhase =
  | 'creating'
  | 'stopped'
  | 'starting'
  | 'running'
  | 'stopping'
  /** its memory is being written to disk */
  | 'suspending'
  /** its memory is beside its disks, and nothing of it is on the host besides */
  | 'suspended'
  /** it is about to go on from that memory */
  | 'resuming'
  | 'failed';

/** One step of a start, for the boot timeline. */
export interface TimelineStep {
  step: string;
  /** `ms` from the beginning of the start */
  startedMs: number;
  /** `ms` */
  durationMs: number;
}

/** What happens when a VM ends without being asked to. */
export type RestartPolicy = 'never' | 'on-failure' | 'always';

/** What a run was started with; the record may have been changed since. */
export interface RunValues {
  hostname: string;
  vcpus: number;
  memoryMib: number;
}

/** What a guest said when its boot was over. */
export interface Ready {
  /** `ms` from the start request until then */
  ms: number;
  /** units of its init that had failed */
  failedUnits: string[];
}

/** The VM that another began as. */
export interface ForkedFrom {
  id: string;
  /** its name then */
  name: string;
}

/** The memory of a VM that is suspended, beside the disks that it belongs to. */
export interface SavedMemory {
  /** the manifest beside the memory has the same */
  id: string;
  /** ISO 8601, when the guest was held */
  at: string;
  /** what its files take of the host's disk, in bytes */
  bytes: number;
  /**
   * boot of the host on which a guest went on from it: its disks may have been written since, and never is a memory older
   * than its disks used; null before
   */
  spentOn: string | null;
}

/** Automatic restarts since the VM last ran for a while. */
export interface RestartState {
  attempts: number;
  /** ISO 8601, when the next one is due; null while one is under way */
  nextAt: string | null;
}

/** What makes a VM a temporary one. */
export interface Temporary {
  /** id of the lease it is made under; it goes when that ends */
  lease: string;
  /** process id of the client that holds the lease, as far as it said */
  holder: number | null;
  /** name under which its work disk was kept before and is kept again, null when it has one of its own */
  keptDisk: string | null;
}

/** Why the daemon holds a VM that runs. */
export interface Paused {
  /** ISO 8601 */
  at: string;
  /** a sentence */
  why: string;
  /** when it goes on by itself: the end of a sentence that begins with "It goes on" */
  until: string;
}

export interface VmRecord {
  /** 8 hexadecimal digits, unchanged for the life of the VM */
  id: string;
  /** DNS label, unique */
  name: string;
  /** name of the image or bundle the VM was made from */
  image: string;
  /** id of the image, null when it was made from a bundle */
  imageId: string | null;
  vcpus: number;
  memoryMib: number;
  rootDiskBytes: number;
  /** 0 = no work disk */
  workDiskBytes: number;
  /** IPv4 address from creation to deletion */
  address: string;
  mac: string;
  nat: boolean;
  /** whether the daemon starts it when the host comes up */
  autostart: boolean;
  restartPolicy: RestartPolicy;
  /** after so many `ms` without use it is suspended; 0 for never */
  idleSuspendMs: number;
  /** ISO 8601, until when it counts as used; null when nobody said so */
  awakeUntil: string | null;
  /** directory in the guest where the work disk is mounted */
  workDiskMount: string;
  /** user id that its programs run as; null before the first start by a daemon that has users for VMs */
  user: number | null;
  /** SSH host key in OpenSSH's private format, made by the host */
  hostKeyPrivate: string;
  /** `ssh-ed25519 AAAA…` */
  hostKeyPublic: string;
  /** ISO 8601 */
  createdAt: string;
  phase: VmPhase;
  /** why the phase is `failed` */
  failure: string | null;
  /** ISO 8601, null unless running */
  startedAt: string | null;
  /** which VMM runs it, null unless running */
  vmm: 'firecracker' | 'fcqemu' | null;
  bootTimeline: TimelineStep[];
  /** `ms` from the start request to the first SSH login of the last start */
  bootMs: number | null;
  /** what the guest said when it was ready; null until then */
  ready: Ready | null;
  /** what the last run was started with, null before the first one */
  run: RunValues | null;
  /** null when nothing was restarted since a person last started or stopped it */
  restarts: RestartState | null;
  /** the last end of a run that nobody wanted, null when there was none */
  lastEnd: LastEnd | null;
  /** null for one that stays until it is deleted */
  temporary: Temporary | null;
  /** null for one that was made from an image or bundle */
  forkedFrom: ForkedFrom | null;
  /** null unless it is suspended, or just going on from it */
  memory: SavedMemory | null;
  /** why its guest stands still; null unless the daemon holds it. Its phase is `running` meanwhile */
  paused: Paused | null;
  /** 32 hexadecimal digits for a VM whose root disk has another one's; null where the guest makes its own */
  machineId: string | null;
  /** what its image's process was asked to be; null for what the image says, and for images that have none */
  process: ProcessRequest | null;
}

/** Phases of a VM whose guest lives, be it on disk: its name is known and what its run was started with counts. */
export function hasGuest({ phase }: Pick<VmRecord, 'phase'>): boolean {
  return phase === 'running' || phase === 'suspending' || phase === 'suspended' || phase === 'resuming';
}

/** What people are shown as its state. */
export function shownState({ phase, paused }: Pick<VmRecord, 'phase' | 'paused'>): VmPhase | 'paused' {
  return phase === 'running' && paused !== null ? 'paused' : phase;
}

/** Host network device of a VM; derived from the id so that a leftover can be traced. */
export function tapName(vmId: string): string {
  return `bgr-${vmId}`;
}

/** Whether a device of that name is a VM's, of whichever banger. */
export function isTapName(name: string | undefined): boolean {
  return /^bgr-[0-9a-f]{8}$/.test(name ?? '');
}

/** Locally administered unicast MAC that carries the VM's address, as Firecracker's own examples do. */
export function macFor(address: string): string {
  return ['06', '00', ...octets(address)].join(':');
}

/** MAC of the host's end of the link to a VM. */
export function hostMacFor(address: string): string {
  return ['02', '00', ...octets(address)].join(':');
}

function octets(address: string): string[] {
  return address.split('.').map((octet) => Number(octet).toString(16).padStart(2, '0'));
}
