/**
 * The metrics file: one JSON object per line, counters as differences since the line before. Groups and
 * names are Firecracker's; what QEMU does not tell stays zero.
 */
import { ioErrorText } from './fault.ts';
import { openSink, type Sink } from './sink.ts';

/** Time between two lines. */
const PERIOD_MS = 60_000;

const REQUESTS = ['count', 'fails'];

/** Groups of counters in the order Firecracker writes them; a name with `_agg` is a group of three times of its own. */
const GROUPS: Record<string, string[]> = {
  api_server: ['process_startup_time_us', 'process_startup_time_cpu_us'],
  balloon: [
    ...['activate_fails', 'inflate_count', 'stats_updates_count', 'stats_update_fails', 'deflate_count', 'event_fails'],
    ...named(['free_page_report', 'free_page_hint'], ['count', 'freed', 'fails']),
  ],
  block: [
    ...['activate_fails', 'cfg_fails', 'no_avail_buffer', 'event_fails', 'execute_fails', 'invalid_reqs_count'],
    ...['flush_count', 'queue_event_count', 'rate_limiter_event_count', 'update_count', 'update_fails'],
    ...['read_bytes', 'write_bytes', 'read_count', 'write_count', 'read_agg', 'write_agg'],
    ...['rate_limiter_throttled_events', 'io_engine_throttled_events', 'remaining_reqs_count'],
  ],
  deprecated_api: ['deprecated_http_api_calls'],
  get_api_requests: named(['instance_info', 'machine_cfg', 'mmds', 'vmm_version', 'hotplug_memory'], ['count']),
  i8042: ['error_count', 'missed_read_count', 'missed_write_count', 'read_count', 'reset_count', 'write_count'],
  uart: [
    ...['error_count', 'flush_count', 'missed_read_count', 'missed_write_count', 'read_count', 'write_count'],
    'rate_limiter_dropped_bytes',
  ],
  latencies_us: latencyNames(),
  logger: ['missed_metrics_count', 'metrics_fails', 'missed_log_count', 'rate_limited_log_count'],
  mmds: [
    ...['rx_accepted', 'rx_accepted_err', 'rx_accepted_unusual', 'rx_bad_eth', 'rx_invalid_token', 'rx_no_token'],
    ...['rx_count', 'tx_bytes', 'tx_count', 'tx_errors', 'tx_frames', 'connections_created', 'connections_destroyed'],
  ],
  net: [
    ...['activate_fails', 'cfg_fails', 'mac_address_updates', 'no_rx_avail_buffer', 'no_tx_avail_buffer'],
    ...['event_fails', 'rx_queue_event_count', 'rx_event_rate_limiter_count', 'rx_rate_limiter_throttled'],
    ...['rx_tap_event_count', 'rx_bytes_count', 'rx_packets_count', 'rx_fails', 'rx_count', 'tap_read_fails'],
    ...['tap_write_fails', 'tap_write_agg', 'tx_bytes_count', 'tx_malformed_frames', 'tx_fails', 'tx_count'],
    ...['tx_packets_count', 'tx_queue_event_count', 'tx_rate_limiter_event_count', 'tx_rate_limiter_throttled'],
    ...['tx_spoofed_mac_count', 'tx_remaining_reqs_count'],
  ],
  patch_api_requests: named(['drive', 'network', 'machine_cfg', 'mmds', 'hotplug_memory', 'pmem'], REQUESTS),
  put_api_requests: named(
    [
      ...['actions', 'boot_source', 'drive', 'logger', 'machine_cfg', 'cpu_cfg', 'metrics', 'network', 'mmds', 'vsock'],
      ...['pmem', 'serial', 'hotplug_memory'],
    ],
    REQUESTS,
  ),
  seccomp: ['num_faults'],
  vcpu: [
    ...['exit_io_in', 'exit_io_out', 'exit_mmio_read', 'exit_mmio_write', 'failures', 'kvmclock_ctrl_fails'],
    ...['exit_io_in_agg', 'exit_io_out_agg', 'exit_mmio_read_agg', 'exit_mmio_write_agg'],
  ],
  vmm: ['panic_count'],
  signals: ['sigbus', 'sigsegv', 'sigxfsz', 'sigxcpu', 'sigpipe', 'sighup', 'sigill'],
  vsock: [
    ...['activate_fails', 'cfg_fails', 'rx_queue_event_fails', 'tx_queue_event_fails', 'ev_queue_event_fails'],
    ...['muxer_event_fails', 'conn_event_fails', 'rx_queue_event_count', 'tx_queue_event_count', 'rx_bytes_count'],
    ...['tx_bytes_count', 'rx_packets_count', 'tx_packets_count', 'conns_added', 'conns_killed', 'conns_removed'],
    ...['killq_resync', 'tx_flush_fails', 'tx_write_fails', 'rx_read_fails'],
  ],
  entropy: [
    ...['activate_fails', 'entropy_event_fails', 'entropy_event_count', 'entropy_bytes', 'host_rng_fails'],
    ...['entropy_rate_limiter_throttled', 'rate_limiter_event_count'],
  ],
  pmem: [
    ...['activate_fails', 'cfg_fails', 'event_fails', 'queue_event_count', 'rate_limiter_throttled_events'],
    'rate_limiter_event_count',
  ],
  interrupts: ['triggers', 'config_updates'],
  memory_hotplug: [
    ...['activate_fails', 'queue_event_fails', 'queue_event_count', 'plug_agg', 'plug_count', 'plug_bytes'],
    ...['plug_fails', 'unplug_agg', 'unplug_count', 'unplug_bytes', 'unplug_fails', 'unplug_discard_fails'],
    ...['unplug_all_agg', 'unplug_all_count', 'unplug_all_fails', 'state_agg', 'state_count', 'state_fails'],
  ],
};

