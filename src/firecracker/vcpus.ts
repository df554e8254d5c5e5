/**
 * Whether the processors of a guest stand still for good. A guest that has powered off leaves its VMM with processors that
 * are halted and wait for nothing; those of one that only idles wake up several times a second.
 */
import { readdir, readFile } from 'node:fs/promises';
import { sleep } from '../system/abort.ts';

/** Names of the threads that run a guest's processors: Firecracker's, QEMU's, and QEMU's when it emulates all in one. */
const VCPU_THREAD = /^(fc_vcpu \d+|CPU \d+\/\w+|ALL CPUs\/\w+)$/;

/** An idle Linux guest is woken by its own timers more often than this. */
const STILL_MS = 2000;

/** A VMM that does not name its threads is still when all of it takes less of the time: clock ticks of 10 ms. */
const STILL_TICKS = 2;

/**
 * Looks at a VMM for two seconds.
 * @param pid of the VMM; QEMU may run below it
 * @returns whether none of the guest's processors ran; false when there is no such process
 */
export async function vcpusStandStill(pid: number, signal: AbortSignal): Promise<boolean> {
  const before = await sample(pid);
  if (!before) return false;
  await sleep(STILL_MS, signal);
  const after = await sample(pid);
  if (!after) return false;
  return before.vcpus === '' ? after.ticks - before.ticks < STILL_TICKS : before.vcpus === after.vcpus;
}

interface Sample {
  /** how often each vCPU thread was given a processor, and let go of it; empty when none is known by name */
  vcpus: string;
  /** processor time of all threads */
  ticks: number;
}

async function sample(pid: number): Promise<Sample | undefined> {
  const threads = (await Promise.all((await withChildren(pid)).map(threadsOf))).flat();
  if (threads.length === 0) return undefined;
  return {
    vcpus: threads.flatMap(({ name, switches }) => (VCPU_THREAD.test(name) ? [switches] : [])).join('\n'),
    ticks: threads.reduce((sum, { ticks }) => sum + ticks, 0),
  };
}

async function withChildren(pid: number): Promise<number[]> {
  const children = await readProc(`${pid}/task/${pid}/children`);
  return [pid, ...children.split(' ').filter(Boolean).map(Number)];
}

async function threadsOf(pid: number): Promise<{ name: string; switches: string; ticks: number }[]> {
  const ids = await readdir(`/proc/${pid}/task`).catch(() => []);
  return await Promise.all(
    ids.map(async (id) => {
      const [stat, status] = await Promise.all([
        readProc(`${pid}/task/${id}/stat`),
        readProc(`${pid}/task/${id}/status`),
      ]);
      const end = stat.lastIndexOf(')');
      const fields = stat.slice(end + 2).split(' ');
      return {
        name: stat.slice(stat.indexOf('(') + 1, end),
        switches: `${id} ${status.match(/^(?:non)?voluntary_ctxt_switches:.*$/gm)?.join(' ')} ${fields[11]} ${fields[12]}`,
        ticks: Number(fields[11] ?? 0) + Number(fields[12] ?? 0),
      };
    }),
  );
}

async function readProc(file: string): Promise<string> {
  return await readFile(`/proc/${file}`, 'utf8').catch(() => ''); // ended between two looks
}
