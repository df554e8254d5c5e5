/** The memory balloon: configuration before the start, size and statistics afterwards. */
import type { Balloon as BalloonConfig, BalloonStats } from '../../src/firecracker/api-types.ts';
import { Fault, unsupported } from '../fault.ts';
import type { MicroVm } from './micro-vm.ts';

const MIB = 1024 * 1024;
const PAGE_BYTES = 4096;
const PAGES_PER_MIB = MIB / PAGE_BYTES;
const DEVICE_PATH = '/machine/peripheral/balloon0';
const NOT_FOUND = 'Failed perform action on device: Device not found';

export type StoredBalloon = Required<BalloonConfig>;

/** QEMU's names of the statistics; all are optional. */
const STATISTICS: [qemu: string, api: keyof BalloonStats][] = [
  ['stat-swap-in', 'swap_in'],
  ['stat-swap-out', 'swap_out'],
  ['stat-major-faults', 'major_faults'],
  ['stat-minor-faults', 'minor_faults'],
  ['stat-free-memory', 'free_memory'],
  ['stat-total-memory', 'total_memory'],
  ['stat-available-memory', 'available_memory'],
  ['stat-disk-caches', 'disk_caches'],
  ['stat-htlb-pgalloc', 'hugetlb_allocations'],
  ['stat-htlb-pgfail', 'hugetlb_failures'],
  // not in QEMU 7.2
  ['stat-oom-kills', 'oom_kill'],
  ['stat-alloc-stalls', 'alloc_stall'],
  ['stat-async-scans', 'async_scan'],
  ['stat-direct-scans', 'direct_scan'],
  ['stat-async-reclaims', 'async_reclaim'],
  ['stat-direct-reclaims', 'direct_reclaim'],
];

export class Balloon {
  config: StoredBalloon | null = null;

  /** `PUT /balloon`. @throws Fault */
  put(config: StoredBalloon, memoryMib: number): void {
    if (config.amount_mib > memoryMib) {
      throw new Fault('Balloon config error: Amount of pages requested is too large.', {
        debug: 'TooManyPagesRequested',
      });
    }
    if (config.free_page_hinting) throw unsupported('Balloon config error', 'free page hinting is');
    this.config = config;
  }

  /** `GET /balloon`. @throws Fault */
  get(started: boolean): StoredBalloon {
    if (this.config) return this.config;
    throw new Fault(started ? `Internal VMM error: ${NOT_FOUND}` : 'Balloon config error: No balloon device found.');
  }

  /** Sets target and statistics of a machine that is about to run. */
  async activate(vm: MicroVm, memoryMib: number): Promise<void> {
    if (!this.config) return;
    await setTarget(vm, memoryMib, this.config.amount_mib);
    await this.resumeStatistics(vm);
  }

  /** Statistics are no part of a snapshot and have to be asked for again. */
  async resumeStatistics(vm: MicroVm): Promise<void> {
    const seconds = this.config?.stats_polling_interval_s ?? 0;
    if (seconds > 0) await setInterval(vm, seconds);
  }

  /** `PATCH /balloon`. @throws Fault */
  async resize(vm: MicroVm, memoryMib: number, amountMib: number): Promise<void> {
    const config = this.#require('Balloon update error');
    if (!(await isActive(vm))) throw new Fault('Balloon update error: Balloon: Device not activated yet.');
    if (amountMib > memoryMib) {
      throw new Fault(`Balloon update error: Balloon: Requested memory should be less than ${memoryMib}MiB`);
    }
    await setTarget(vm, memoryMib, amountMib);
    config.amount_mib = amountMib;
  }

  /** `PATCH /balloon/statistics`. @throws Fault */
  async setStatisticsInterval(vm: MicroVm, seconds: number): Promise<void> {
    const config = this.#require('Balloon update error');
    if (config.stats_polling_interval_s > 0 !== seconds > 0) {
      throw new Fault('Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.');
    }
    if (seconds > 0) await setInterval(vm, seconds);
    config.stats_polling_interval_s = seconds;
  }

  /** `GET /balloon/statistics`. @throws Fault */
  async statistics(vm: MicroVm, memoryMib: number): Promise<BalloonStats> {
    const config = this.#require('Internal VMM error');
    if (config.stats_polling_interval_s === 0) {
      throw new Fault('Internal VMM error: Balloon: Received stats query when stats are disabled.');
    }
    const { actual } = await vm.execute<{ actual: number }>('query-balloon');
    const heldMib = memoryMib - actual / MIB;
    const answer: BalloonStats = {
      target_pages: config.amount_mib * PAGES_PER_MIB,
      actual_pages: Math.round(heldMib * PAGES_PER_MIB),
      target_mib: config.amount_mib,
      actual_mib: Math.floor(heldMib),
    };
    const { stats } = await vm.execute<{ stats: Record<string, number> }>('qom-get', {
      path: DEVICE_PATH,
      property: 'guest-stats',
    });
    for (const [qemuName, apiName] of STATISTICS) {
      const value = stats[qemuName];
      // what the guest did not report is 2^64 - 1, which JSON.parse rounds
      if (value !== undefined && value >= 0 && value < 2 ** 63) answer[apiName] = value;
    }
    return answer;
  }

  /** Every `/balloon/hinting` call. @throws Fault always */
  hinting(): never {
    this.#require('Balloon update error');
    throw new Fault('Balloon update error: Balloon: Attempting to use hinting when not enabled');
  }

  #require(prefix: string): StoredBalloon {
    if (!this.config) throw new Fault(`${prefix}: ${NOT_FOUND}`);
    return this.config;
  }
}

async function setTarget(vm: MicroVm, memoryMib: number, amountMib: number): Promise<void> {
  // QEMU counts what remains to the guest and refuses zero
  await vm.execute('balloon', { value: Math.max(1, (memoryMib - amountMib) * MIB) });
}

async function setInterval(vm: MicroVm, seconds: number): Promise<void> {
  await vm.execute('qom-set', { path: DEVICE_PATH, property: 'guest-stats-polling-interval', value: seconds });
}

/** Whether the guest's driver has taken the device over. */
async function isActive(vm: MicroVm): Promise<boolean> {
  try {
    const answer = await vm.execute<{ status: { statuses: string[] } }>('x-query-virtio-status', { path: DEVICE_PATH });
    return answer.status.statuses.some((text) => text.startsWith('VIRTIO_CONFIG_S_DRIVER_OK'));
  } catch {
    // the query is experimental: without it every device counts as active
    return true;
  }
}
