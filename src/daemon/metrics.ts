/** What is counted, collected when somebody scrapes and at no other time. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Event } from '../api/event.ts';
import type { VmStats } from '../api/stats.ts';
import type { Host } from '../control/host.ts';
import type { StatsSampler } from '../control/stats/vm-stats.ts';
import { shownState } from '../core/vm.ts';
import { VERSION } from '../version.ts';
import { type Metric, renderMetrics, type Sample } from './exposition.ts';

export interface Metrics extends Disposable {
  /** All of it in Prometheus' text format. */
  scrape(): Promise<string>;
}

/** Further metrics of other parts of the daemon, read at each scrape. */
export type MetricSource = () => readonly Metric[];

export type MetricsHost = Pick<Host, 'stores' | 'operations' | 'events'>;

const STATES = [
  ...[
    'creating',
    'stopped',
    'starting',
    'running',
    'stopping',
    'suspending',
    'suspended',
    'resuming',
    'paused',
    'failed',
  ],
] as const;

export function createMetrics(
  host: MetricsHost,
  sampler: StatsSampler,
  sources: readonly MetricSource[] = [],
): Metrics {
  const operations = createTally('kind', 'state');
  const boots = createTally('result');
  const stopListening = host.events.onEvent((event) => {
    if (event.type === 'operation.ended') operations.count(event.kind, event.state);
    const result = bootResult(event);
    if (result) boots.count(result);
  });
  let scraping: Promise<string> | undefined;

  async function collect(): Promise<string> {
    const turnBegan = performance.now();
    await nextTurn();
    const lagSeconds = (performance.now() - turnBegan) / 1000;
    const vms = host.stores.vms.list();
    const stats = await sampler.sample(vms);
    return renderMetrics([
      ...daemonMetrics(lagSeconds),
      gauge('banger_vms', 'VMs by state.', [
        ...STATES.map((state) => ({
          labels: { state },
          value: vms.filter((vm) => shownState(vm) === state).length,
        })),
      ]),
      ...vmMetrics(stats),
      gauge('banger_vm_last_boot_seconds', 'From the start request to the first SSH login.', [
        ...vms.flatMap(({ name, bootMs }) => (bootMs === null ? [] : [{ labels: { vm: name }, value: bootMs / 1000 }])),
      ]),
      counter('banger_vm_boots_total', 'Starts of VMs by how they ended.', boots.samples()),
      counter('banger_operations_total', 'Operations that ended, by kind and result.', operations.samples()),
      gauge('banger_operations_running', 'Operations that run now.', [{ value: host.operations.runningCount() }]),
      ...sources.flatMap((source) => source()),
    ]);
  }

  return {
    async scrape() {
      // two scrapers at once get the same answer: a sample asks every guest
      scraping ??= collect().finally(() => {
        scraping = undefined;
      });
      return await scraping;
    },
    [Symbol.dispose]: stopListening,
  };
}

function daemonMetrics(lagSeconds: number): Metric[] {
  const { active } = performance.eventLoopUtilization();
  const { user, system } = process.cpuUsage();
  return [
    gauge('banger_build_info', 'Version of the daemon.', [{ labels: { version: VERSION }, value: 1 }]),
    gauge('banger_daemon_resident_memory_bytes', 'Resident memory of the daemon.', [
      { value: process.memoryUsage.rss() },
    ]),
    counter('banger_daemon_cpu_seconds_total', 'Processor time of the daemon.', [{ value: (user + system) / 1e6 }]),
    counter('banger_daemon_event_loop_busy_seconds_total', 'Time in which the event loop was not idle.', [
      { value: active / 1000 },
    ]),
    gauge('banger_daemon_event_loop_lag_seconds', 'One turn of the event loop, measured at this scrape.', [
      { value: lagSeconds },
    ]),
  ];
}

function vmMetrics(stats: readonly VmStats[]): Metric[] {
  /** What is not known of a VM has no sample. */
  const of = (read: (vm: VmStats) => number | null): Sample[] =>
    stats.flatMap((vm) => {
      const value = read(vm);
      return value === null ? [] : [{ labels: { vm: vm.name }, value }];
    });
  const seconds = (ms: number | null) => (ms === null ? null : ms / 1000);
  return [
    counter(
      'banger_vm_cpu_seconds_total',
      'Processor time of the VMM and its helpers.',
      of((vm) => seconds(vm.cpuMs)),
    ),
    gauge(
      'banger_vm_uptime_seconds',
      'Time since the VM was started.',
      of((vm) => seconds(vm.uptimeMs)),
    ),
    gauge(
      'banger_vm_memory_bytes',
      'Memory the guest was given.',
      of((vm) => vm.memoryBytes),
    ),
    gauge(
      'banger_vm_resident_memory_bytes',
      'Host memory of the VMM and its helpers.',
      of((vm) => vm.rssBytes),
    ),
    gauge(
      'banger_vm_guest_used_memory_bytes',
      'Memory in use, as the guest says.',
      of((vm) => vm.guestUsedBytes),
    ),
    gauge(
      'banger_vm_disk_bytes',
      'Apparent size of the disks.',
      of((vm) => vm.diskBytes),
    ),
    gauge(
      'banger_vm_disk_allocated_bytes',
      'Bytes the disks take on the host.',
      of((vm) => vm.diskAllocatedBytes),
    ),
    gauge(
      'banger_vm_suspended_memory_bytes',
      'Bytes the memory of a suspended VM takes on the host’s disk.',
      of((vm) => vm.suspendedBytes),
    ),
    counter(
      'banger_vm_disk_read_bytes_total',
      'Bytes read from devices of the host.',
      of((vm) => vm.diskReadBytes),
    ),
    counter(
      'banger_vm_disk_written_bytes_total',
      'Bytes written to devices of the host.',
      of((vm) => vm.diskWrittenBytes),
    ),
    counter(
      'banger_vm_network_received_bytes_total',
      'Bytes the guest received.',
      of((vm) => vm.netReceivedBytes),
    ),
    counter(
      'banger_vm_network_sent_bytes_total',
      'Bytes the guest sent.',
      of((vm) => vm.netSentBytes),
    ),
  ];
}

/** How a start ended, when the event says that one did. */
function bootResult(event: Event): 'succeeded' | 'failed' | undefined {
  if (event.type !== 'vm.state' || event.from !== 'starting') return undefined;
  if (event.to === 'running') return 'succeeded';
  return event.to === 'failed' ? 'failed' : undefined;
}

interface Tally {
  count(...values: string[]): void;
  samples(): Sample[];
}

/** Counts by the values of some labels, of which there are few. */
function createTally(...labels: string[]): Tally {
  const counts = new Map<string, { labels: Record<string, string>; value: number }>();
  return {
    count(...values) {
      const key = values.join(' ');
      const entry = counts.get(key) ?? {
        labels: Object.fromEntries(labels.map((label, index) => [label, values[index] ?? ''])),
        value: 0,
      };
      counts.set(key, { ...entry, value: entry.value + 1 });
    },
    samples: () => [...counts.values()],
  };
}

function gauge(name: string, help: string, samples: readonly Sample[]): Metric {
  return { name, help, type: 'gauge', samples };
}

function counter(name: string, help: string, samples: readonly Sample[]): Metric {
  return { name, help, type: 'counter', samples };
}
