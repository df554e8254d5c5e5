/** The QEMU machine protocol (QMP): commands with answers, and events, as lines of JSON. */
import type { Duplex } from 'node:stream';

export interface QmpEvent {
  event: string;
  data?: Record<string, unknown>;
}

/** An answer `{"error": …}`, or a connection that ended before the answer came. */
class QmpError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'QmpError';
  }
}

interface Greeting {
  QMP: { version: { qemu: { major: number; minor: number; micro: number } } };
}

interface Waiting {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout | undefined;
}

/** QEMU answers in microseconds unless it drains slow disks. */
const DEFAULT_TIMEOUT_MS = 30_000;

/** For commands that QEMU carries out however late: giving one up would not take it back. A QEMU that ends rejects them. */
export const NO_TIMEOUT = Number.POSITIVE_INFINITY;

/** Until it greets, QEMU loads itself, its libraries and the kernel, from a disk that may be cold and slow. */
const GREETING_MS = 60_000;

export class Qmp {
  readonly #stream: Duplex;
  readonly #onEvent: (event: QmpEvent) => void;
  readonly #waiting = new Map<number, Waiting>();
  readonly #greeting = Promise.withResolvers<string>();
  #partial = '';
  #nextId = 1;
  #closed = false;

  constructor(stream: Duplex, onEvent: (event: QmpEvent) => void) {
    this.#stream = stream;
    this.#onEvent = onEvent;
    stream.on('data', (bytes: Buffer) => this.#receive(bytes));
    stream.on('error', () => this.#close());
    stream.on('close', () => this.#close());
    stream.on('end', () => this.#close());
    // whoever awaits it sees the rejection; nobody has to
    this.#greeting.promise.catch(() => {});
  }

  /**
   * Waits for QEMU's greeting and leaves negotiation mode.
   * @returns QEMU's version, e.g. `7.2.22`
   * @throws QmpError when QEMU goes away first
   */
  async connect(): Promise<string> {
    const late = () => this.#greeting.reject(new QmpError(`QEMU said nothing within ${GREETING_MS / 1000} s`));
    const timer = setTimeout(late, GREETING_MS);
    const version = await this.#greeting.promise.finally(() => clearTimeout(timer));
    await this.execute('qmp_capabilities');
    return version;
  }

  /** @throws QmpError with QEMU's description */
  execute<T = unknown>(
    command: string,
    args?: Record<string, unknown>,
    timeoutMs: number = DEFAULT_TIMEOUT_MS,
  ): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    if (this.#closed) {
      reject(new QmpError('QEMU is gone'));
      return promise;
    }
    const id = this.#nextId++;
    const giveUp = () => {
      this.#waiting.delete(id);
      reject(new QmpError(`QEMU did not answer ${command} within ${timeoutMs / 1000} s`));
    };
    const timer = timeoutMs === NO_TIMEOUT ? undefined : setTimeout(giveUp, timeoutMs);
    this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject, timer });
    this.#stream.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return promise;
  }

  #receive(bytes: Buffer): void {
    const lines = (this.#partial + bytes.toString('utf8')).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const line of lines) if (line.trim()) this.#handle(JSON.parse(line));
  }

  #handle(message: Record<string, unknown>): void {
    if ('QMP' in message) this.#greeting.resolve(versionOf(message as unknown as Greeting));
    else if (typeof message.event === 'string') this.#onEvent(message as unknown as QmpEvent);
    else if (typeof message.id === 'number') {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (!waiting) return;
      clearTimeout(waiting.timer);
      const error = message.error as { desc?: string } | undefined;
      if (error) waiting.reject(new QmpError(error.desc ?? 'QEMU reported an error'));
      else waiting.resolve(message.return);
    }
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const gone = new QmpError('QEMU is gone');
    this.#greeting.reject(gone);
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(gone);
    }
    this.#waiting.clear();
  }
}

function versionOf({ QMP }: Greeting): string {
  const { major, minor, micro } = QMP.version.qemu;
  return `${major}.${minor}.${micro}`;
}
