/** What can be configured: the shape every other part of banger reads, and a new VM's defaults. */
import { DEFAULT_WORK_MOUNT } from '../core/work-mount.ts';
import { GIB } from '../units.ts';

export interface Config {
  /** which process runs VMs; `auto` takes Firecracker where KVM passes its self-test */
  vmm: 'auto' | 'firecracker' | 'fcqemu';
  paths: PathsConfig;
  programs: ProgramsConfig;
  releases: ReleasesConfig;
  bundle: BundleConfig;
  vm: VmConfig;
  network: NetworkConfig;
  storage: StorageConfig;
  warm: WarmConfig;
  pool: {
    /** VMMs that are launched before a VM needs one */
    ready: number;
  };
  dns: DnsConfig;
  metrics: MetricsConfig;
  daemon: DaemonConfig;
  privilege: {
    /** whether single programs may be asked for with `sudo -n` when the user is not root */
    sudo: 'auto' | 'never';
    /** socket of the network helper, or `never` */
    helper: string;
    /** users of VMs when the daemon is root's: `auto`, `none`, or a range `FIRST-LAST` */
    vmUsers: string;
  };
  limits: {
    /** how long a guest may take to answer over SSH, in `ms` */
    bootTimeoutMs: number;
    readyTimeoutMs: number;
    /** how long a guest may take to shut down before it is killed, in `ms` */
    stopTimeoutMs: number;
    /** how long a deleted VM can be had back, in `ms`; 0 = not at all */
    trashForMs: number;
  };
}

/** Directories, all absolute. */
export interface PathsConfig {
  /** database, keys, logs */
  state: string;
  /** what can be made again */
  cache: string;
  /** sockets and process files; decided by the environment only, never by a file */
  run: string;
  /** disks of images and VMs */
  store: string;
  /** runtime bundles, one directory each */
  bundles: string;
}

/** Host programs, each a name looked up in PATH or an absolute path. */
export interface ProgramsConfig {
  firecracker: string;
  /** `auto` is the one beside the banger executable */
  fcqemu: string;
  qemu: string;
  ssh: string;
  ip: string;
  nft: string;
  sysctl: string;
  mke2fs: string;
  e2fsck: string;
  resize2fs: string;
  debugfs: string;
  tar: string;
  zstd: string;
  xz: string;
  lz4: string;
  cp: string;
  sudo: string;
  mmdebstrap: string;
  skopeo: string;
}

/** Where programs are fetched from. */
export interface ReleasesConfig {
  /** URL to which `/vVERSION/FILE` is added */
  firecracker: string;
}

/** Which bundle VMs boot from; a single path given here replaces that part of it. */
export interface BundleConfig {
  /** name of a bundle below `paths.bundles` or the absolute path of one */
  default: string;
  kernel?: string;
  initrd?: string;
  rootfs?: string;
}

/** Everything a new VM is set to. */
export interface VmDefaults {
  vcpus: number;
  /** in `MiB` */
  memoryMib: number;
  /** in `bytes` */
  rootDiskBytes: number;
  /** in `bytes` */
  workDiskBytes: number;
  /** directory in the guest, see `workMountProblem` */
  workMount: string;
  /** added to the kernel command line */
  bootArgs: string;
}

/** Settings of a new VM; what is unset comes from the bundle, see `vmDefaults`. */
export type VmConfig = { [K in keyof VmDefaults]?: VmDefaults[K] | undefined };

export interface NetworkConfig {
  /** IPv4 range of the VMs in CIDR notation; `auto` takes the first usual one no route of this host covers */
  pool: string;
  /** interface that leads to the outside; `auto` is the one of the default route */
  uplink: string;
  /** whether VMs of this host may talk to each other */
  vmToVm: boolean;
  /** whether VMs may reach what listens on this host, besides its answers to names and echo */
  vmToHost: boolean;
  /** DNS servers for guests; empty means banger's own listener */
  nameservers: string[];
}

export interface StorageConfig {
  /** room on the store below which no VM is started, in `bytes` */
  minFreeBytes: number;
  /** how long a stop may take longer to give free space back to the host, in `ms`; 0 for never */
  trimTimeoutMs: number;
}

/** Templates, from which new VMs start. */
export interface WarmConfig {
  /** whether one is made in the background after the first boot of an image */
  automatic: boolean;
  /** how many are kept at most */
  templates: number;
  /** what all of them may take of the store, in `bytes` */
  roomBytes: number;
}

export interface DnsConfig {
  enabled: boolean;
  /** address to listen on */
  address: string;
  /** UDP and TCP port to listen on */
  port: number;
  /** zone of the VM names, without a trailing dot */
  zone: string;
  ttlSeconds: number;
}

export interface DaemonConfig {
  /** after how long without any need for it a daemon ends that systemd starts again, in `ms`; 0 for never */
  idleTimeoutMs: number;
}

export interface MetricsConfig {
  /** whether Prometheus may also ask over TCP, on 127.0.0.1 */
  listen: boolean;
  /** TCP port it asks on */
  port: number;
}

/** Defaults of a new VM with nothing left open. */
/** What a VM gets when neither configuration nor bundle says otherwise. */
const BUILT_IN_VM_DEFAULTS: VmDefaults = {
  vcpus: 1,
  memoryMib: 1024,
  rootDiskBytes: 8 * GIB,
  workDiskBytes: 8 * GIB,
  workMount: DEFAULT_WORK_MOUNT,
  bootArgs: '',
};

/** Defaults of a new VM: configuration before bundle before built-in. */
export function vmDefaults(config: Pick<Config, 'vm'>, bundleDefaults: VmConfig = {}): VmDefaults {
  return { ...BUILT_IN_VM_DEFAULTS, ...withoutUnset(bundleDefaults), ...withoutUnset(config.vm) };
}

function withoutUnset(values: VmConfig): Partial<VmDefaults> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}
