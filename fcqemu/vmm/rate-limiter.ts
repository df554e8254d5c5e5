/** Rate limiters as the API takes, keeps and echoes them. */
import type { RateLimiter, TokenBucket } from '../../src/firecracker/api-types.ts';

/** A limiter with every field present, as Firecracker echoes it. */
export interface StoredLimiter {
  bandwidth: StoredBucket | null;
  ops: StoredBucket | null;
}

export interface StoredBucket {
  size: number;
  one_time_burst: number | null;
  /** `ms` */
  refill_time: number;
}

/** Refill times beyond do not fit into 64 bits as nanoseconds. `ms` */
const MAX_REFILL_TIME = Number((2n ** 64n - 1n) / 1_000_000n);

/** What is kept of a configured limiter; a bucket of size or refill time 0, or of an endless one, limits nothing. */
export function storedLimiter(limiter: RateLimiter | null | undefined): StoredLimiter | null {
  const bandwidth = storedBucket(limiter?.bandwidth);
  const ops = storedBucket(limiter?.ops);
  return bandwidth || ops ? { bandwidth, ops } : null;
}

/**
 * A PATCH: an absent bucket stays as it was, a zero bucket is removed. One that stays is the same object, by which
 * those who fill it know that it is to go on with what is in it.
 */
export function updatedLimiter(before: StoredLimiter | null, update: RateLimiter | null): StoredLimiter | null {
  if (!update) return before;
  const bandwidth = update.bandwidth ? storedBucket(update.bandwidth) : (before?.bandwidth ?? null);
  const ops = update.ops ? storedBucket(update.ops) : (before?.ops ?? null);
  return bandwidth || ops ? { bandwidth, ops } : null;
}

function storedBucket(bucket: TokenBucket | null | undefined): StoredBucket | null {
  if (!bucket || bucket.size === 0 || bucket.refill_time === 0 || bucket.refill_time > MAX_REFILL_TIME) return null;
  return { size: bucket.size, one_time_burst: bucket.one_time_burst || null, refill_time: bucket.refill_time };
}

/** Tokens per second a bucket grants in the long run; may be less than one. */
export function tokensPerSecond(bucket: StoredBucket): number {
  return (bucket.size * 1000) / bucket.refill_time;
}
