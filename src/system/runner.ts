/** The one place that starts host programs: by argument list, never through a shell. */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import type { Readable, Writable } from 'node:stream';
import { BangerError, systemCode } from '../errors.ts';
import { timerMs } from '../units.ts';
import { throwIfCancelled } from './abort.ts';
import { endGroup } from './process-group.ts';
import type { ForeignKill } from './processes.ts';

/** Program and arguments; the first element is looked up in PATH. */
export type Argv = readonly [string, ...string[]];

export interface RunOptions {
  /** wall-clock limit in `ms`, after which it is ended with all it started; default 60_000 */
  timeoutMs?: number;
  /** ends the program and all it started when aborted */
  signal?: AbortSignal;
  /** how it is ended where this user may not signal it: what sudo runs is root's */
  foreignKill?: ForeignKill;
  /** text or bytes written to standard input, which is empty otherwise */
  input?: string | Buffer | Readable;
  /** descriptor of this process that becomes standard input, instead of `input` */
  stdin?: number;
  /** takes standard output as it comes, which is not in the result then; nothing ends it */
  output?: Writable;
  /** environment of the program; the runner's own otherwise */
  env?: NodeJS.ProcessEnv;
  /** working directory */
  cwd?: string;
  /** exit statuses that are not errors; default `[0]` */
  okExits?: readonly number[];
  /** called with each line of output as it comes, stdout and stderr alike */
  onLine?: (line: string) => void;
}

export interface RunResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

export interface DetachedOptions {
  /** file descriptor for standard output */
  stdout: number | 'ignore';
  /** file descriptor for standard error */
  stderr: number | 'ignore';
  env?: NodeJS.ProcessEnv;
  cwd?: string;
}

/** A program started in its own session, which outlives the one who started it. */
export interface DetachedProcess {
  /** process id */
  pid: number;
  /** resolves with how it ended, while this process still lives to see it */
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

export interface Runner {
  /**
   * Runs a program to completion, in a session of its own. The answer is there at the latest `SETTLE_MS` after the limit or the
   * abort, whatever the program does then, and `QUIET_MS` after its end, whoever still holds its output.
   * @throws BangerError `command_failed` with the command line and the last line of stderr
   * @throws BangerError `host_unprepared` when the program is not installed
   * @throws BangerError `timeout` when it ran longer than `timeoutMs`
   * @throws BangerError `cancelled` when `signal` was aborted
   */
  run(argv: Argv, options?: RunOptions): Promise<RunResult>;
  /**
   * Starts a program in a session of its own (setsid), standard input closed.
   * @throws BangerError `host_unprepared` when the program is not installed or may not be executed
   */
  startDetached(argv: Argv, options: DetachedOptions): Promise<DetachedProcess>;
}

/** Output kept per stream: enough for every program we parse, and bounded whatever a program prints. */
const MAX_OUTPUT_BYTES = 32 * 1024 * 1024;

/** What a program that is ended, and all that hold its output, get to be gone before nobody waits for them any more. */
export const SETTLE_MS = 500;

/** Output that does not end with its program is read until it has been quiet for so long: something was left behind. */
export const QUIET_MS = 1000;

/** Parsed output must not depend on the user's language. */
const C_LOCALE = { LC_ALL: 'C.UTF-8' };

export function createRunner(defaultEnv: NodeJS.ProcessEnv = process.env): Runner {
  return {
    async run(argv, options = {}) {
      throwIfCancelled(options.signal);
      return await collect(spawnChild(argv, defaultEnv, options), argv, options);
    },

    async startDetached(argv, options) {
      const [program, ...args] = argv;
      const child = spawn(program, args, {
        cwd: options.cwd,
        env: options.env ?? defaultEnv,
        detached: true,
        stdio: ['ignore', options.stdout, options.stderr],
      });
      const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
        child.once('exit', (code, signal) => resolve({ code, signal }));
      });
      await new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve);
        child.on('error', (error) => reject(startError(program, error)));
      });
      child.unref();
      if (child.pid === undefined) throw new BangerError('internal', `\`${program}\` started without a process id.`);
      return { pid: child.pid, ended };
    },
  };
}

function spawnChild([program, ...args]: Argv, defaultEnv: NodeJS.ProcessEnv, options: RunOptions): ChildProcess {
  try {
    return spawn(program, args, {
      cwd: options.cwd,
      env: { ...(options.env ?? defaultEnv), ...C_LOCALE },
      // a group of its own is ended with everything in it
      detached: true,
      stdio: [options.stdin ?? (options.input === undefined ? 'ignore' : 'pipe'), 'pipe', 'pipe'],
    });
  } catch (error) {
    throw startError(program, error instanceof Error ? error : new Error(String(error)));
  }
}

