/** What a process costs, read from /proc: processor time, memory, input and output, threads, age. */
import { readdir, readFile } from 'node:fs/promises';

/** The fields banger reads of /proc/PID/stat (proc_pid_stat(5)), in the kernel's own units. */
export interface ProcessStat {
  pid: number;
  /** command name, at most 15 bytes, which may hold anything */
  name: string;
  /** `R`, `S`, `D`, `Z`, … */
  state: string;
  parentPid: number;
  /** processor time spent in user and kernel mode, in clock ticks */
  cpuTicks: number;
  threads: number;
  /** start time in clock ticks since boot */
  startTicks: number;
  /** resident set in pages */
  rssPages: number;
}

/** Bytes a process moved from and to block devices. */
export interface ProcessIo {
  readBytes: number;
  /** counted when a page becomes dirty, so before it reaches the device */
  writtenBytes: number;
}

/** The kernel's units, which it tells every process in its auxiliary vector. */
export interface KernelUnits {
  pageBytes: number;
  ticksPerSecond: number;
}

/** One process, in units that need no explanation. */
export interface ProcessStats {
  pid: number;
  name: string;
  cpuMs: number;
  rssBytes: number;
  threads: number;
  startTicks: number;
  /** null when this user may not see it: the process belongs to somebody else */
  io: ProcessIo | null;
}

/** Linux on x86-64; what is not told is this. */
const USUAL_UNITS: KernelUnits = { pageBytes: 4096, ticksPerSecond: 100 };

/** Keys of the auxiliary vector (include/uapi/linux/auxvec.h). */
const AT_PAGESZ = 6n;
const AT_CLKTCK = 17n;

/** Reads a line of /proc/PID/stat; undefined when it is none. */
export function parseProcessStat(text: string): ProcessStat | undefined {
  // the name stands in parentheses and may hold spaces and parentheses itself: the last one closes it
  const open = text.indexOf(' (');
  const close = text.lastIndexOf(')');
  if (open < 0 || close < open) return undefined;
  const fields = text
    .slice(close + 1)
    .trim()
    .split(' ');
  // field numbers of the manual page; the first one after the name is number 3
  const number = (field: number) => Number(fields[field - 3] ?? Number.NaN);
  const stat: ProcessStat = {
    pid: Number(text.slice(0, open)),
    name: text.slice(open + 2, close),
    state: fields[0] ?? '',
    parentPid: number(4),
    cpuTicks: number(14) + number(15),
    threads: number(20),
    startTicks: number(22),
    rssPages: number(24),
  };
  const numbers = [stat.pid, stat.parentPid, stat.cpuTicks, stat.threads, stat.startTicks, stat.rssPages];
  return numbers.every(Number.isSafeInteger) ? stat : undefined;
}

/** Reads /proc/PID/io; undefined when a counter is missing. */
export function parseProcessIo(text: string): ProcessIo | undefined {
  const counter = (name: string) => Number(new RegExp(`^${name}: (\\d+)$`, 'm').exec(text)?.[1] ?? Number.NaN);
  const io = { readBytes: counter('read_bytes'), writtenBytes: counter('write_bytes') };
  return Number.isSafeInteger(io.readBytes) && Number.isSafeInteger(io.writtenBytes) ? io : undefined;
}

/** Reads an auxiliary vector of a 64-bit process: pairs of key and value in the machine's order. */
export function parseAuxiliaryVector(bytes: Buffer): KernelUnits {
  const units = { ...USUAL_UNITS };
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    const value = Number(bytes.readBigUInt64LE(at + 8));
    const key = bytes.readBigUInt64LE(at);
    if (key === AT_PAGESZ && value > 0) units.pageBytes = value;
    if (key === AT_CLKTCK && value > 0) units.ticksPerSecond = value;
  }
  return units;
}

let units: KernelUnits | undefined;

export async function readKernelUnits(): Promise<KernelUnits> {
  units ??= await readFile('/proc/self/auxv').then(parseAuxiliaryVector, () => USUAL_UNITS);
  return units;
}

/** One process as it is now; undefined when it has ended. */
export async function readProcessStats(pid: number): Promise<ProcessStats | undefined> {
  const [statText, ioText, { pageBytes, ticksPerSecond }] = await Promise.all([
    readProc(pid, 'stat'),
    readProc(pid, 'io'),
    readKernelUnits(),
  ]);
  const stat = statText === undefined ? undefined : parseProcessStat(statText);
  if (!stat || stat.state === 'Z' || stat.state === 'X') return undefined;
  return {
    pid: stat.pid,
    name: stat.name,
    cpuMs: (stat.cpuTicks * 1000) / ticksPerSecond,
    rssBytes: stat.rssPages * pageBytes,
    threads: stat.threads,
    startTicks: stat.startTicks,
    io: ioText === undefined ? null : (parseProcessIo(ioText) ?? null),
  };
}

/** `ms` all threads of a process have waited for a processor; 0 where the kernel does not count that. */
export async function readQueueWaitMs(pid: number): Promise<number> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const texts = await Promise.all(threads.map((thread) => readProc(pid, `task/${thread}/schedstat`)));
  return texts.reduce((sum, text) => sum + Number(text?.split(' ')[1] ?? 0) / 1e6, 0);
}

/** A process and all its descendants, itself first; empty when it has ended. */
export async function readProcessTree(pid: number): Promise<ProcessStats[]> {
  const own = await readProcessStats(pid);
  if (!own) return [];
  const children = await childrenOf(pid);
  const below = await Promise.all(children.map(readProcessTree));
  return [own, ...below.flat()];
}

/** Children of every thread of a process: the kernel keeps the list by the thread that forked. */
async function childrenOf(pid: number): Promise<number[]> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const lists = await Promise.all(threads.map((thread) => readProc(pid, `task/${thread}/children`)));
  return lists.flatMap((list) => (list ?? '').split(' ').filter(Boolean).map(Number));
}

async function readProc(pid: number, file: string): Promise<string | undefined> {
  try {
    return await readFile(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return undefined; // ended between two looks, or not ours to see
  }
}
