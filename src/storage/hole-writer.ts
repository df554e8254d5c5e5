/** Writes to places of a file of zeros: pieces that follow each other at once, and whole zeros not at all. */
import type { FileHandle } from 'node:fs/promises';

const BUFFER_BYTES = 1024 * 1024;
/** Zeros that are looked for. */
const HOLE_BYTES = 64 * 1024;
const ZEROS = Buffer.alloc(HOLE_BYTES);

export class HoleWriter {
  readonly #file: FileHandle;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  #start = 0;
  #length = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /**
   * @param blank whether what is left between this and what was written last, if less than a block, is zeros: it is written over
   * @returns undefined when it need not be waited for
   */
  write(at: number, bytes: Uint8Array, blank = true): Promise<void> | undefined {
    const gap = at - (this.#start + this.#length);
    const joins =
      this.#length > 0 && gap >= 0 && gap < (blank ? 4096 : 1) && this.#length + gap + bytes.length <= BUFFER_BYTES;
    if (joins) this.#buffer.fill(0, this.#length, this.#length + gap);
    else if (this.#length > 0 || bytes.length > BUFFER_BYTES) return this.#writeAfterFlush(at, bytes);
    else this.#start = at;
    const offset = at - this.#start;
    this.#buffer.set(bytes, offset);
    this.#length = offset + bytes.length;
    return undefined;
  }

  async flush(): Promise<void> {
    for (let at = 0; at < this.#length; ) {
      const end = (from: number) => Math.min(from + HOLE_BYTES, this.#length);
      const isHole = (from: number) => this.#buffer.compare(ZEROS, 0, end(from) - from, from, end(from)) === 0;
      if (isHole(at)) {
        at = end(at);
        continue;
      }
      let to = end(at);
      while (to < this.#length && !isHole(to)) to = end(to);
      await writeAll(this.#file, this.#buffer.subarray(at, to), this.#start + at);
      at = to;
    }
    this.#length = 0;
  }

  async #writeAfterFlush(at: number, bytes: Uint8Array): Promise<void> {
    await this.flush();
    if (bytes.length > BUFFER_BYTES) return await writeAll(this.#file, bytes, at);
    this.#start = at;
    this.#buffer.set(bytes, 0);
    this.#length = bytes.length;
  }
}

/** All of it: a file system that is about to be full takes a part. @throws Error when nothing is taken */
export async function writeAll(file: Pick<FileHandle, 'write'>, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, position + at);
    if (bytesWritten === 0) throw new Error(`nothing can be written at ${position + at}`);
    at += bytesWritten;
  }
}
