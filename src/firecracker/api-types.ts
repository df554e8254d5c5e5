/**
 * Bodies of Firecracker's HTTP API (1.16), as plain data.
 * The only code the control plane shares with fcqemu. Absent and `undefined` mean the same; `null` only
 * occurs in answers.
 */

/** Id of a drive or network interface: letters, digits and underscores, no dash. */
export type ResourceId = string;

/** Answer to `GET /`. */
export interface InstanceInfo {
  /** value of `--id` */
  id: string;
  state: InstanceState;
  /** e.g. `1.16.1` */
  vmm_version: string;
  app_name: string;
}

export type InstanceState = 'Not started' | 'Running' | 'Paused';

/** Answer to `GET /version`. */
export interface FirecrackerVersion {
  firecracker_version: string;
}

/** Body of every error answer that is not a transport error. */
export interface ApiError {
  fault_message: string;
}

/** `PUT /actions` */
export interface InstanceActionInfo {
  action_type: ActionType;
}

export type ActionType = 'FlushMetrics' | 'InstanceStart' | 'SendCtrlAltDel';

/** `PATCH /vm` */
export interface VmState {
  state: 'Paused' | 'Resumed';
}

/** `PUT /boot-source` */
export interface BootSource {
  /** host path of an ELF vmlinux with a PVH note, or of a bzImage */
  kernel_image_path: string;
  initrd_path?: string | null;
  /** replaces the default command line completely; at most 2048 bytes with what the VMM adds */
  boot_args?: string | null;
}

export type CpuTemplate = 'C3' | 'T2' | 'T2S' | 'T2CL' | 'T2A' | 'V1N1' | 'None';
export type HugePages = 'None' | '2M';

/** `PUT /machine-config` and the answer to `GET /machine-config` */
export interface MachineConfiguration {
  /** 1-32; with `smt` 1 or even */
  vcpu_count: number;
  /** memory of the guest in `MiB` */
  mem_size_mib: number;
  smt?: boolean;
  /** deprecated upstream; only `None` is honoured everywhere */
  cpu_template?: CpuTemplate;
  track_dirty_pages?: boolean;
  huge_pages?: HugePages;
}

/** `PATCH /machine-config`; at least one field */
export type PartialMachineConfiguration = Partial<MachineConfiguration>;

/** Tokens refill at `size` per `refill_time`; size or refill time 0 means no limit. */
export interface TokenBucket {
  /** bytes or operations */
  size: number;
  /** `ms` to refill the whole bucket */
  refill_time: number;
  /** extra tokens at the very start */
  one_time_burst?: number | null;
}

export interface RateLimiter {
  /** bucket of bytes */
  bandwidth?: TokenBucket | null;
  /** bucket of operations */
  ops?: TokenBucket | null;
}

export type CacheType = 'Unsafe' | 'Writeback';
export type IoEngine = 'Sync' | 'Async';

/** `PUT /drives/{drive_id}`; all drives keep the order of their first PUT, the root drive comes first. */
export interface Drive {
  drive_id: ResourceId;
  is_root_device: boolean;
  /** host path of the image; required unless `socket` is given */
  path_on_host?: string | null;
  /** default false */
  is_read_only?: boolean | null;
  /** partition that holds the root file system; only read for the root device */
  partuuid?: string | null;
  /** default `Unsafe`: the guest's flushes are ignored */
  cache_type?: CacheType;
  rate_limiter?: RateLimiter | null;
  /** default `Sync` */
  io_engine?: IoEngine | null;
  /** socket of a vhost-user backend; excludes the virtio fields */
  socket?: string | null;
}

/** `PATCH /drives/{drive_id}`, only while running or paused */
export interface PartialDrive {
  drive_id: ResourceId;
  path_on_host?: string;
  rate_limiter?: RateLimiter;
}

/** `PUT /network-interfaces/{iface_id}`; the tap is opened during the request. */
export interface NetworkInterface {
  iface_id: ResourceId;
  /** name of the tap device, at most 15 characters */
  host_dev_name: string;
  /** e.g. `06:00:ac:10:00:02`; the guest picks a random one when absent */
  guest_mac?: string | null;
  /** MTU offered to the guest, 68-65535 */
  mtu?: number | null;
  rx_rate_limiter?: RateLimiter | null;
  tx_rate_limiter?: RateLimiter | null;
}

/** `PATCH /network-interfaces/{iface_id}` */
export interface PartialNetworkInterface {
  iface_id: ResourceId;
  rx_rate_limiter?: RateLimiter;
  tx_rate_limiter?: RateLimiter;
}

/** `PUT /vsock` */
export interface Vsock {
  /** context id of the guest, 3 or more */
  guest_cid: number;
  /** host socket the VMM listens on; guest connections to port P go to `<uds_path>_P` */
  uds_path: string;
  /** deprecated, ignored */
  vsock_id?: string;
}

/** `PUT /entropy` */
export interface EntropyDevice {
  rate_limiter?: RateLimiter | null;
}

/** `PUT /serial` */
export interface SerialDevice {
  /** file or FIFO for the console's output instead of standard output; also turns console input off */
  serial_out_path?: string;
  rate_limiter?: TokenBucket;
}

export type LogLevel = 'Off' | 'Trace' | 'Debug' | 'Info' | 'Warning' | 'Error';

/** `PUT /logger` */
export interface LoggerConfig {
  log_path?: string;
  /** case-insensitive; default `Info` */
  level?: LogLevel;
  show_level?: boolean;
  show_log_origin?: boolean;
  /** only messages from this module */
  module?: string;
}

/** `PUT /metrics` */
export interface MetricsConfig {
  metrics_path: string;
}

export type MmdsVersion = 'V1' | 'V2';

