/** Token buckets as Firecracker's: a size that refills continuously, and a burst that is there once. */
import { type StoredBucket, tokensPerSecond } from './rate-limiter.ts';

/** The longest that a timer waits; beyond, it would not wait at all. `ms` */
const MAX_WAIT_MS = 2 ** 31 - 1;

export class TokenBucket {
  readonly config: StoredBucket;
  readonly #size: number;
  readonly #perMs: number;
  #burst: number;
  /** below zero after something larger than what was there */
  #tokens: number;
  #updatedMs: number;

  constructor(config: StoredBucket, nowMs: number = performance.now()) {
    this.config = config;
    this.#size = config.size;
    this.#perMs = tokensPerSecond(config) / 1000;
    this.#burst = config.one_time_burst ?? 0;
    this.#tokens = config.size;
    this.#updatedMs = nowMs;
  }

  /** @returns how many of `wanted` tokens there were; the one-time burst is spent first */
  take(wanted: number, nowMs: number = performance.now()): number {
    this.#refill(nowMs);
    const fromBurst = Math.min(this.#burst, wanted);
    this.#burst -= fromBurst;
    const fromBucket = Math.max(0, Math.min(Math.floor(this.#tokens), wanted - fromBurst));
    this.#tokens -= fromBucket;
    return fromBurst + fromBucket;
  }

  /** Time in `ms` until `wanted` tokens are there, or the bucket is full, or somebody has to look again; 0 when they are. */
  waitMs(wanted: number, nowMs: number = performance.now()): number {
    this.#refill(nowMs);
    const missing = Math.min(wanted - this.#burst, this.#size) - this.#tokens;
    return missing <= 0 ? 0 : Math.min(MAX_WAIT_MS, Math.max(1, Math.ceil(missing / this.#perMs)));
  }

  /** Takes all of `wanted`, on credit when the bucket is smaller than that. */
  spend(wanted: number): void {
    const fromBurst = Math.min(this.#burst, wanted);
    this.#burst -= fromBurst;
    this.#tokens -= wanted - fromBurst;
  }

  #refill(nowMs: number): void {
    this.#tokens = Math.min(this.#size, this.#tokens + (nowMs - this.#updatedMs) * this.#perMs);
    this.#updatedMs = nowMs;
  }
}

/** What `config` wants from now on: the bucket there is, with what is in it, if it was made of that; otherwise a full one. */
export function bucketOf(config: StoredBucket | null | undefined, before: TokenBucket | undefined) {
  if (!config) return undefined;
  return before?.config === config ? before : new TokenBucket(config);
}
