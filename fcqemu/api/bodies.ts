/**
 * Request bodies as Firecracker declares them: field order, types and defaults decide the error texts.
 * Names are those of the Rust structs, because messages contain them.
 */

import { JsonError } from '../json/scanner.ts';
import * as json from '../json/schema.ts';
import type { Level } from '../log.ts';

const tokenBucket = json.struct(
  'TokenBucketConfig',
  {
    size: json.required(json.unsigned('u64')),
    one_time_burst: json.optional(json.unsigned('u64')),
    refill_time: json.required(json.unsigned('u64')),
  },
  { lenient: true },
);

const rateLimiter = json.struct('RateLimiterConfig', {
  bandwidth: json.optional(tokenBucket),
  ops: json.optional(tokenBucket),
});

const macAddress: json.Read<string> = json.converted((text) => {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) throw new JsonError('The provided MAC address is invalid.');
  return text.toLowerCase();
});

const LEVELS: Record<string, Level> = {
  off: 'Off',
  trace: 'Trace',
  debug: 'Debug',
  info: 'Info',
  warn: 'Warn',
  warning: 'Warn',
  error: 'Error',
};

/** A level in any case; undefined when there is no such level. */
export function parseLevel(text: string): Level | undefined {
  const key = text.toLowerCase();
  return Object.hasOwn(LEVELS, key) ? LEVELS[key] : undefined;
}

const level: json.Read<Level> = json.converted((text) => {
  const known = parseLevel(text);
  if (known === undefined) throw new JsonError('Invalid LevelFilter');
  return known;
});

const ipv4Address: json.Read<string> = (reader) =>
  reader.positioned(() => {
    if (!reader.isString(reader.expectToken())) throw reader.invalidType('IPv4 address');
    const text = reader.string();
    const octets = text.split('.');
    const valid =
      octets.length === 4 && octets.every((octet) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) < 256);
    if (!valid) throw new JsonError('invalid IPv4 address syntax');
    return text;
  });

const cpuTemplate = json.oneOf('C3', 'T2', 'T2S', 'None', 'T2CL', 'T2A');
const hugePages = json.oneOf('None', '2M');

export const bootSource = json.struct('BootSourceConfig', {
  kernel_image_path: json.required(json.string),
  initrd_path: json.optional(json.string),
  boot_args: json.optional(json.string),
});

export const machineConfig = json.struct('MachineConfig', {
  vcpu_count: json.required(json.unsigned('u8')),
  mem_size_mib: json.required(json.unsigned('usize')),
  smt: json.defaulted(json.boolean, false),
  cpu_template: json.optional(cpuTemplate),
  track_dirty_pages: json.defaulted(json.boolean, false),
  huge_pages: json.defaulted(hugePages, 'None'),
});

export const machineConfigUpdate = json.struct('MachineConfigUpdate', {
  vcpu_count: json.defaulted(json.nullable(json.unsigned('u8')), null),
  mem_size_mib: json.defaulted(json.nullable(json.unsigned('usize')), null),
  smt: json.defaulted(json.nullable(json.boolean), null),
  cpu_template: json.defaulted(json.nullable(cpuTemplate), null),
  track_dirty_pages: json.defaulted(json.nullable(json.boolean), null),
  huge_pages: json.defaulted(json.nullable(hugePages), null),
});

export const drive = json.struct('BlockDeviceConfig', {
  drive_id: json.required(json.string),
  partuuid: json.optional(json.string),
  is_root_device: json.required(json.boolean),
  cache_type: json.defaulted(json.oneOf('Unsafe', 'Writeback'), 'Unsafe'),
  is_read_only: json.optional(json.boolean),
  path_on_host: json.optional(json.string),
  rate_limiter: json.optional(rateLimiter),
  io_engine: json.optional(json.oneOf('Async', 'Sync')),
  socket: json.optional(json.string),
});

export const driveUpdate = json.struct('BlockDeviceUpdateConfig', {
  drive_id: json.required(json.string),
  path_on_host: json.optional(json.string),
  rate_limiter: json.optional(rateLimiter),
});

export const networkInterface = json.struct('NetworkInterfaceConfig', {
  iface_id: json.required(json.string),
  host_dev_name: json.required(json.string),
  guest_mac: json.optional(macAddress),
  mtu: json.optional(json.unsigned('u16')),
  rx_rate_limiter: json.optional(rateLimiter),
  tx_rate_limiter: json.optional(rateLimiter),
});

export const networkUpdate = json.struct('NetworkInterfaceUpdateConfig', {
  iface_id: json.required(json.string),
  rx_rate_limiter: json.optional(rateLimiter),
  tx_rate_limiter: json.optional(rateLimiter),
});

export const pmem = json.struct('PmemConfig', {
  id: json.required(json.string),
  path_on_host: json.required(json.string),
  root_device: json.defaulted(json.boolean, false),
  read_only: json.defaulted(json.boolean, false),
  rate_limiter: json.optional(rateLimiter),
});

