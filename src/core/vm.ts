/** What banger knows of a VM: its record, and what is seen of it on the host. */

/** What the daemon last decided about a VM; only `running` needs the host to agree. */
export type VmPhase = 'creating' | 'stopped' | 'starting' | 'running' | 'stopping' | 'failed';

/** One step of a start, for the boot timeline. */
export interface TimelineStep {
  step: string;
  /** `ms` from the beginning of the start */
  startedMs: number;
  /** `ms` */
  durationMs: number;
}

export interface VmRecord {
  /** 8 hexadecimal digits, unchanged for the life of the VM */
  id: string;
  /** DNS label, unique */
  name: string;
  /** bundle the VM boots from */
  image: string;
  vcpus: number;
  memoryMib: number;
  rootDiskBytes: number;
  /** 0 = no work disk */
  workDiskBytes: number;
  /** IPv4 address from creation to deletion */
  address: string;
  mac: string;
  nat: boolean;
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
}

/** Host network device of a VM; derived from the id so that a leftover can be traced. */
export function tapName(vmId: string): string {
  return `bgr-${vmId}`;
}

/** Locally administered unicast MAC that carries the VM's address, as Firecracker's own examples do. */
export function macFor(address: string): string {
  const octets = address.split('.').map((octet) => Number(octet).toString(16).padStart(2, '0'));
  return ['06', '00', ...octets].join(':');
}
