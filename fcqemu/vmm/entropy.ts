/**
 * Random bytes for a guest whose entropy device is limited. QEMU's own limit has no burst and counts no requests, so
 * it asks here instead, in the form of the entropy gathering daemon: a 2, and how many bytes.
 */
import type { Duplex } from 'node:stream';
import { randomBytes } from '../random.ts';
import type { StoredLimiter } from './rate-limiter.ts';
import { TokenBucket } from './token-bucket.ts';

const READ_BLOCKING = 2;

/** Counters of the metrics file's group `entropy`. */
export type EntropyCounter = 'entropy_event_count' | 'entropy_bytes' | 'entropy_rate_limiter_throttled';

export class EntropySource {
  readonly #stream: Duplex;
  readonly #bandwidth: TokenBucket | undefined;
  readonly #ops: TokenBucket | undefined;
  readonly #count: (counter: EntropyCounter, amount?: number) => void;
  /** bytes of requests that were not answered yet */
  #pending: Buffer = Buffer.alloc(0);
  #timer: NodeJS.Timeout | undefined;

  /** @param stream QEMU's end of it is an `rng-egd`, which has one request of the guest outstanding */
  constructor(
    stream: Duplex,
    limiter: StoredLimiter,
    count: (counter: EntropyCounter, amount?: number) => void = () => {},
  ) {
    this.#stream = stream;
    this.#bandwidth = limiter.bandwidth ? new TokenBucket(limiter.bandwidth) : undefined;
    this.#ops = limiter.ops ? new TokenBucket(limiter.ops) : undefined;
    this.#count = count;
    stream.on('data', (bytes: Buffer) => {
      this.#pending = Buffer.concat([this.#pending, bytes]);
      if (!this.#timer) this.#answer();
    });
    stream.on('close', () => clearTimeout(this.#timer));
  }

  #answer(): void {
    this.#timer = undefined;
    while (this.#pending.length >= 2) {
      const [operation, length = 0] = this.#pending;
      if (operation !== READ_BLOCKING) {
        // nothing QEMU asks for; what follows cannot be understood either
        this.#stream.destroy();
        return;
      }
      const waitMs = Math.max(this.#bandwidth?.waitMs(length) ?? 0, this.#ops?.waitMs(1) ?? 0);
      if (waitMs > 0) {
        this.#count('entropy_rate_limiter_throttled');
        this.#timer = setTimeout(() => this.#answer(), waitMs).unref();
        return;
      }
      this.#bandwidth?.spend(length);
      this.#ops?.spend(1);
      this.#count('entropy_event_count');
      this.#count('entropy_bytes', length);
      this.#pending = this.#pending.subarray(2);
      this.#stream.write(randomBytes(length));
    }
  }
}
