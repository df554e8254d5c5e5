/** What a daemon that died in the middle of a start or a creation left at work: host programs, half-made files. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { aptOf } from '../../bundle/debian/apt.ts';
import type { VmRecord } from '../../core/vm.ts';
import { systemCode } from '../../errors.ts';
import { vmFiles } from '../../storage/layout.ts';
import { endProcess, findLeftPrograms, findProcesses, isIn, waitForEnd, worksIn } from '../../system/processes.ts';
import { growersOf } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';

/** Growing an empty file system takes a second; a full check of a large one on a slow disk longer. */
const GROWTH_LIMIT_MS = 60_000;

/** Half-made files carry one of these until they are put in place. */
const HALF_MADE = /\.(part|tmp)$/;

/** Programs outlive the daemon that started them: nobody else may touch the VM's disks before they have ended. */
export async function clearInterruptedWork(host: Host, vm: Pick<VmRecord, 'id'>): Promise<void> {
  const { directory, rootDisk, workDisk } = vmFiles(host.config.paths.store, vm.id);
  const writers = await findLeftPrograms(
    (argv, pid) => argv.some((word) => HALF_MADE.test(word) && isIn(directory, word, pid)),
    async (_user, pid) => worksIn(directory, pid),
  );
  for (const writer of writers) await endProcess(writer, { graceMs: 0 });
  const growers = await growersOf(host, [rootDisk, workDisk]);
  // a file system that is being moved about must not be left half-way
  for (const grower of growers) await waitForEnd(grower, GROWTH_LIMIT_MS);
  for (const name of await filesIn(directory)) {
    if (HALF_MADE.test(name)) await rm(join(directory, name), { force: true });
  }
}

/** Downloads of packages that go on hold the lock of the next ones. */
export async function endInterruptedDownloads({ config }: Pick<Host, 'config'>): Promise<void> {
  const ours = join(config.paths.cache, '/');
  for (const apt of await findProcesses((argv) => aptOf(argv)?.startsWith(ours) ?? false)) {
    await endProcess(apt, { graceMs: 0 });
  }
}

async function filesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return []; // a creation that had not come so far
    throw error;
  }
}
