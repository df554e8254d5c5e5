/**
 * Limits of drives, which QEMU keeps. It knows buckets that refill; so a one-time burst makes the bucket larger until
 * the drive's counters say that it was spent.
 */
import { driveNodes } from '../qemu/arguments.ts';
import { type BlockStats, blockStats } from './block-stats.ts';
import type { MicroVm } from './micro-vm.ts';
import { type StoredBucket, type StoredLimiter, tokensPerSecond } from './rate-limiter.ts';

/** Time between two looks at counters that move, and at those that do not: until the look a drive may save up what it does not use. */
const MIN_LOOK_MS = 1000;
const MAX_LOOK_MS = 4000;

/** QEMU's largest number in a limit, 2^53 and more being no numbers of JSON anyway. */
const MAX_VALUE = 1e15;

interface Burst {
  limiter: StoredLimiter;
  /** totals of the drive at which the burst is spent; undefined when there is none */
  until: { bytes: number | undefined; requests: number | undefined };
}

export class DriveLimits {
  readonly #vm: Pick<MicroVm, 'execute'>;
  /** bursts that are not spent, by index of the drive */
  readonly #bursts = new Map<number, Burst>();
  #timer: NodeJS.Timeout | undefined;
  #lookMs = MIN_LOOK_MS;
  #seen = '';

  constructor(vm: Pick<MicroVm, 'execute'>) {
    this.#vm = vm;
  }

  /** Sets or removes the limit of a drive; buckets start full. @throws QmpError */
  async set(index: number, limiter: StoredLimiter | null): Promise<void> {
    this.#bursts.delete(index);
    const burst = { bytes: limiter?.bandwidth?.one_time_burst, requests: limiter?.ops?.one_time_burst };
    if (limiter && (burst.bytes || burst.requests)) {
      const before = totalsOf((await blockStats(this.#vm))(index));
      const until = (what: keyof typeof burst) => (burst[what] ? before[what] + burst[what] : undefined);
      this.#bursts.set(index, { limiter, until: { bytes: until('bytes'), requests: until('requests') } });
    }
    await this.#apply(index, limiter);
    this.#lookMs = MIN_LOOK_MS;
    this.#schedule();
  }

  async #apply(index: number, limiter: StoredLimiter | null): Promise<void> {
    const until = this.#bursts.get(index)?.until;
    await this.#vm.execute('block_set_io_throttle', {
      id: driveNodes(index).device,
      ...throttle('bps', limiter?.bandwidth ?? null, until?.bytes !== undefined),
      ...throttle('iops', limiter?.ops ?? null, until?.requests !== undefined),
    });
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#bursts.size === 0) return;
    // without a machine there is nothing to look at any more
    this.#timer = setTimeout(() => void this.#look().catch(() => {}), this.#lookMs).unref();
  }

  async #look(): Promise<void> {
    const statsOf = await blockStats(this.#vm);
    const totals = new Map([...this.#bursts.keys()].map((index) => [index, totalsOf(statsOf(index))]));
    const seen = JSON.stringify([...totals]);
    this.#lookMs = seen === this.#seen ? Math.min(this.#lookMs * 2, MAX_LOOK_MS) : MIN_LOOK_MS;
    this.#seen = seen;
    for (const [index, { limiter, until }] of this.#bursts) {
      const { bytes, requests } = totals.get(index) ?? totalsOf(undefined);
      const left = {
        bytes: until.bytes !== undefined && bytes < until.bytes ? until.bytes : undefined,
        requests: until.requests !== undefined && requests < until.requests ? until.requests : undefined,
      };
      if (left.bytes === until.bytes && left.requests === until.requests) continue;
      if (left.bytes === undefined && left.requests === undefined) this.#bursts.delete(index);
      else this.#bursts.set(index, { limiter, until: left });
      await this.#apply(index, limiter);
    }
    this.#schedule();
  }
}

function totalsOf(stats: BlockStats | undefined): { bytes: number; requests: number } {
  if (!stats) return { bytes: 0, requests: 0 };
  return {
    bytes: stats.rd_bytes + stats.wr_bytes,
    requests: stats.rd_operations + stats.wr_operations + stats.flush_operations,
  };
}

/** A token bucket in QEMU's terms: a rate, and how much may go out at once. */
function throttle(unit: 'bps' | 'iops', bucket: StoredBucket | null, hasBurst: boolean): Record<string, number> {
  const rate = bucket ? Math.min(MAX_VALUE, tokensPerSecond(bucket)) : 0;
  const content = bucket ? Math.min(MAX_VALUE, bucket.size + (hasBurst ? (bucket.one_time_burst ?? 0) : 0)) : 0;
  // less than one second's worth QEMU takes for none: a tenth of it may go out at once then
  const max = content > rate || hasBurst ? { [`${unit}_max`]: Math.max(content, rate) } : {};
  return { [unit]: rate, [`${unit}_rd`]: 0, [`${unit}_wr`]: 0, ...max };
}
