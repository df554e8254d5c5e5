/** What a process takes of the machine, read from /proc; format: proc(5). */
import { readFile } from 'node:fs/promises';

export interface ProcessStats {
  pid: number;
  /** command name as the kernel has it, at most 15 bytes */
  command: string;
  /** processor time in user and kernel mode so far, in `ms` */
  cpuMs: number;
  /** memory it has in RAM, in `bytes` */
  rssBytes: number;
  threads: number;
  startedAt: Date;
}

/** USER_HZ: what /proc counts time in, 100 on every architecture Linux runs banger on. */
const TICKS_PER_SECOND = 100;

/** The statistics of a living process; undefined when there is none. */
export async function readProcessStats(pid: number, proc = '/proc'): Promise<ProcessStats | undefined> {
  try {
    const [stat, status, system] = await Promise.all([
      readFile(`${proc}/${pid}/stat`, 'utf8'),
      readFile(`${proc}/${pid}/status`, 'utf8'),
      readFile(`${proc}/stat`, 'utf8'),
    ]);
    return parseProcessStats(pid, stat, status, system);
  } catch {
    return undefined; // ended between two looks, or never there
  }
}

/** @param system text of /proc/stat, for the time of boot */
export function parseProcessStats(pid: number, stat: string, status: string, system: string): ProcessStats | undefined {
  // the command may hold spaces and parentheses; fields are counted after the last one, the third being the first here
  const end = stat.lastIndexOf(')');
  const fields = stat.slice(end + 2).split(' ');
  const field = (number: number) => Number(fields[number - 3]);
  const bootSeconds = Number(/^btime (\d+)$/m.exec(system)?.[1]);
  const rssKib = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0); // a process of the kernel has none
  const startedMs = (bootSeconds + field(22) / TICKS_PER_SECOND) * 1000;
  if (fields[0] === 'Z' || !Number.isFinite(startedMs)) return undefined;
  return {
    pid,
    command: stat.slice(stat.indexOf('(') + 1, end),
    cpuMs: ((field(14) + field(15)) * 1000) / TICKS_PER_SECOND,
    rssBytes: rssKib * 1024,
    threads: field(20),
    startedAt: new Date(startedMs),
  };
}