function collect(child: ChildProcess, argv: Argv, options: RunOptions): Promise<RunResult> {
  const { promise, resolve, reject } = Promise.withResolvers<RunResult>();
  const timeoutMs = options.timeoutMs ?? 60_000;
  /** why it is ended before its time */
  let ending: BangerError | undefined;
  let exit: { code: number | null; signal: NodeJS.Signals | null } | undefined;
  let killRest = () => {};
  let settling: NodeJS.Timeout | undefined;
  let quiet: NodeJS.Timeout | undefined;

  const stop = (error: BangerError) => {
    if (ending || child.pid === undefined) return;
    if (exit) return finish(); // its status is known, only its output has not ended
    ending = error;
    settling = setTimeout(finish, SETTLE_MS);
    killRest = endGroup({ pid: child.pid, hasEnded: () => exit !== undefined, foreignKill: options.foreignKill });
  };
  const timer = setTimeout(
    () => stop(new BangerError('timeout', `\`${commandLine(argv)}\` did not end within ${timeoutMs / 1000} s.`)),
    timerMs(timeoutMs),
  );
  const onAbort = () => stop(new BangerError('cancelled', `\`${argv[0]}\` was stopped on request.`));
  options.signal?.addEventListener('abort', onAbort, { once: true });

  const heard = () => void quiet?.refresh();
  const stdout = options.output
    ? passOn(child.stdout, options.output, heard)
    : gather(child.stdout, options.onLine, heard);
  const stderr = gather(child.stderr, options.onLine, heard);
  if (child.stdin && options.input !== undefined) {
    // a program that ends without reading its input is judged by its exit status, not by EPIPE
    child.stdin.on('error', () => {});
    if (typeof options.input === 'string' || Buffer.isBuffer(options.input)) child.stdin.end(options.input);
    else feed(options.input, child.stdin, (error) => stop(inputError(argv, error)));
  }

  // on, not once: an error that nobody listens to ends this process
  child.on('error', (error) => {
    if (child.pid !== undefined) return; // it runs, and its end is what counts
    ending ??= startError(argv[0], error);
    finish();
  });
  child.once('exit', (code, signal) => {
    exit = { code, signal };
    if (ending) killRest();
    else quiet = setTimeout(onQuiet, QUIET_MS);
  });
  child.once('close', finish);

  function onQuiet() {
    // a reader that is slow keeps it quiet, and not a program that was left behind
    if (options.output?.writableNeedDrain) heard();
    else finish();
  }

  function finish() {
    for (const each of [timer, settling, quiet]) clearTimeout(each);
    options.signal?.removeEventListener('abort', onAbort);
    // whoever still holds the other ends must hold neither our descriptors nor this process
    for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
    child.unref();
    const { code, signal } = exit ?? { code: null, signal: null };
    const result: RunResult = {
      exitCode: code ?? 128 + (signal ? constants.signals[signal] : 0),
      stdout: stdout(),
      stderr: stderr(),
    };
    if (ending) reject(exit || child.pid === undefined ? ending : stillThere(ending, child.pid));
    else if (code !== null && (options.okExits ?? [0]).includes(code)) resolve(result);
    else reject(exitError(argv, code, signal, result));
  }
  return promise;
}

/** Passes a stream on; one that breaks ends the program, which would take what it got for the whole. */
function feed(input: Readable, stdin: Writable, onError: (error: Error) => void): void {
  input.on('error', onError);
  input.pipe(stdin);
}

/** Gives a program's output to who wants it as bytes; it is not kept. */
function passOn(stream: Readable | null, output: Writable, heard: () => void): () => string {
  stream?.on('error', () => {}); // a pipe that breaks has ended
  stream?.on('data', heard);
  stream?.pipe(output, { end: false });
  return () => '';
}

function inputError(argv: Argv, cause: Error): BangerError {
  return new BangerError('command_failed', `\`${argv[0]}\` got only part of its input: ${cause.message}`, { cause });
}

/** What is said of a program that neither signal has ended: it hangs in the kernel, or is root's. */
function stillThere(error: BangerError, pid: number): BangerError {
  return error.reworded(`${error.message} It could not be ended: process ${pid} is still there.`, {
    hint: `See what it waits for: sudo cat /proc/${pid}/stack   and end it: sudo kill -KILL ${pid}`,
    details: { pid },
  });
}

/** Collects a stream up to the limit and cuts it in lines for `onLine`; what is returned ends it. */
function gather(
  stream: Readable | null,
  onLine: ((line: string) => void) | undefined,
  heard: () => void,
): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  let partial = '';
  stream?.on('error', () => {}); // a pipe that breaks has ended
  stream?.on('data', (chunk: Buffer) => {
    heard();
    if (size < MAX_OUTPUT_BYTES) {
      chunks.push(chunk);
      size += chunk.length;
    }
    if (!onLine) return;
    const lines = (partial + chunk.toString('utf8')).split(/\r?\n/);
    partial = (lines.pop() ?? '').slice(-4096);
    for (const line of lines) onLine(line);
  });
  return () => {
    if (onLine && partial) onLine(partial);
    partial = '';
    return Buffer.concat(chunks).toString('utf8');
  };
}

function startError(program: string, error: Error): BangerError {
  const code = systemCode(error);
  if (code === 'ENOENT') {
    const where = program.includes('/') ? 'at that path' : 'in PATH';
    return new BangerError('host_unprepared', `The program \`${program}\` is not installed (looked ${where}).`, {
      cause: error,
      hint: 'Run `banger doctor` for the command that installs it.',
      details: { program },
    });
  }
  if (code === 'EACCES') {
    return new BangerError('host_unprepared', `The program \`${program}\` may not be executed by this user.`, {
      cause: error,
      hint: program.includes('/') ? `ls -l ${program}` : `ls -l "$(which -a ${program} | head -n 1)"`,
      details: { program },
    });
  }
  return new BangerError('command_failed', `\`${program}\` could not be started: ${error.message}`, { cause: error });
}

function exitError(argv: Argv, code: number | null, signal: string | null, result: RunResult): BangerError {
  const lastLine = (result.stderr.trim() || result.stdout.trim()).split('\n').at(-1)?.trim();
  const how = signal ? `was killed by ${signal}` : `ended with ${code}`;
  return new BangerError('command_failed', `\`${commandLine(argv)}\` ${how}${lastLine ? `: ${lastLine}` : '.'}`, {
    details: { argv: [...argv], exitCode: code, signal, stderr: result.stderr.slice(-4000) },
  });
}

/** The command as a person could paste it; for messages only, never executed. */
export function commandLine(argv: readonly string[]): string {
  return argv.map((part) => (/^[\w@%+=:,./-]+$/.test(part) ? part : `'${part.replaceAll("'", `'\\''`)}'`)).join(' ');
}
