/** Runs one command in a guest to its end: output line by line, whatever its amount, with a limit in time. */
import { Readable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import type { ClientChannel } from 'ssh2';
import { throwIfCancelled } from '../system/abort.ts';
import { createLineSplitter } from './lines.ts';
import type { SshConnection } from './ssh.ts';

export interface GuestRunOptions {
  /** limit in `ms` */
  timeoutMs: number;
  signal?: AbortSignal;
  /** bytes for its standard input, which is empty otherwise; no faster than the guest takes them */
  input?: Readable | string;
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
}

/** Lines kept to explain a failure. */
const TAIL_LINES = 30;

/** Captured output is parsed: lists of packages, not logs. */
const MAX_CAPTURED_BYTES = 8 * 1024 * 1024;

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
  const run: GuestRun = { exitCode: null, signal: null, timedOut: false, stdout: '', tail: [] };
  const captured: Buffer[] = [];
  let capturedBytes = 0;
  const say = (line: string) => {
    run.tail.push(line);
    if (run.tail.length > TAIL_LINES) run.tail.shift();
    options.onLine?.(line);
  };
  const out = createLineSplitter(say);
  const err = createLineSplitter(say);
  channel.on('data', (chunk: Buffer) => {
    if (!options.capture) return out.push(chunk);
    capturedBytes += chunk.length;
    if (capturedBytes <= MAX_CAPTURED_BYTES) captured.push(chunk);
  });
  channel.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  // not 'exit': of a command that ends at once it may be over before anybody listens, and 'close' repeats it
  channel.once('close', (code?: number | null, signal?: string) => {
    run.exitCode = code ?? null;
    run.signal = signal ?? null;
    resolve();
  });
  channel.on('error', () => {}); // 'close' follows
  const timer = setTimeout(() => {
    run.timedOut = true;
    resolve();
  }, options.timeoutMs);
  const onAbort = () => resolve();
  options.signal?.addEventListener('abort', onAbort, { once: true });
  if (options.signal?.aborted) onAbort(); // while the channel was being opened
  try {
    await Promise.all([ended, feed(channel, options.input, ended)]);
    throwIfCancelled(options.signal);
    return run;
  } finally {
    clearTimeout(timer);
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
  const source = typeof input === 'string' ? Readable.from([input]) : input;
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
