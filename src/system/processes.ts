/** Who a process is (pid alone lies after reuse or reboot), whether it lives, and how to end it. */
import { closeSync, openSync, readFileSync, readlinkSync, readSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { isAbsolute, resolve } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { messageOf, systemCode } from '../errors.ts';
import { sleep } from './abort.ts';

/** A process that cannot be confused with a later one of the same number. */
export interface ProcessIdentity {
  pid: number;
  /** start time in clock ticks since boot, field 22 of /proc/PID/stat */
  startTicks: number;
  /** /proc/sys/kernel/random/boot_id of the boot it lives in */
  bootId: string;
}

/** Sends a signal to a process this user may not signal itself (a VMM launched by sudo). */
export type ForeignKill = (pid: number, signal: 'SIGTERM' | 'SIGKILL') => Promise<void>;

/** How often a dying process is looked at: short against the time a VMM needs to end. */
const POLL_MS = 20;
/** The same at first: most are gone in a moment. */
const FIRST_POLL_MS = 2;
const FIRST_POLLS = 25;

/** How many processes are looked at before others get their turn. */
const LOOKS_AT_ONCE = 250;

let bootId: string | undefined;

export async function readBootId(): Promise<string> {
  bootId ??= (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  return bootId;
}

/** The identity of a living process; undefined when there is none or only a zombie. */
export async function identifyProcess(pid: number): Promise<ProcessIdentity | undefined> {
  const stat = await readProcFile(pid, 'stat');
  if (stat === undefined) return undefined;
  // the command name may hold spaces and parentheses; fields are counted after the last one
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  const startTicks = Number(fields[19]);
  if (state === 'Z' || state === 'X' || !Number.isSafeInteger(startTicks)) return undefined;
  return { pid, startTicks, bootId: await readBootId() };
}

export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  if (identity.bootId !== (await readBootId())) return false;
  const now = await identifyProcess(identity.pid);
  return now?.startTicks === identity.startTicks;
}

/** The halted one (SIGSTOP, debugger) of a process and its children; undefined when all of them may run. */
export function haltedBy(pid: number): number | undefined {
  using states = followStates(pid);
  return states.halted();
}

/** Processes that are asked again and again whether they may run, with files that stay open. */
export interface ProcessStates extends Disposable {
  /** the first one that is halted (SIGSTOP, debugger); undefined when all of them may run or have ended */
  halted(): number | undefined;
}

/** Of a process and the children it has now. Reads at once: the kernel makes these files in microseconds. */
export function followStates(pid: number): ProcessStates {
  const files = [pid, ...childrenOf(pid)].flatMap((each) => {
    // of the process's first thread: the sums over all threads, which nobody needs here, take the kernel longer
    const fd = openProcFile(`${each}/task/${each}/stat`);
    return fd === undefined ? [] : [{ pid: each, fd }];
  });
  return {
    halted: () => files.find(({ fd }) => isHalted(fd))?.pid,
    [Symbol.dispose]() {
      for (const { fd } of files.splice(0)) closeSync(fd);
    },
  };
}

/** Processes that a process's first thread has started and that live. */
export function childrenOf(pid: number): number[] {
  const children = readProcFileSync(`${pid}/task/${pid}/children`) ?? '';
  return children.split(' ').filter(Boolean).map(Number);
}

/** Up to the state: a number, a name of up to 64 bytes in parentheses, and a letter. */
const stat = Buffer.allocUnsafeSlow(128);

function isHalted(fd: number): boolean {
  try {
    const bytes = readSync(fd, stat, 0, stat.length, 0);
    const state = stat.subarray(0, bytes).lastIndexOf(')') + 2;
    return /^[Tt]$/.test(String.fromCharCode(stat[state] ?? 0));
  } catch {
    return false; // ended
  }
}

/** Lets a process and its children go on that were halted; one that is not ours to signal stays as it is. */
export async function letGoOn(pid: number): Promise<void> {
  for (let halted = haltedBy(pid), tries = 0; halted !== undefined && tries < 8; tries++) {
    try {
      process.kill(halted, 'SIGCONT');
    } catch {
      return; // root's, or gone
    }
    await sleep(POLL_MS);
    halted = haltedBy(pid);
  }
}

/** Processes that have this exact text as one of their arguments, oldest first. */
export function findProcessesByArgument(argument: string): Promise<ProcessIdentity[]> {
  return findProcesses((argv) => argv.includes(argument));
}

/**
 * Processes of this user, of root and of some others, other than this one, whose command line is wanted, oldest first.
 * Anybody may write anything into the command line of their own processes.
 * @param also further users whose processes are believed, or what says so of a process that is wanted
 */
export async function findProcesses(
  wanted: (argv: readonly string[], pid: number) => boolean,
  also: readonly number[] | ((user: number, pid: number) => Promise<boolean>) = [],
): Promise<ProcessIdentity[]> {
  const found: ProcessIdentity[] = [];
  const processes = await processIds();
  // asked for side by side, each by a thread: of a process that hangs in the kernel it may never come
  const commandLines = await Promise.all(processes.map((pid) => readProcFile(pid, 'cmdline')));
  for (const [index, pid] of processes.entries()) {
    const commandLine = commandLines[index];
    if (pid === process.pid) continue;
    if (!commandLine || !wanted(commandLine.split('\0'), pid)) continue;
    const user = await userOf(pid);
    if (user === undefined) continue;
    const isOurs = user === 0 || user === process.geteuid?.();
    if (!isOurs && !(typeof also === 'function' ? await also(user, pid) : also.includes(user))) continue;
    const identity = await identifyProcess(pid);
    if (identity) found.push(identity);
  }
  return found.sort((a, b) => a.startTicks - b.startTicks);
}

/**
 * Programs that a daemon which is gone has left at work: as `findProcesses`, and each leads a session of its own without a
 * terminal, as all that are started by `createRunner` do. What people type, and what scripts of theirs run, does not.
 */
export async function findLeftPrograms(
  ...[wanted, also]: Parameters<typeof findProcesses>
): Promise<ProcessIdentity[]> {
  const found = await findProcesses(wanted, also);
  const leads = await Promise.all(found.map(({ pid }) => leadsOwnSession(pid)));
  return found.filter((_, at) => leads[at]);
}

/** proc_pid_stat(5): after the name, state, parent, group, session, terminal. */
async function leadsOwnSession(pid: number): Promise<boolean> {
  const stat = await readProcFile(pid, 'stat');
  const [, , , session, terminal] = stat?.slice(stat.lastIndexOf(')') + 2).split(' ') ?? [];
  return Number(session) === pid && terminal === '0';
}

/**
 * The user a process belongs to by all its ids: root where they are root's and another's; undefined where they are several
 * others', or it has ended. The owner of /proc/PID says root of any process that is not dumpable.
 */
async function userOf(pid: number): Promise<number | undefined> {
  const ids = /^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$/m.exec((await readProcFile(pid, 'status')) ?? '')?.slice(1);
  const users = new Set(ids?.map(Number));
  if (users.size > 1) users.delete(0);
  return users.size === 1 ? [...users][0] : undefined;
}

/** Whether any process of this host has a user among its ids. */
export async function hasProcesses(user: number): Promise<boolean> {
  for (const [looks, pid] of (await processIds()).entries()) {
    if (looks % LOOKS_AT_ONCE === LOOKS_AT_ONCE - 1) await setImmediate();
    // at once: the kernel makes it in microseconds and waits for nobody, and a thread would take longer
    const status = readProcFileSync(`${pid}/status`) ?? '';
    // one that has ended does nothing any more, whenever its parent asks how
    if (/^State:\tZ/m.test(status)) continue;
    const [, ids] = /^Uid:\t([\d\t]+)$/m.exec(status) ?? [];
    if (ids?.split('\t').some((id) => Number(id) === user)) return true;
  }
  return false;
}

async function processIds(): Promise<number[]> {
  return (await readdir('/proc')).map(Number).filter(Number.isSafeInteger);
}

/** Absolute form of a path as a process means it; undefined when it has ended or is not ours to see. */
export function pathAsSeenBy(pid: number, path: string): string | undefined {
  if (isAbsolute(path)) return path;
  try {
    return resolve(readlinkSync(`/proc/${pid}/cwd`), path);
  } catch {
    return undefined;
  }
}

/** Whether a path, as a process means it, is a directory or leads into it. */
export function isIn(directory: string, path: string, pid: number): boolean {
  // most words of most command lines are no paths
  if (!path.includes('.') && !path.includes('/')) return false;
  const absolute = pathAsSeenBy(pid, path);
  return absolute !== undefined && (absolute === directory || absolute.startsWith(`${directory}/`));
}

/** Whether a process works in a directory, or below it: where others may not enter, it is no stranger. */
export function worksIn(directory: string, pid: number): boolean {
  return isIn(directory, '.', pid);
}

/**
 * Ends a process: SIGTERM, `graceMs` of patience, SIGKILL. One that is already gone succeeds.
 * @returns false when it still lives `killWaitMs` after SIGKILL (uninterruptible in the kernel)
 */
export async function endProcess(
  identity: ProcessIdentity,
  options: { graceMs: number; killWaitMs?: number; foreignKill?: ForeignKill },
): Promise<boolean> {
  if (!(await isAlive(identity))) return true;
  if (options.graceMs > 0) {
    await signalProcess(identity, 'SIGTERM', options.foreignKill);
    if (await waitForEnd(identity, options.graceMs)) return true;
  }
  await signalProcess(identity, 'SIGKILL', options.foreignKill);
  return await waitForEnd(identity, options.killWaitMs ?? 10_000);
}

/** @returns whether the process ended within `limitMs` */
export async function waitForEnd(identity: ProcessIdentity, limitMs: number, signal?: AbortSignal): Promise<boolean> {
  const deadline = performance.now() + limitMs;
  for (let looks = 0; await isAlive(identity); looks++) {
    if (performance.now() >= deadline) return false;
    await sleep(looks < FIRST_POLLS ? FIRST_POLL_MS : POLL_MS, signal);
  }
  return true;
}

async function signalProcess(
  identity: ProcessIdentity,
  signal: 'SIGTERM' | 'SIGKILL',
  foreignKill: ForeignKill | undefined,
): Promise<void> {
  if (!(await isAlive(identity))) return;
  try {
    process.kill(identity.pid, signal);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ESRCH') return;
    if (code !== 'EPERM' || !foreignKill) throw new Error(`cannot end process ${identity.pid}: ${messageOf(error)}`);
    await foreignKill(identity.pid, signal);
  }
}

async function readProcFile(pid: number, file: string): Promise<string | undefined> {
  try {
    return await readFile(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return undefined; // ended between two looks, or not ours to see
  }
}

function readProcFileSync(file: string): string | undefined {
  try {
    return readFileSync(`/proc/${file}`, 'utf8');
  } catch {
    return undefined; // see above
  }
}

function openProcFile(file: string): number | undefined {
  try {
    return openSync(`/proc/${file}`, 'r');
  } catch {
    return undefined; // see above
  }
}
