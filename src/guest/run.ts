/** Runs one command in a guest to its end: output line by line, whatever its amount, with a limit in time. */
import { Readable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import type { ClientChannel } from 'ssh2';
import { throwIfCancelled } from '../system/abort.ts';
import { timerMs } from '../units.ts';
import { createLineSplitter } from './line-splitter.ts';
import { exitOf, type SshConnection } from './ssh.ts';

export interface GuestRunOptions {
  /** limit in `ms` */
  timeoutMs: number;
  signal?: AbortSignal;
  /** bytes for its standard input, which is empty otherwise; no faster than the guest takes them */
  input?: Readable | string | Buffer;
  /** called with each line of output, stdout and stderr alike */
  onLine?: (line: string) => void;
  /** keeps standard output, which is not given to `onLine` then */
  capture?: boolean;
}

export interface GuestRun {
  /** null when a signal ended it, the connection broke or the limit ran out */
  exitCode: number | null;
  /** e.g. `SIGKILL` */
  signal: string | null;
  timedOut: boolean;
  /** standard output when it was to be captured, up to its limit */
  stdout: string;
  /** the last lines it said */
  tail: string[];
  /** whether something it left behind still holds its output */
  lingers: boolean;
}

/** Lines kept to explain a failure. */
const TAIL_LINES = 30;

/** Captured output is parsed: lists of packages, not logs. */
const MAX_CAPTURED_BYTES = 8 * 1024 * 1024;

/**
 * A command that has ended is waited for until its output has been quiet for so long: what it left in the background holds
 * the channel for as long as it likes.
 */
const QUIET_MS = 2000;
/** The same when that does not get quiet. */
const LINGER_LIMIT_MS = 10_000;

/** What the guest gets to report the end of a command whose input could not be delivered. */
const REPORT_MS = 5000;

/**
 * A command that fails is no error: its exit code says so.
 * @throws BangerError `guest_failed` when the guest opens no channel, `cancelled` when `signal` was aborted
 */
export async function runInGuest(
  connection: SshConnection,
  command: string,
  options: GuestRunOptions,
): Promise<GuestRun> {
  throwIfCancelled(options.signal);
  const channel = await connection.exec(command);
  const run: GuestRun = { exitCode: null, signal: null, timedOut: false, stdout: '', tail: [], lingers: false };
  const captured: Buffer[] = [];
  let capturedBytes = 0;
  const say = (line: string) => {
    run.tail.push(line);
    if (run.tail.length > TAIL_LINES) run.tail.shift();
    options.onLine?.(line);
  };
  const out = createLineSplitter(say);
  const err = createLineSplitter(say);
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  let quiet: NodeJS.Timeout | undefined;
  let timers: NodeJS.Timeout[] = [];
  channel.on('data', (chunk: Buffer) => {
    quiet?.refresh();
    if (!options.capture) return out.push(chunk);
    capturedBytes += chunk.length;
    if (capturedBytes <= MAX_CAPTURED_BYTES) captured.push(chunk);
  });
  channel.stderr.on('data', (chunk: Buffer) => {
    quiet?.refresh();
    err.push(chunk);
  });
  const note = (code?: number | null, signal?: string) => {
    run.exitCode = code ?? null;
    run.signal = signal ?? null;
  };
  const onExit = (code?: number | null, signal?: string) => {
    note(code, signal);
    if (options.capture) return; // what is read by a program is read to its end
    const leave = () => {
      run.lingers = true;
      resolve();
    };
    quiet = setTimeout(leave, QUIET_MS);
    timers = [quiet, setTimeout(leave, LINGER_LIMIT_MS)];
  };
  channel.once('exit', onExit);
  const early = exitOf(channel);
  if (early) onExit(early.code, early.signal);
  channel.once('close', (code?: number | null, signal?: string) => {
    note(code, signal);
    resolve();
  });
  channel.on('error', () => {}); // 'close' follows
  const timer = setTimeout(() => {
    run.timedOut = true;
    resolve();
  }, timerMs(options.timeoutMs));
  const onAbort = () => resolve();
  options.signal?.addEventListener('abort', onAbort, { once: true });
  if (options.signal?.aborted) onAbort(); // while the channel was being opened
  try {
    await Promise.all([ended, feed(channel, options.input, ended)]);
    throwIfCancelled(options.signal);
    return run;
  } finally {
    for (const each of [timer, ...timers]) clearTimeout(each);
    options.signal?.removeEventListener('abort', onAbort);
    channel.close();
    out.end();
    err.end();
    run.stdout = Buffer.concat(captured).toString('utf8');
  }
}

/** Input ends with its source; a command that ends first has had enough of it and is judged by its exit code. */
async function feed(channel: ClientChannel, input: GuestRunOptions['input'], ended: Promise<void>): Promise<void> {
  if (input === undefined) {
    channel.end();
    return;
  }
  const source = input instanceof Readable ? input : Readable.from([input], { objectMode: false });
  const sending = new AbortController();
  void ended.then(() => sending.abort());
  try {
    await pipeline(source, channel, { signal: sending.signal, end: false });
    channel.end();
  } catch (error) {
    if (source.errored && source.errored !== error && !sending.signal.aborted) throw source.errored;
    if (sending.signal.aborted) return;
    // the source broke: the guest must not take what it got for the whole
    channel.close();
    await Promise.race([ended, finished(channel, { signal: AbortSignal.timeout(REPORT_MS) }).catch(() => {})]);
    throw error;
  }
}
