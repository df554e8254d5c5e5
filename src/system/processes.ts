/** Who a process is (pid alone lies after reuse or reboot), whether it lives, and how to end it. */
import { readdir, readFile } from 'node:fs/promises';
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
export async function haltedBy(pid: number): Promise<number | undefined> {
  const children = (await readProcFile(pid, `task/${pid}/children`)) ?? '';
  for (const each of [pid, ...children.split(' ').filter(Boolean).map(Number)]) {
    const stat = await readProcFile(each, 'stat');
    if (stat !== undefined && /^[Tt]$/.test(stat.charAt(stat.lastIndexOf(')') + 2))) return each;
  }
  return undefined;
}

/** Lets a process and its children go on that were halted; one that is not ours to signal stays as it is. */
export async function letGoOn(pid: number): Promise<void> {
  for (let halted = await haltedBy(pid), tries = 0; halted !== undefined && tries < 8; tries++) {
    try {
      process.kill(halted, 'SIGCONT');
    } catch {
      return; // root's, or gone
    }
    await sleep(POLL_MS);
    halted = await haltedBy(pid);
  }
}

/** Processes that have this exact text as one of their arguments, oldest first. */
export function findProcessesByArgument(argument: string): Promise<ProcessIdentity[]> {
  return findProcesses((argv) => argv.includes(argument));
}

/** Processes other than this one whose command line is wanted, oldest first. */
export async function findProcesses(
  wanted: (argv: readonly string[], pid: number) => boolean,
): Promise<ProcessIdentity[]> {
  const found: ProcessIdentity[] = [];
  for (const entry of await readdir('/proc')) {
    const pid = Number(entry);
    if (!Number.isSafeInteger(pid) || pid === process.pid) continue;
    const commandLine = await readProcFile(pid, 'cmdline');
    if (!commandLine || !wanted(commandLine.split('\0'), pid)) continue;
    const identity = await identifyProcess(pid);
    if (identity) found.push(identity);
  }
  return found.sort((a, b) => a.startTicks - b.startTicks);
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
  while (await isAlive(identity)) {
    if (performance.now() >= deadline) return false;
    await sleep(POLL_MS, signal);
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
