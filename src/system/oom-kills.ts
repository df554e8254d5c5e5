/** Whether the kernel ended processes of this host because memory was short; anybody may read that. */
import { readFile } from 'node:fs/promises';

/** Processes ended for that since the host's boot; undefined where the kernel does not count them. */
export async function readOomKills(): Promise<number | undefined> {
  const counters = await readFile('/proc/vmstat', 'utf8').catch(() => '');
  const count = /^oom_kill (\d+)$/m.exec(counters)?.[1];
  return count === undefined ? undefined : Number(count);
}
