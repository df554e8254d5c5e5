/** Starting bangerd when it is needed and nobody has: detached, with its log in a file. */
import { mkdir, open, readFile, rename, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import type { Argv, DetachedProcess, Runner } from '../system/runner.ts';
import { DAEMON_MEMORY } from './daemon-env.ts';

export interface DaemonStartOptions {
  /** command line of the daemon, e.g. `banger daemon run` */
  argv: Argv;
  socketPath: string;
  /** file that takes what the daemon writes to stdout and stderr */
  logFile: string;
  env: NodeJS.ProcessEnv;
  runner: Pick<Runner, 'startDetached'>;
  /** limit in `ms` for the socket to answer; default 10_000 */
  timeoutMs?: number;
}

/** Short against the daemon's own start, which takes a few hundred milliseconds. */
const POLL_MS = 10;
/** A log larger than this is set aside as `.1` at the next start, so that two of them are the most there is. */
const MAX_LOG_BYTES = 8 * 1024 * 1024;
/** Enough to see why a start failed. */
const TAIL_LINES = 8;
/** Exit status of a daemon that found another one in its place: that one is as good. */
const EXIT_OTHER_DAEMON = 5;

/**
 * Starts the daemon in its own session and returns when its socket answers.
 * @throws BangerError `daemon_unreachable` with the last lines of its log when it does not come up
 */
export async function startDaemon(options: DaemonStartOptions): Promise<void> {
  const timeoutMs = options.timeoutMs ?? 10_000;
  const deadline = performance.now() + timeoutMs;
  const { child, logStart } = await launch(options);
  let exit: { code: number | null; signal: NodeJS.Signals | null } | undefined;
  void child.ended.then((ended) => {
    exit = ended;
  });
  while (!(await answers(options.socketPath))) {
    if (exit && exit.code !== EXIT_OTHER_DAEMON) {
      throw await failure(options.logFile, logStart, `The daemon ended ${describe(exit)} while it was starting.`);
    }
    if (performance.now() > deadline) {
      throw await failure(options.logFile, logStart, `The daemon did not answer within ${timeoutMs / 1000} s.`);
    }
    await sleep(POLL_MS);
  }
}

/** Whether somebody accepts connections on a Unix socket. */
export function answers(socketPath: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(socketPath);
  socket.once('connect', () => {
    socket.destroy();
    resolve(true);
  });
  socket.once('error', () => resolve(false));
  return promise;
}

async function launch(options: DaemonStartOptions): Promise<{ child: DetachedProcess; logStart: number }> {
  await mkdir(dirname(options.logFile), { recursive: true, mode: 0o700 });
  const size = await sizeOf(options.logFile);
  if (size > MAX_LOG_BYTES) await rename(options.logFile, `${options.logFile}.1`);
  const log = await open(options.logFile, 'a', 0o600);
  try {
    const logStart = (await log.stat()).size;
    const child = await options.runner.startDetached(options.argv, {
      stdout: log.fd,
      stderr: log.fd,
      env: { ...DAEMON_MEMORY, ...options.env },
      cwd: '/', // a daemon keeps no directory of the user busy
    });
    return { child, logStart };
  } finally {
    await log.close();
  }
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch {
    return 0; // not there yet
  }
}

function describe(exit: { code: number | null; signal: NodeJS.Signals | null }): string {
  return exit.signal ? `by ${exit.signal}` : `with status ${exit.code}`;
}

async function failure(logFile: string, logStart: number, message: string): Promise<BangerError> {
  const log = (await readFile(logFile)).subarray(logStart).toString('utf8');
  const lines = log.split('\n').filter((line) => line.trim() !== '' && !isStackFrame(line));
  const tail = lines.slice(-TAIL_LINES).map(readable);
  const shown = tail.map((line) => `\n  ${line}`).join('');
  return new BangerError('daemon_unreachable', `${message}${shown}`, {
    hint: `The whole log is in ${logFile}; \`banger daemon run\` starts it in the foreground.`,
    details: { log: tail },
  });
}

function isStackFrame(line: string): boolean {
  return /^\s+at /.test(line);
}

/** The message of a JSON log line; any other line as it is. */
function readable(line: string): string {
  try {
    const entry: unknown = JSON.parse(line);
    if (typeof entry === 'object' && entry !== null && 'msg' in entry && typeof entry.msg === 'string')
      return entry.msg;
  } catch {
    // no JSON: written by the runtime or by a crash
  }
  return line;
}
