/**
 * Control groups (cgroup v2, Documentation/admin-guide/cgroup-v2.rst of Linux): one for each VM, with everything that its
 * VMM starts, so that none takes more memory or processes than its own, and nothing of it is left.
 */
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { sleep } from './abort.ts';

/** Where groups of VMs are made, or why there are none. */
export type CgroupHome = { directory: string } | { directory: undefined; why: string };

export interface CgroupLimits {
  /** with what the kernel keeps of files for it, which it gives up first */
  memoryBytes: number;
  /** processes and threads */
  tasks: number;
}

const CONTROLLERS = ['memory', 'pids'] as const;

/** A process that was killed is gone from its group in a moment, unless it hangs in the kernel. */
const REMOVAL_LIMIT_MS = 3000;
const POLL_MS = 10;

/**
 * @param uid user of the daemon: groups of others are made by their session's manager
 * @param name of the group for all VMs of this banger
 * @param root where control groups are mounted
 */
export async function findCgroupHome(uid: number, name: string, root = '/sys/fs/cgroup'): Promise<CgroupHome> {
  const none = (why: string): CgroupHome => ({ directory: undefined, why });
  if (uid !== 0) return none('only a daemon of root makes groups');
  let controllers: string[];
  try {
    controllers = words(await readFile(join(root, 'cgroup.controllers'), 'utf8'));
  } catch {
    return none(`there is no cgroup v2 at ${root}`);
  }
  const missing = CONTROLLERS.filter((controller) => !controllers.includes(controller));
  if (missing.length > 0) return none(`cgroup v2 at ${root} has no ${missing.join(' and no ')} controller`);
  const directory = join(root, name);
  try {
    await enable(root);
    await mkdir(directory, { recursive: true });
    await enable(directory);
  } catch (error) {
    return none(`groups cannot be made in ${root}: ${messageOf(error)}`);
  }
  return { directory };
}

/** Makes an empty group; one that is there gets the limits. */
export async function makeCgroup(path: string, { memoryBytes, tasks }: CgroupLimits): Promise<void> {
  await mkdir(path, { recursive: true });
  await writeFile(join(path, 'memory.max'), String(memoryBytes));
  await writeFile(join(path, 'pids.max'), String(tasks));
  // half of a VM is of no use
  await writeFile(join(path, 'memory.oom.group'), '1').catch(ignoreMissing);
}

/** Puts a process into a group, with all that it starts from now on. */
export async function enterCgroup(path: string, pid: number): Promise<void> {
  try {
    await writeFile(join(path, 'cgroup.procs'), String(pid));
  } catch (error) {
    // whoever waits for it says why it ended
    if (systemCode(error) !== 'ESRCH') throw error;
  }
}

/**
 * Ends what is left in a group and removes it; one that is not there is no error.
 * @throws BangerError `vmm_failed` when processes in it do not end
 */
export async function removeCgroup(path: string): Promise<void> {
  const deadline = performance.now() + REMOVAL_LIMIT_MS;
  for (;;) {
    try {
      await rmdir(path);
      return;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return;
      if (systemCode(error) !== 'EBUSY') throw error;
    }
    if (performance.now() > deadline) {
      const left = words(await readFile(join(path, 'cgroup.procs'), 'utf8').catch(() => ''));
      throw new BangerError('vmm_failed', `Processes of a VM do not end, not even by SIGKILL: ${left.join(', ')}.`, {
        hint: `See what they wait for: cat /proc/${left[0] ?? 'PID'}/stack`,
      });
    }
    await writeFile(join(path, 'cgroup.kill'), '1').catch(ignoreMissing);
    await sleep(POLL_MS);
  }
}

/** Lets the groups in a directory have limits. */
async function enable(directory: string): Promise<void> {
  const path = join(directory, 'cgroup.subtree_control');
  const enabled = words(await readFile(path, 'utf8'));
  const missing = CONTROLLERS.filter((controller) => !enabled.includes(controller));
  if (missing.length > 0) await writeFile(path, missing.map((controller) => `+${controller}`).join(' '));
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/** Kernels before 5.14 and 4.19 have no such files. */
function ignoreMissing(error: unknown): void {
  if (systemCode(error) !== 'ENOENT' && systemCode(error) !== 'EACCES') throw error;
}
