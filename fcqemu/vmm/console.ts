/**
 * The serial console: guest output to standard output or a file, standard input to the guest. Output that
 * cannot be written at once is dropped, so that a full pipe never stops the guest.
 */
import { fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ReadStream } from 'node:tty';
import type { Sink } from '../sink.ts';
import type { StoredBucket } from './rate-limiter.ts';
import { TokenBucket } from './token-bucket.ts';

export interface ConsoleCounters {
  /** bytes lost because the reader was slow; the guest writes them one by one */
  missedWrites: number;
  /** bytes dropped by the token bucket */
  limitedBytes: number;
  bytesWritten: number;
  bytesRead: number;
}

export interface ConsoleOptions {
  output: Sink;
  /** feed standard input to the guest */
  takesInput: boolean;
  limit: StoredBucket | null;
}

export class Console {
  readonly counters: ConsoleCounters = { missedWrites: 0, limitedBytes: 0, bytesWritten: 0, bytesRead: 0 };
  #input: Socket | ReadStream | undefined;

  /** Connects the guest's serial port. */
  async attach(port: Duplex, { output, takesInput, limit }: ConsoleOptions): Promise<void> {
    const bucket = limit && new TokenBucket(limit);
    port.on('data', (bytes: Buffer) => {
      const allowed = bucket ? bucket.take(bytes.length) : bytes.length;
      this.counters.limitedBytes += bytes.length - allowed;
      if (allowed === 0) return;
      const written = output.write(bytes.subarray(0, allowed));
      this.counters.bytesWritten += written;
      this.counters.missedWrites += allowed - written;
    });
    if (takesInput) await this.#readStandardInput(port);
  }

  /** Stops reading and gives the terminal back as it was. */
  detach(): void {
    const input = this.#input;
    this.#input = undefined;
    if (!input) return;
    if ('setRawMode' in input) input.setRawMode(false);
    input.destroy();
  }

  async #readStandardInput(port: Duplex): Promise<void> {
    const kind = standardInputKind();
    if (kind === 'none') return;
    const input = kind === 'terminal' ? await openTerminal() : new Socket({ fd: 0, readable: true, writable: false });
    this.#input = input;
    input.on('error', () => this.detach());
    input.on('data', (bytes: Buffer) => {
      this.counters.bytesRead += bytes.length;
      // a guest that does not read must not fill this process's memory
      if (!port.write(bytes)) input.pause();
    });
    port.on('drain', () => input.resume());
  }
}

/** Files and /dev/null cannot be waited for; Firecracker skips them too. */
function standardInputKind(): 'terminal' | 'stream' | 'none' {
  try {
    const stat = fstatSync(0);
    if (stat.isFIFO() || stat.isSocket()) return 'stream';
    // character devices: major 1 is memory (/dev/null, /dev/zero), the rest that can be read are terminals
    return stat.isCharacterDevice() && stat.rdev >> 8 !== 1 ? 'terminal' : 'none';
  } catch {
    return 'none';
  }
}

async function openTerminal(): Promise<ReadStream> {
  const { ReadStream: TerminalInput } = await import('node:tty');
  const input = new TerminalInput(0);
  input.setRawMode(true);
  return input;
}
