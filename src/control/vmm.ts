/** The VMM of a VM: the process that was written down, else one that serves its socket. */
import type { VmRecord } from '../core/vm.ts';
import { findVmm } from '../firecracker/launch.ts';
import { vmmSocket } from '../storage/layout.ts';
import { isAlive, type ProcessIdentity } from '../system/processes.ts';
import type { Host } from './host.ts';

/**
 * Undefined when none lives. A number with its start time and boot is one process and no other; arguments, which anybody can
 * give to a process, are looked at only where none was written down or that one is gone.
 */
export async function findVmmOf(
  { config, stores }: Pick<Host, 'config' | 'stores'>,
  { id }: Pick<VmRecord, 'id'>,
): Promise<ProcessIdentity | undefined> {
  const known = recorded({ stores }, id);
  if (known && (await isAlive(known))) return known;
  return await findVmm(vmmSocket(config.paths.run, id));
}

export async function livesAsRecorded(host: Pick<Host, 'stores'>, { id }: Pick<VmRecord, 'id'>): Promise<boolean> {
  const known = recorded(host, id);
  return known !== undefined && (await isAlive(known));
}

function recorded({ stores }: Pick<Host, 'stores'>, id: string): ProcessIdentity | undefined {
  const found = stores.ledger.of(id).find((resource) => resource.kind === 'vmm');
  return found?.kind === 'vmm' ? found.identity : undefined;
}
