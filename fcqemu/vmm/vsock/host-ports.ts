/** Ports the host listens on for the guest: sockets named `<uds_path>_<port>`, which come and go. */
import { type FSWatcher, readdirSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';

/** Between two looks where changes of the directory are not told. */
const LOOK_MS = 1000;

/** From one time that all ports are told to the next. */
const TELL_AGAIN_MS = 100;

const MAX_PORT = 2 ** 32 - 1;

export class HostPorts {
  readonly #directory: string;
  readonly #prefix: string;
  readonly #onChange: (port: number, isOpen: boolean) => void;
  #known = new Set<number>();
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #toldMs = performance.now();
  #tellTimer: NodeJS.Timeout | undefined;

  /** @param onChange called for each port that is there, and later for each that comes or goes */
  constructor(udsPath: string, onChange: (port: number, isOpen: boolean) => void) {
    this.#directory = dirname(udsPath);
    this.#prefix = `${basename(udsPath)}_`;
    this.#onChange = onChange;
    this.#watch();
    this.#look();
  }

  close(): void {
    this.#watcher?.close();
    clearInterval(this.#timer);
    clearTimeout(this.#tellTimer);
  }

  /** Tells each port that is there once more, soon: who asks for that again and again is told once. */
  tellAgain(): void {
    if (this.#tellTimer) return;
    const waitMs = Math.max(0, this.#toldMs + TELL_AGAIN_MS - performance.now());
    this.#tellTimer = setTimeout(() => {
      this.#tellTimer = undefined;
      this.#toldMs = performance.now();
      for (const port of this.#known) this.#onChange(port, true);
    }, waitMs).unref();
  }

  #watch(): void {
    try {
      this.#watcher = watch(this.#directory, { persistent: false }, (_event, name) => {
        if (name === null || name.startsWith(this.#prefix)) this.#look();
      });
      this.#watcher.on('error', () => this.#poll());
    } catch {
      this.#poll();
    }
  }

  #poll(): void {
    this.#timer ??= setInterval(() => this.#look(), LOOK_MS).unref();
  }

  #look(): void {
    const found = new Set(this.#listening());
    for (const port of this.#known) if (!found.has(port)) this.#onChange(port, false);
    for (const port of found) if (!this.#known.has(port)) this.#onChange(port, true);
    this.#known = found;
  }

  #listening(): number[] {
    try {
      return readdirSync(this.#directory, { withFileTypes: true }).flatMap((entry) => {
        if (!entry.isSocket() || !entry.name.startsWith(this.#prefix)) return [];
        const digits = entry.name.slice(this.#prefix.length);
        return /^(0|[1-9]\d{0,9})$/.test(digits) && Number(digits) <= MAX_PORT ? [Number(digits)] : [];
      });
    } catch {
      return [];
    }
  }
}
