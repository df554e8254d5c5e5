/** Starts a VMM in a session of its own, so that it survives the daemon, and waits until its API answers. */
import { constants, type FileHandle, open, readFile, rm } from 'node:fs/promises';
import { dirname, relative } from 'node:path';
import { BangerError, systemCode } from '../errors.ts';
import { sleep, throwIfCancelled } from '../system/abort.ts';
import { userOfDirectory } from '../system/confinement.ts';
import { pathExists } from '../system/files.ts';
import { findProcesses, identifyProcess, type ProcessIdentity, pathAsSeenBy } from '../system/processes.ts';
import type { Argv, DetachedProcess, Runner } from '../system/runner.ts';
import { describeVmm } from './api.ts';
import { lastLines, removeLog, rotateLog } from './console.ts';

export interface LaunchOptions {
  /** program and leading arguments of the VMM, e.g. `['/usr/bin/firecracker']`, or sudo in front of it */
  program: Argv;
  /** `--id`: letters, digits and dashes */
  id: string;
  /** where it works: relative paths that it is told begin here */
  directory: string;
  socketPath: string;
  consoleLog: string;
  /** whether its guest goes on from memory, and its console with it */
  continues?: boolean;
  vmmLog: string;
  env: NodeJS.ProcessEnv;
  /** takes rights away from the command line that would start it */
  confine?: (argv: Argv) => Argv;
  /** called with its process id before it has started anything */
  onStarted?: (pid: number) => Promise<void>;
  /** user it runs as, who is told only names in its directory; the daemon's without one */
  user?: number | undefined;
  signal?: AbortSignal;
  /** limit in `ms` for the API to answer; default 60_000 */
  readyTimeoutMs?: number;
}

export interface RunningVmm {
  identity: ProcessIdentity;
  /** how the process ended; only known to the daemon that started it */
  ended: DetachedProcess['ended'];
}

/** From start to an answering API Firecracker needs some 10 ms and fcqemu 150; on a host that is emulated and busy it was 15 s. */
const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 3;
/** What one question gets to be answered; a VMM that takes longer is asked again. */
const ANSWER_TIMEOUT_MS = 2000;

/** By this argument and the next one a VMM is found again. */
const SOCKET_FLAG = '--api-sock';

/**
 * @throws BangerError `host_unprepared` when the program is not installed
 * @throws BangerError `vmm_failed` when it ends or stays silent; the message carries its last log lines
 */
export async function launchVmm(runner: Runner, options: LaunchOptions): Promise<RunningVmm> {
  // nothing unlinks the socket when a VMM ends, and the next one refuses to start on a left-over file
  await rm(options.socketPath, { force: true });
  await rotateLog(options.vmmLog);
  await removeLog(options.vmmLog); // the VMM writes from offset 0 without truncating
  if (!options.continues) await rotateLog(options.consoleLog);
  const { user, confine = (argv) => argv } = options;
  await using vmmLog = await open(options.vmmLog, 'wx', 0o600);
  await using consoleFile = await openToAppend(options.consoleLog);

  if (user !== undefined) for (const file of [vmmLog, consoleFile]) await file.chown(user, user);
  const named = (path: string) => (user === undefined ? path : relative(options.directory, path));
  const flags = [SOCKET_FLAG, named(options.socketPath), '--id', options.id, '--log-path', named(options.vmmLog)];
  const started = await runner.startDetached(
    confine([...options.program, ...flags]),
    // standard error joins the console: it is where a VMM says why it could not even read its arguments
    { stdout: consoleFile.fd, stderr: consoleFile.fd, env: options.env, cwd: options.directory },
  );
  let exit: Awaited<DetachedProcess['ended']> | undefined;
  const ended = started.ended.then((how) => {
    exit = how;
    return how;
  });

  try {
    await options.onStarted?.(started.pid);
    const readyTimeoutMs = options.readyTimeoutMs ?? READY_TIMEOUT_MS;
    const deadline = performance.now() + readyTimeoutMs;
    while (!(await answers(options))) {
      throwIfCancelled(options.signal);
      if (exit) throw await launchError(options, `ended at once (${describeExit(exit)})`);
      if (performance.now() > deadline) {
        throw await launchError(options, `did not answer on its API socket within ${readyTimeoutMs / 1000} s`);
      }
      await sleep(READY_POLL_MS, options.signal);
    }
    const identity = (await isVmm(started.pid, options)) ?? (await findVmm(options.socketPath));
    if (!identity) throw await launchError(options, 'ended right after its API had answered');
    return { identity, ended };
  } catch (error) {
    endGroup(started.pid);
    throw error;
  }
}

/**
 * One that is there is opened as such: where fs.protected_regular is set, a file that another user has in the directory of a VM
 * (after a start that was given up) cannot be opened by a call that would create it.
 */
