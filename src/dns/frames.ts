/** Cuts a TCP stream into DNS messages: each has its length in front, in two bytes (RFC 1035, 4.2.2). */

/** Queries have at most a few hundred bytes; of longer ones only this much is kept, enough to refuse them. */
export const MAX_QUERY_BYTES = 4096;

/** Called with each message; `length` is what was announced, and larger than `message` when that was cut. */
export type OnFrame = (message: Buffer, length: number) => void;

export class FrameReader {
  /** start of a message that is not complete yet, its length prefix included */
  #held: Buffer | undefined;
  /** bytes of an over-long message still to be thrown away */
  #toSkip = 0;
  readonly #keptBytes: number;

  /** @param keptBytes longest message handed out whole */
  constructor(keptBytes: number) {
    this.#keptBytes = keptBytes;
  }

  /** Takes what came in and hands out the messages it completes. */
  push(chunk: Buffer, onFrame: OnFrame): void {
    const skipped = Math.min(this.#toSkip, chunk.length);
    this.#toSkip -= skipped;
    const data = this.#held === undefined ? chunk.subarray(skipped) : Buffer.concat([this.#held, chunk]);
    let at = 0;
    while (data.length - at >= 2) {
      const length = data.readUInt16BE(at);
      const kept = Math.min(length, this.#keptBytes);
      if (data.length - at - 2 < kept) break;
      onFrame(data.subarray(at + 2, at + 2 + kept), length);
      const available = Math.min(length, data.length - at - 2);
      this.#toSkip = length - available;
      at += 2 + available;
    }
    // a copy, so that a few bytes do not keep a whole chunk in memory
    this.#held = at < data.length ? Buffer.from(data.subarray(at)) : undefined;
  }
}

/** A message as it goes over TCP. */
export function frame(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(message.length + 2);
  framed.writeUInt16BE(message.length, 0);
  framed.set(message, 2);
  return framed;
}
