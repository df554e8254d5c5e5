/**
 * Session tokens of the metadata service: the time of expiry, sealed with a key that only this process has. So
 * no list of tokens is kept, and a clone does not accept its parent's.
 */
import type * as nodeCrypto from 'node:crypto';

const ALGORITHM = 'aes-256-gcm';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const EXPIRY_BYTES = 8;
const TAG_BYTES = 16;

export const MIN_TTL_SECONDS = 1;
/** Six hours. */
export const MAX_TTL_SECONDS = 21_600;

export class Tokens {
  readonly #crypto: typeof nodeCrypto;
  readonly #key: Buffer;
  readonly #context: Buffer;

  private constructor(crypto: typeof nodeCrypto, instanceId: string) {
    this.#crypto = crypto;
    this.#key = crypto.randomBytes(KEY_BYTES);
    this.#context = Buffer.from(`microvmid=${instanceId}`);
  }

  /** @param instanceId another microVM's tokens are worth nothing, whatever its key */
  static async load(instanceId: string): Promise<Tokens> {
    // 3 MB that processes without the service do not need
    return new Tokens(await import('node:crypto'), instanceId);
  }

  /** A token in base64. */
  create(ttlSeconds: number, nowMs: number = performance.now()): string {
    const nonce = this.#crypto.randomBytes(NONCE_BYTES);
    const expiry = Buffer.alloc(EXPIRY_BYTES);
    expiry.writeDoubleLE(nowMs + ttlSeconds * 1000);
    const cipher = this.#crypto.createCipheriv(ALGORITHM, this.#key, nonce).setAAD(this.#context);
    const sealed = Buffer.concat([cipher.update(expiry), cipher.final()]);
    return Buffer.concat([nonce, sealed, cipher.getAuthTag()]).toString('base64');
  }

  /** Whether the token was made here and is not expired. */
  isValid(token: string, nowMs: number = performance.now()): boolean {
    const bytes = Buffer.from(token, 'base64');
    if (bytes.length !== NONCE_BYTES + EXPIRY_BYTES + TAG_BYTES || bytes.toString('base64') !== token) return false;
    const sealedAt = NONCE_BYTES + EXPIRY_BYTES;
    try {
      const decipher = this.#crypto
        .createDecipheriv(ALGORITHM, this.#key, bytes.subarray(0, NONCE_BYTES))
        .setAAD(this.#context)
        .setAuthTag(bytes.subarray(sealedAt));
      const expiry = Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES, sealedAt)), decipher.final()]);
      return expiry.readDoubleLE() > nowMs;
    } catch {
      return false;
    }
  }
}
