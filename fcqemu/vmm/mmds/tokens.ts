/**
 * Session tokens of the metadata service: random, and known to this process only, so that a clone does not accept
 * its parent's.
 */
import { randomBytes } from '../../random.ts';

/** As many as Firecracker's have: a nonce, a time and a tag. */
const TOKEN_BYTES = 36;

/** A guest that asks for more loses its oldest. */
const MAX_TOKENS = 4096;

export const MIN_TTL_SECONDS = 1;
/** Six hours. */
export const MAX_TTL_SECONDS = 21_600;

export class Tokens {
  /** time of expiry in `ms`, by token; the oldest token comes first */
  readonly #expiry = new Map<string, number>();

  /** A token in base64. */
  create(ttlSeconds: number, nowMs: number = performance.now()): string {
    const token = randomBytes(TOKEN_BYTES).toString('base64');
    this.#expiry.set(token, nowMs + ttlSeconds * 1000);
    if (this.#expiry.size > MAX_TOKENS) this.#makeRoom(nowMs);
    return token;
  }

  /** Whether the token was made here and is not expired. */
  isValid(token: string, nowMs: number = performance.now()): boolean {
    return (this.#expiry.get(token) ?? 0) > nowMs;
  }

  #makeRoom(nowMs: number): void {
    for (const [token, expiryMs] of this.#expiry) if (expiryMs <= nowMs) this.#expiry.delete(token);
    for (const token of this.#expiry.keys()) {
      if (this.#expiry.size <= MAX_TOKENS) return;
      this.#expiry.delete(token);
    }
  }
}
