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

/** Totals of a drive at which its bursts are spent; undefined where there is none. */
interface BurstEnds {
  bytes: number | undefined;
  requests: number | undefined;
}

const NO_BURST: BurstEnds = { bytes: undefined, requests: undefined };

export class DriveLimits {
  readonly #vm: Pick<MicroVm, 'execute'>;
  /** what each drive was set to, by its index */
  readonly #limiters = new Map<number, StoredLimiter | null>();
  /** bursts that are not spent, by index of the drive */
  readonly #bursts = new Map<number, BurstEnds>();
  #timer: NodeJS.Timeout | undefined;
  #lookMs = MIN_LOOK_MS;
  #seen = '';

  constructor(vm: Pick<MicroVm, 'execute'>) {
    this.#vm = vm;
  }

  /**
   * Sets or removes the limit of a drive. Buckets start full; the one-time burst of one that was there before is not
   * granted again.
   * @throws QmpError
   */
  async set(index: number, limiter: StoredLimiter | null): Promise<void> {
    const ends = await this.#endsOfBursts(index, limiter);
    this.#limiters.set(index, limiter);
    this.#keep(index, ends);
    await this.#apply(index);
    this.#lookMs = MIN_LOOK_MS;
    this.#schedule();
  }

  /** Where the bursts of a limiter end: of buckets that stay where they did before. */
  async #endsOfBursts(index: number, limiter: StoredLimiter | null): Promise<BurstEnds> {
    const before = this.#limiters.get(index);
    const ends: BurstEnds = { ...(this.#bursts.get(index) ?? NO_BURST) };
    let totals: ReturnType<typeof totalsOf> | undefined;
    for (const [what, name] of [['bytes', 'bandwidth'] as const, ['requests', 'ops'] as const]) {
      const bucket = limiter?.[name] ?? null;
      if (bucket === (before?.[name] ?? null)) continue;
      ends[what] = undefined;
      if (!bucket?.one_time_burst) continue;
      totals ??= totalsOf((await blockStats(this.#vm))(index));
      ends[what] = totals[what] + bucket.one_time_burst;
    }
    return ends;
  }

  #keep(index: number, ends: BurstEnds): void {
    if (ends.bytes === undefined && ends.requests === undefined) this.#bursts.delete(index);
    else this.#bursts.set(index, ends);
  }

  async #apply(index: number): Promise<void> {
    const limiter = this.#limiters.get(index);
    const ends = this.#bursts.get(index) ?? NO_BURST;
    await this.#vm.execute('block_set_io_throttle', {
      id: driveNodes(index).device,
      ...throttle('bps', limiter?.bandwidth ?? null, ends.bytes !== undefined),
      ...throttle('iops', limiter?.ops ?? null, ends.requests !== undefined),
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
    for (const [index, ends] of this.#bursts) {
      const { bytes, requests } = totals.get(index) ?? totalsOf(undefined);
      const left = {
        bytes: ends.bytes !== undefined && bytes < ends.bytes ? ends.bytes : undefined,
        requests: ends.requests !== undefined && requests < ends.requests ? ends.requests : undefined,
      };
      if (left.bytes === ends.bytes && left.requests === ends.requests) continue;
      this.#keep(index, left);
      await this.#apply(index);
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
  // whole numbers, and 0 is no limit
  const rate = bucket ? Math.min(MAX_VALUE, Math.max(1, Math.round(tokensPerSecond(bucket)))) : 0;
  const content = bucket ? Math.min(MAX_VALUE, bucket.size + (hasBurst ? (bucket.one_time_burst ?? 0) : 0)) : 0;
  // less than one second's worth QEMU takes for none: a tenth of it may go out at once then
  const max = content > rate || hasBurst ? { [`${unit}_max`]: Math.max(content, rate) } : {};
  return { [unit]: rate, [`${unit}_rd`]: 0, [`${unit}_wr`]: 0, ...max };
}
