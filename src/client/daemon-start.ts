/** Starting bangerd when it is needed and nobody has: detached, with its log in a file. */
import { open, readFile, rename, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import { ensurePrivateDirectory } from '../system/files.ts';
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
  /** limit in `ms` for the socket to answer while the daemon gets on; default 60_000 */
  timeoutMs?: number;
  /** limit in `ms` for a daemon that does nothing at all; default 10_000 */
  stallMs?: number;
  /** called once when it takes so long that a person wonders */
  onSlow?: () => void;
}

/** Short against the daemon's own start, which takes a few hundred milliseconds. */
const POLL_MS = 10;
/** Where the daemon takes long a look does too, and takes from it: there is one after so much of the time that has passed. */
const POLL_SHARE = 0.05;
/** A log larger than this is set aside as `.1` at the next start, so that two of them are the most there is. */
const MAX_LOG_BYTES = 8 * 1024 * 1024;
/** Enough to see why a start failed. */
const TAIL_LINES = 8;
/** When a person is told that it takes its time. */
const SLOW_MS = 3000;
/** How often it is looked whether the daemon gets on. */
const PROGRESS_MS = 500;

/** In the environment of a daemon that a client starts: one that finds another in its place says nothing, and ends with this. */
export const ON_DEMAND = 'BANGER_ON_DEMAND';
export const EXIT_OTHER_DAEMON = 75;
/** EX_CONFIG, with which a daemon of systemd ends that cannot start: units name it as what no further try mends. */
export const EXIT_START_REFUSED = 78;
/** When another daemon that was there first is no longer counted on. */
const OTHER_DAEMON_MS = 3000;

type Exit = Awaited<DetachedProcess['ended']>;

/**
 * Starts the daemon in its own session and returns when its socket answers. On a slow host that takes long: it is waited for
 * as long as its process lives and gets on.
 * @throws BangerError `daemon_unreachable` with the last lines of its log when it does not come up
 */
export async function startDaemon(options: DaemonStartOptions): Promise<void> {
  const { timeoutMs = 60_000, stallMs = 10_000 } = options;
  const began = performance.now();
  let slow = false;
  let started = await launch(options);
  while (!(await answers(options.socketPath))) {
    const now = performance.now();
    const { exit } = started;
    if (exit && exit.code !== EXIT_OTHER_DAEMON) {
      throw await failure(
        options.logFile,
        started.logStart,
        `The daemon ended ${describe(exit)} while it was starting.`,
      );
    }
    if (now - began > timeoutMs) {
      throw await failure(options.logFile, started.logStart, `The daemon did not answer within ${timeoutMs / 1000} s.`);
    }
    // the one that was there first may have failed since: then this one gets its place, or says why not
    if (exit && now - started.exitAt > OTHER_DAEMON_MS) started = await launch(options);
    else if (!exit && now - (await started.lastProgress()) > stallMs) {
      const what = `The daemon did not answer and did nothing for ${stallMs / 1000} s.`;
      throw await failure(options.logFile, started.logStart, what);
    }
    if (!slow && now - began > SLOW_MS) {
      slow = true;
      options.onSlow?.();
    }
    await sleep(Math.max(POLL_MS, POLL_SHARE * (now - began)));
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

interface Started {
  /** where its part of the log begins */
  logStart: number;
  /** how it ended, when it has */
  exit?: Exit;
  exitAt: number;
  /** when it was last seen to get on, on the clock of `performance.now` */
  lastProgress(): Promise<number>;
}

async function launch(options: DaemonStartOptions): Promise<Started> {
  await ensurePrivateDirectory(dirname(options.logFile));
  const size = await sizeOf(options.logFile);
  if (size > MAX_LOG_BYTES) await rename(options.logFile, `${options.logFile}.1`);
  const log = await open(options.logFile, 'a', 0o600);
  try {
    const logStart = (await log.stat()).size;
    const child = await options.runner.startDetached(options.argv, {
      stdout: log.fd,
      stderr: log.fd,
      env: { ...DAEMON_MEMORY, ...options.env, [ON_DEMAND]: '1' },
      cwd: '/', // a daemon keeps no directory of the user busy
    });
    const started: Started = { logStart, exitAt: 0, lastProgress: followProgress(child.pid, options.logFile) };
    void child.ended.then((exit) => {
      started.exit = exit;
      started.exitAt = performance.now();
    });
    return started;
  } finally {
    await log.close();
  }
}

/** What a daemon does shows in the time it and its programs take, in what it reads, and in its log. */
function followProgress(pid: number, logFile: string): () => Promise<number> {
  let seen = '';
  let lookedAt = performance.now();
  let progressAt = lookedAt;
  return async () => {
    const now = performance.now();
    if (now - lookedAt < PROGRESS_MS) return progressAt;
    lookedAt = now;
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // from the 12th field on: major page faults, theirs of its children, and the four times
    const work = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .slice(9, 15);
    const next = [...work, await sizeOf(logFile)].join(' ');
    if (next !== seen) progressAt = now;
    seen = next;
    return progressAt;
  };
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch {
    return 0; // not there yet
  }
}

function describe(exit: Exit): string {
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