async function openToAppend(path: string): Promise<FileHandle> {
  const flags = constants.O_WRONLY | constants.O_APPEND;
  try {
    return await open(path, flags);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    return await open(path, flags | constants.O_CREAT | constants.O_EXCL, 0o600);
  }
}

/** What was started, where that has become the VMM itself: sudo stays its parent. */
async function isVmm(pid: number, { socketPath }: LaunchOptions): Promise<ProcessIdentity | undefined> {
  const argv = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  if (servedSocket(argv.split('\0'), pid) !== socketPath || (await isSudo(pid))) return undefined;
  return await identifyProcess(pid);
}

/** Ends what was started with all its children: one that is no VMM is not found by its arguments later. */
function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL'); // a session of its own is a process group of its own
  } catch {
    // gone already, or root's: what sudo runs is ended when the VM is released
  }
}

/** The VMM that serves this socket: known by its arguments, even to a daemon that did not start it. */
export async function findVmm(socketPath: string): Promise<ProcessIdentity | undefined> {
  return (await findVmms(socketPath))[0];
}

/** All that claim to, the newest first: of several each may have the VM's disks open. */
export async function findVmms(socketPath: string): Promise<ProcessIdentity[]> {
  const user = await userOfDirectory(dirname(socketPath));
  const candidates = await findProcesses(
    (argv, pid) => servedSocket(argv, pid) === socketPath,
    user === undefined ? [] : [user],
  );
  const found: ProcessIdentity[] = [];
  for (const candidate of candidates.reverse()) {
    if (!(await isSudo(candidate.pid))) found.push(candidate); // sudo waits as the parent of what it ran
  }
  return found;
}

/** A VMM with the socket it serves. */
export type ServingVmm = ProcessIdentity & { socketPath: string };

/**
 * Every VMM that serves a socket of ours, by one look at the processes: of this user, of root, and of the user whose
 * programs work in the socket's directory.
 */
export async function listVmms(isOurs: (socketPath: string) => boolean): Promise<ServingVmm[]> {
  const sockets = new Map<number, string>();
  const wanted = (argv: readonly string[], pid: number) => {
    const path = servedSocket(argv, pid);
    if (path === undefined || !isOurs(path)) return false;
    sockets.set(pid, path);
    return true;
  };
  const candidates = await findProcesses(wanted, async (user, pid) => {
    const path = sockets.get(pid);
    return path !== undefined && user === (await userOfDirectory(dirname(path)));
  });
  const found = await Promise.all(
    candidates.map(async (candidate) => {
      const socketPath = sockets.get(candidate.pid);
      return socketPath === undefined || (await isSudo(candidate.pid)) ? [] : [{ ...candidate, socketPath }];
    }),
  );
  return found.flat();
}

/** The socket a command line names, as its process means it. The flag too: a curl that looks at the socket is no VMM. */
function servedSocket(argv: readonly string[], pid: number): string | undefined {
  const at = argv.indexOf(SOCKET_FLAG);
  const path = at < 0 ? undefined : argv[at + 1];
  return path === undefined || path === '' ? undefined : pathAsSeenBy(pid, path);
}

/** What Firecracker means by the exit statuses that only its own faults have. */
const FAULTS: Record<number, string> = {
  134: 'it gave itself up, SIGABRT',
  148: 'a system call that its filter forbids',
  149: 'SIGBUS: memory it was given was not there',
  150: 'SIGSEGV',
  151: 'SIGXFSZ: a file would have become larger than its limit',
  154: 'SIGXCPU: its limit of processor time',
  157: 'SIGILL',
};

export function describeExit({ code, signal }: { code: number | null; signal: string | null }): string {
  if (signal) return `killed by ${signal}`;
  const fault = code === null ? undefined : FAULTS[code];
  return `exit status ${code}${fault === undefined ? '' : `, ${fault}`}`;
}

async function answers({ socketPath, readyTimeoutMs }: LaunchOptions): Promise<boolean> {
  if (!(await pathExists(socketPath))) return false;
  const limitMs = Math.min(ANSWER_TIMEOUT_MS, readyTimeoutMs ?? ANSWER_TIMEOUT_MS);
  return await describeVmm(socketPath, limitMs).then(
    (answer) => answer !== 'silent',
    () => false,
  );
}

async function isSudo(pid: number): Promise<boolean> {
  const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  return name.trim() === 'sudo';
}

async function launchError(options: LaunchOptions, what: string): Promise<BangerError> {
  const lines = [...(await lastLines(options.vmmLog, 5)), ...(await lastLines(options.consoleLog, 5))];
  const said = lines.length > 0 ? ` Its last words:\n${lines.map((line) => `    ${line}`).join('\n')}` : '';
  return new BangerError('vmm_failed', `The VMM \`${options.program.join(' ')}\` ${what}.${said}`, {
    hint: 'See whether this host can run VMs: banger doctor',
    details: { log: lines },
  });
}