/** Groups whose values are measurements, written as they are. */
const ABSOLUTE = new Set(['api_server', 'latencies_us']);

/** Current totals, by group and counter. */
export type Totals = Record<string, Record<string, number>>;

/** Adds the counters of one device to its own group and to the group of all devices of its kind. */
export function addDevice(totals: Totals, kind: string, id: string, counters: Record<string, number>): void {
  const sum = totals[kind] ?? {};
  for (const [name, value] of Object.entries(counters)) sum[name] = (sum[name] ?? 0) + value;
  totals[kind] = sum;
  totals[`${kind}_${id}`] = counters;
}

export class Metrics {
  readonly #totals = new Map<string, number>();
  readonly #written = new Map<string, number>();
  #sink: Sink | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** asked for devices' own totals before each line */
  collect: () => Promise<Totals> = async () => ({});

  /** Counts one event. */
  count(group: string, counter: string, amount = 1): void {
    const key = `${group}.${counter}`;
    this.#totals.set(key, (this.#totals.get(key) ?? 0) + amount);
  }

  /** Sets a measurement. */
  store(group: string, name: string, value: number): void {
    this.#totals.set(`${group}.${name}`, value);
  }

  /**
   * Opens the file or FIFO.
   * @throws Error with Firecracker's words, also when called a second time
   */
  configure(path: string): void {
    let sink: Sink;
    try {
      sink = openSink(path);
    } catch (error) {
      throw new Error(ioErrorText(error));
    }
    if (this.#sink) {
      sink.close();
      throw new Error('Reinitialization of metrics not allowed.');
    }
    this.#sink = sink;
  }

  /** Writes the first line and then one every minute while the guest runs. */
  async start(): Promise<void> {
    if (!this.#sink) return;
    await this.flush();
    this.resumeTimer();
  }

  /** The timer stands still while the guest is paused. */
  pauseTimer(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  resumeTimer(): void {
    if (!this.#sink || this.#timer) return;
    this.#timer = setInterval(() => void this.flush(), PERIOD_MS);
    this.#timer.unref();
  }

  /** Writes one line now; without a file it succeeds and does nothing. */
  async flush(): Promise<void> {
    if (this.#sink) this.writeNow(await this.collect().catch(() => ({})));
  }

  /** Writes one line with what is known at once, before the process dies. */
  writeNow(devices: Totals = {}): void {
    if (!this.#sink) return;
    const line = Buffer.from(`${JSON.stringify(this.#line(devices))}\n`);
    if (this.#sink.write(line) < line.length) this.count('logger', 'missed_metrics_count');
  }

  #line(devices: Totals): Record<string, unknown> {
    const line: Record<string, unknown> = { utc_timestamp_ms: Date.now() };
    for (const [kind, names] of Object.entries(GROUPS)) {
      // devices come before the sum of their kind, and have its names
      for (const group of Object.keys(devices).filter((name) => name.startsWith(`${kind}_`) && !(name in GROUPS))) {
        line[group] = this.#group(group, names, devices[group]);
      }
      line[kind] = this.#group(kind, names, devices[kind]);
    }
    return line;
  }

  #group(group: string, names: string[], fromDevice: Record<string, number> | undefined): Record<string, unknown> {
    return Object.fromEntries(
      names.map((name) => {
        const value = this.#value(group, name, fromDevice?.[name]);
        // of single requests QEMU does not tell
        return [name, name.endsWith('_agg') ? { min_us: 0, max_us: 0, sum_us: value } : value];
      }),
    );
  }

  #value(group: string, name: string, fromDevice: number | undefined): number {
    const key = `${group}.${name}`;
    const total = (this.#totals.get(key) ?? 0) + (fromDevice ?? 0);
    if (ABSOLUTE.has(group)) return total;
    const before = this.#written.get(key) ?? 0;
    this.#written.set(key, total);
    return Math.max(0, total - before);
  }
}

function named(subjects: string[], suffixes: string[]): string[] {
  return subjects.flatMap((subject) => suffixes.map((suffix) => `${subject}_${suffix}`));
}

function latencyNames(): string[] {
  const names = ['full_create_snapshot', 'diff_create_snapshot', 'load_snapshot', 'pause_vm', 'resume_vm'];
  return [...names, ...names.map((name) => `vmm_${name}`)];
}