/** `PUT /mmds/config` */
export interface MmdsConfig {
  /** ids of interfaces whose guests may ask; at least one */
  network_interfaces: ResourceId[];
  /** default `V1`, which is deprecated */
  version?: MmdsVersion;
  /** link-local; default 169.254.169.254 */
  ipv4_address?: string | null;
  imds_compat?: boolean;
}

/** Contents of the metadata store: `GET`, `PUT` and `PATCH /mmds`. */
export type MmdsContents = Record<string, unknown>;

/** `PUT /balloon` and the answer to `GET /balloon` */
export interface Balloon {
  /** memory to take from the guest in `MiB` */
  amount_mib: number;
  deflate_on_oom: boolean;
  /** `s` between statistics, 0 for none */
  stats_polling_interval_s?: number;
  free_page_hinting?: boolean;
  free_page_reporting?: boolean;
}

/** `PATCH /balloon` */
export interface BalloonUpdate {
  amount_mib: number;
}

/** `PATCH /balloon/statistics` */
export interface BalloonStatsUpdate {
  stats_polling_interval_s: number;
}

/** Answer to `GET /balloon/statistics`; sizes in bytes unless the name says otherwise. */
export interface BalloonStats {
  /** pages of 4 KiB */
  target_pages: number;
  actual_pages: number;
  target_mib: number;
  actual_mib: number;
  swap_in?: number;
  swap_out?: number;
  major_faults?: number;
  minor_faults?: number;
  free_memory?: number;
  total_memory?: number;
  available_memory?: number;
  disk_caches?: number;
  hugetlb_allocations?: number;
  hugetlb_failures?: number;
  oom_kill?: number;
  alloc_stall?: number;
  async_scan?: number;
  direct_scan?: number;
  async_reclaim?: number;
  direct_reclaim?: number;
}

/** `PATCH /balloon/hinting/start` */
export interface BalloonStartCmd {
  acknowledge_on_stop?: boolean;
}

/** Answer to `GET /balloon/hinting/status` */
export interface BalloonHintingStatus {
  host_cmd: number;
  guest_cmd?: number;
}

export interface CpuidRegisterModifier {
  register: 'eax' | 'ebx' | 'ecx' | 'edx';
  /** `0b` and 32 of `0`, `1`, `x` */
  bitmap: string;
}

export interface CpuidLeafModifier {
  /** number as text, e.g. `0x1` */
  leaf: string;
  subleaf: string;
  flags: number;
  modifiers: CpuidRegisterModifier[];
}

export interface MsrModifier {
  /** number as text */
  addr: string;
  /** `0b` and 64 of `0`, `1`, `x`, `_` */
  bitmap: string;
}

/** `PUT /cpu-config`, x86 part */
export interface CpuConfig {
  /** e.g. `121`, or `!121` to remove it */
  kvm_capabilities?: string[];
  cpuid_modifiers?: CpuidLeafModifier[];
  msr_modifiers?: MsrModifier[];
}

/** `PUT /pmem/{id}` */
export interface Pmem {
  id: ResourceId;
  path_on_host: string;
  root_device?: boolean;
  read_only?: boolean;
  rate_limiter?: RateLimiter | null;
}

/** `PATCH /pmem/{id}` */
export interface PartialPmem {
  id: ResourceId;
  rate_limiter?: RateLimiter;
}

/** `PUT /hotplug/memory`; all sizes in `MiB` */
export interface MemoryHotplugConfig {
  total_size_mib: number;
  block_size_mib?: number;
  slot_size_mib?: number;
}

/** `PATCH /hotplug/memory` */
export interface MemoryHotplugSizeUpdate {
  requested_size_mib: number;
}

/** Answer to `GET /hotplug/memory` */
export interface MemoryHotplugStatus {
  total_size_mib: number;
  block_size_mib: number;
  slot_size_mib: number;
  plugged_size_mib: number;
  requested_size_mib: number;
}

/** `PUT /snapshot/create` */
export interface SnapshotCreateParams {
  /** file for the devices' state */
  snapshot_path: string;
  /** file for the guest's memory */
  mem_file_path: string;
  /** default `Full` */
  snapshot_type?: 'Full' | 'Diff';
}

export interface MemoryBackend {
  backend_type: 'File' | 'Uffd';
  /** memory file, or socket of the page fault handler */
  backend_path: string;
}

export interface NetworkOverride {
  iface_id: ResourceId;
  host_dev_name: string;
}

export interface VsockOverride {
  uds_path: string;
}

/** `PUT /snapshot/load`; exactly one of `mem_backend` and `mem_file_path` */
export interface SnapshotLoadParams {
  snapshot_path: string;
  mem_backend?: MemoryBackend;
  /** deprecated */
  mem_file_path?: string;
  track_dirty_pages?: boolean;
  /** deprecated name of `track_dirty_pages` */
  enable_diff_snapshots?: boolean;
  resume_vm?: boolean;
  network_overrides?: NetworkOverride[];
  /** since 1.16 */
  vsock_override?: VsockOverride;
  clock_realtime?: boolean;
}

/** Answer to `GET /vm/config`; what is not set is `null` or empty. */
export interface FullVmConfiguration {
  balloon: Balloon | null;
  drives: Drive[];
  'boot-source': BootSource | null;
  'cpu-config': CpuConfig | null;
  logger: LoggerConfig | null;
  'machine-config': MachineConfiguration | null;
  metrics: MetricsConfig | null;
  'mmds-config': MmdsConfig | null;
  'network-interfaces': NetworkInterface[];
  vsock: Vsock | null;
  entropy: EntropyDevice | null;
  pmem: Pmem[];
  'memory-hotplug': MemoryHotplugConfig | null;
}
