/** Whether a VM's disks are nobody's before it starts: two that write to one file system ruin it. */
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { vmFiles } from '../../storage/layout.ts';
import { findWriters } from '../../system/open-files.ts';
import { growersOf } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';

/** @throws BangerError `conflict` when a process has one of them open for writing; what banger itself grows them by is waited for later */
export async function requireFreeDisks(host: Pick<Host, 'config'>, vm: Pick<VmRecord, 'id' | 'name'>): Promise<void> {
  const { rootDisk, workDisk } = vmFiles(host.config.paths.store, vm.id);
  const disks = [rootDisk, workDisk];
  const writers = await findWriters(disks);
  if (writers.length === 0) return;
  const growers = new Set((await growersOf(host, disks)).map(({ pid }) => pid));
  const writer = writers.find(({ pid }) => !growers.has(pid));
  if (!writer) return;
  throw new BangerError(
    'conflict',
    `${vm.name} cannot start: process ${writer.pid} (${writer.program}) writes to its disk ${writer.file}.`,
    { hint: `See what it is: ps -fp ${writer.pid}   If it is a VMM that was left behind, end it: kill ${writer.pid}` },
  );
}
