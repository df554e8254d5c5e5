/** Processes that leave the processors of this host to all others. */
import { writeFile } from 'node:fs/promises';
import { constants, setPriority } from 'node:os';

/**
 * For a process with all that it will start from now on. Where the kernel shares processors between sessions
 * first (sched_autogroup_enabled), its session counts less too.
 */
export async function leaveProcessorsToOthers(pid: number): Promise<void> {
  const { PRIORITY_LOW } = constants.priority;
  try {
    setPriority(pid, PRIORITY_LOW);
    await writeFile(`/proc/${pid}/autogroup`, String(PRIORITY_LOW));
  } catch {
    // gone already, another's, or a kernel without such groups: it is slower for others then, and nothing else
  }
}