export const pmemUpdate = json.struct('PmemDeviceUpdateConfig', {
  id: json.required(json.string),
  rate_limiter: json.optional(rateLimiter),
});

export const vsock = json.struct('VsockDeviceConfig', {
  vsock_id: json.defaulted(json.nullable(json.string), null),
  guest_cid: json.required(json.unsigned('u32')),
  uds_path: json.required(json.string),
});

export const entropy = json.struct('EntropyDeviceConfig', { rate_limiter: json.optional(rateLimiter) });

export const serial = json.struct('SerialConfig', {
  serial_out_path: json.optional(json.path),
  rate_limiter: json.optional(tokenBucket),
});

export const logger = json.struct('LoggerConfig', {
  log_path: json.optional(json.path),
  level: json.optional(level),
  show_level: json.optional(json.boolean),
  show_log_origin: json.optional(json.boolean),
  module: json.optional(json.string),
});

export const metrics = json.struct('MetricsConfig', { metrics_path: json.required(json.path) }, { lenient: true });

export const mmdsConfig = json.struct('MmdsConfig', {
  version: json.defaulted(json.oneOf('V1', 'V2'), 'V1'),
  network_interfaces: json.required(json.list(json.string)),
  ipv4_address: json.optional(ipv4Address),
  imds_compat: json.defaulted(json.boolean, false),
});

export const balloon = json.struct('BalloonDeviceConfig', {
  amount_mib: json.required(json.unsigned('u32')),
  deflate_on_oom: json.required(json.boolean),
  stats_polling_interval_s: json.defaulted(json.unsigned('u16'), 0),
  free_page_hinting: json.defaulted(json.boolean, false),
  free_page_reporting: json.defaulted(json.boolean, false),
});

export const balloonUpdate = json.struct('BalloonUpdateConfig', { amount_mib: json.required(json.unsigned('u32')) });

export const balloonStatsUpdate = json.struct('BalloonUpdateStatsConfig', {
  stats_polling_interval_s: json.required(json.unsigned('u16')),
});

export const hintingStart = json.struct(
  'StartHintingCmd',
  { acknowledge_on_stop: json.defaulted(json.boolean, true) },
  { lenient: true },
);

export const memoryHotplug = json.struct('MemoryHotplugConfig', {
  total_size_mib: json.required(json.unsigned('usize')),
  block_size_mib: json.defaulted(json.unsigned('usize'), 2),
  slot_size_mib: json.defaulted(json.unsigned('usize'), 128),
});

export const memoryHotplugUpdate = json.struct('MemoryHotplugSizeUpdate', {
  requested_size_mib: json.required(json.unsigned('usize')),
});

export const snapshotCreate = json.struct('CreateSnapshotParams', {
  snapshot_type: json.defaulted(json.oneOf('Diff', 'Full'), 'Full'),
  snapshot_path: json.required(json.path),
  mem_file_path: json.required(json.path),
});

const memoryBackend = json.struct('MemBackendConfig', {
  backend_path: json.required(json.path),
  backend_type: json.required(json.oneOf('File', 'Uffd')),
});

const networkOverride = json.struct(
  'NetworkOverride',
  { iface_id: json.required(json.string), host_dev_name: json.required(json.string) },
  { lenient: true },
);

const vsockOverride = json.struct('VsockOverride', { uds_path: json.required(json.string) }, { lenient: true });

export const snapshotLoad = json.struct('LoadSnapshotConfig', {
  snapshot_path: json.required(json.path),
  mem_file_path: json.optional(json.path),
  mem_backend: json.optional(memoryBackend),
  enable_diff_snapshots: json.defaulted(json.boolean, false),
  track_dirty_pages: json.defaulted(json.boolean, false),
  resume_vm: json.defaulted(json.boolean, false),
  network_overrides: json.defaulted(json.list(networkOverride), []),
  vsock_override: json.optional(vsockOverride),
  clock_realtime: json.defaulted(json.boolean, false),
});

export const vmState = json.struct('Vm', { state: json.required(json.oneOf('Paused', 'Resumed')) });

export const instanceAction = json.struct('ActionBody', {
  action_type: json.required(json.oneOf('FlushMetrics', 'InstanceStart', 'SendCtrlAltDel')),
});

/** The file of `--config-file`; unknown sections are ignored, unknown fields inside a section are not. */
export const vmmConfig = json.struct(
  'VmmConfig',
  {
    balloon: json.optional(balloon),
    drives: json.required(json.list(drive)),
    'boot-source': json.required(bootSource),
    'cpu-config': json.optional(json.anything),
    logger: json.optional(logger),
    'machine-config': json.optional(machineConfig),
    metrics: json.optional(metrics),
    'mmds-config': json.optional(mmdsConfig),
    'network-interfaces': json.defaulted(json.list(networkInterface), []),
    vsock: json.optional(vsock),
    entropy: json.optional(entropy),
    pmem: json.defaulted(json.list(pmem), []),
    'memory-hotplug': json.optional(memoryHotplug),
  },
  { lenient: true },
);
