/** Firecracker's log: one line per message, `TIME [ID:THREAD[:LEVEL][:FILE:LINE]] MESSAGE`, to stdout or a file. */
import type { LogLevel } from '../src/firecracker/api-types.ts';
import { openSink, type Sink } from './sink.ts';

/** Level as the API writes it; `Warn` is what Firecracker echoes for `Warning`. */
export type Level = Exclude<LogLevel, 'Warning'> | 'Warn';

const SEVERITY: Record<Level, number> = { Off: 0, Error: 1, Warn: 2, Info: 3, Debug: 4, Trace: 5 };

export interface LogSettings {
  log_path: string | null;
  level: Level | null;
  show_level: boolean | null;
  show_log_origin: boolean | null;
  /** only messages of modules that begin with this */
  module: string | null;
}

/** Messages of one thread and module. */
export interface ThreadLog {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
  debug(message: string): void;
  /** whether debug messages are written */
  readonly verbose: boolean;
}

export class Log {
  #instanceId = 'anonymous-instance';
  #sink: Sink;
  /** the sink, when it was opened here */
  #file: Sink | undefined;
  #level: Level = 'Info';
  #showLevel = false;
  #showOrigin = false;
  #module: string | undefined;
  /** lines lost because the sink was full */
  missed = 0;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  set instanceId(id: string) {
    this.#instanceId = id;
  }

  /**
   * Applies new settings. An absent level returns to Info; every other absent field keeps its value.
   * @throws the system error of opening `log_path`
   */
  update(settings: LogSettings): void {
    this.#level = settings.level ?? 'Info';
    if (settings.log_path !== null) {
      const file = openSink(settings.log_path);
      this.#file?.close();
      this.#file = file;
      this.#sink = file;
    }
    this.#showLevel = settings.show_level ?? this.#showLevel;
    this.#showOrigin = settings.show_log_origin ?? this.#showOrigin;
    this.#module = settings.module ?? this.#module;
  }

  thread(name: string, module: string): ThreadLog {
    const write = (level: Level, message: string) => this.#write(name, module, level, message);
    const isVerbose = () => SEVERITY.Debug <= SEVERITY[this.#level];
    return {
      error: (message) => write('Error', message),
      warn: (message) => write('Warn', message),
      info: (message) => write('Info', message),
      debug: (message) => write('Debug', message),
      get verbose() {
        return isVerbose();
      },
    };
  }

  #write(thread: string, module: string, level: Level, message: string): void {
    if (SEVERITY[level] > SEVERITY[this.#level]) return;
    if (this.#module !== undefined && !module.startsWith(this.#module)) return;
    const levelText = this.#showLevel ? `:${level.toUpperCase()}` : '';
    const origin = this.#showOrigin ? `:${callerOf(new Error().stack)}` : '';
    const line = `${localTime()} [${this.#instanceId}:${thread}${levelText}${origin}] ${message}\n`;
    const bytes = Buffer.from(line);
    if (this.#sink.write(bytes) < bytes.length) this.missed += 1;
  }
}

/** `FILE:LINE` of the call that logged: the first frame outside this file. Readers expect a path with a slash. */
function callerOf(stack: string | undefined): string {
  const frame = stack?.split('\n')[4] ?? '';
  return `fcqemu/${/([^/(\s]{1,200}:\d{1,9}):\d{1,9}\)?$/.exec(frame)?.[1] ?? 'main:0'}`;
}

/** Wall clock minus monotonic clock in `ms`: the wall clock alone has no digits below a millisecond. */
let clockOffsetMs = performance.timeOrigin;

/** A step or drift of the wall clock beyond this is followed. */
const CLOCK_TOLERANCE_MS = 5;

/** Local time with nanoseconds, e.g. `2026-03-01T13:37:00.123456789`. */
function localTime(): string {
  const monotonicMs = performance.now();
  if (Math.abs(clockOffsetMs + monotonicMs - Date.now()) > CLOCK_TOLERANCE_MS) clockOffsetMs = Date.now() - monotonicMs;
  const nowMs = clockOffsetMs + monotonicMs;
  const now = new Date(nowMs);
  const pad = (value: number, width: number) => String(value).padStart(width, '0');
  const date = `${now.getFullYear()}-${pad(now.getMonth() + 1, 2)}-${pad(now.getDate(), 2)}`;
  const time = `${pad(now.getHours(), 2)}:${pad(now.getMinutes(), 2)}:${pad(now.getSeconds(), 2)}`;
  return `${date}T${time}.${pad(now.getMilliseconds(), 3)}${pad(Math.floor((nowMs % 1) * 1e6), 6)}`;
}
