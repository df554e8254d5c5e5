/** Rate limiter of one direction of an interface: packets that have to wait do so in a queue that has an end. */
import type { StoredLimiter } from '../rate-limiter.ts';
import { bucketOf, type TokenBucket } from '../token-bucket.ts';
import { type Packet, sizeOf } from './frame-port.ts';

/** Bytes that may wait; what comes then is lost, which tells TCP to slow down. */
const QUEUE_BYTES = 1024 * 1024;

export class Shaper {
  readonly #deliver: (packet: Packet) => boolean;
  #bandwidth: TokenBucket | undefined;
  #ops: TokenBucket | undefined;
  #queue: Packet[] = [];
  #queuedBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  /** packets that had to wait or were lost */
  throttled = 0;

  /** @param deliver returns whether the memory of the packet is still needed afterwards */
  constructor(deliver: (packet: Packet) => boolean) {
    this.#deliver = deliver;
  }

  /** From now on; new buckets start full, and those that were there before go on with what is in them. */
  configure(limiter: StoredLimiter | null): void {
    this.#bandwidth = bucketOf(limiter?.bandwidth, this.#bandwidth);
    this.#ops = bucketOf(limiter?.ops, this.#ops);
    this.#drain();
  }

  /** @returns whether the memory of the packet is still needed */
  push(packet: Packet): boolean {
    if (this.#queue.length === 0 && this.#waitMs(packet) === 0) return this.#pass(packet);
    this.throttled += 1;
    if (this.#queuedBytes + sizeOf(packet) > QUEUE_BYTES) return false;
    this.#queue.push({ ...packet, bytes: Buffer.from(packet.bytes) });
    this.#queuedBytes += sizeOf(packet);
    this.#schedule();
    return false;
  }

  #drain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    let passed = 0;
    for (const packet of this.#queue) {
      if (this.#waitMs(packet) > 0) break;
      this.#queuedBytes -= sizeOf(packet);
      this.#pass(packet);
      passed += 1;
    }
    this.#queue = this.#queue.slice(passed);
    this.#schedule();
  }

  #schedule(): void {
    const next = this.#queue[0];
    if (!next || this.#timer) return;
    this.#timer = setTimeout(() => this.#drain(), this.#waitMs(next));
    this.#timer.unref();
  }

  #waitMs(packet: Packet): number {
    return Math.max(this.#bandwidth?.waitMs(sizeOf(packet)) ?? 0, this.#ops?.waitMs(1) ?? 0);
  }

  #pass(packet: Packet): boolean {
    this.#bandwidth?.spend(sizeOf(packet));
    this.#ops?.spend(1);
    return this.#deliver(packet);
  }
}
