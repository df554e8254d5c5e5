/** The VMM of a VM: the process that was written down, else one that serves its socket; and where it answers. */
import type { VmRecord } from '../core/vm.ts';
import { findVmm } from '../firecracker/launch.ts';
import type { Resource } from '../state/ledger.ts';
import { vmFiles, vmmSocket } from '../storage/layout.ts';
import { isAlive, type ProcessIdentity } from '../system/processes.ts';
import type { Host } from './host.ts';

/** API socket of the VMM that runs, or else of the next one. */
export function vmmSocketOf(host: Pick<Host, 'config' | 'stores' | 'system'>, vmId: string): string {
  return entryOf(host, vmId)?.name ?? nextSocket(host, vmId);
}

/** One that runs as a user of its own may enter no directory but the VM's. */
function nextSocket({ config, system }: Pick<Host, 'config' | 'system'>, vmId: string): string {
  const { run, store } = config.paths;
  return system.vmUsers.range ? vmFiles(store, vmId).apiSocket : vmmSocket(run, vmId);
}

/** Id of the VM of this banger whose API socket a path is; undefined for any other path. */
export function vmOfSocket({ config }: Pick<Host, 'config'>, path: string): string | undefined {
  const { run, store } = config.paths;
  const [id] = /[0-9a-f]{8}(?=(\.sock|\/api\.sock)$)/.exec(path) ?? [];
  return id !== undefined && [vmmSocket(run, id), vmFiles(store, id).apiSocket].includes(path) ? id : undefined;
}

/**
 * Undefined when none lives. A number with its start time and boot is one process and no other; arguments, which anybody can
 * give to a process, are looked at only where none was written down or that one is gone.
 */
export async function findVmmOf(
  host: Pick<Host, 'config' | 'stores' | 'system'>,
  { id }: Pick<VmRecord, 'id'>,
): Promise<ProcessIdentity | undefined> {
  const known = entryOf(host, id)?.identity;
  if (known && (await isAlive(known))) return known;
  return await findVmm(vmmSocketOf(host, id));
}

export async function livesAsRecorded(host: Pick<Host, 'stores'>, { id }: Pick<VmRecord, 'id'>): Promise<boolean> {
  const known = entryOf(host, id)?.identity;
  return known !== undefined && (await isAlive(known));
}

function entryOf({ stores }: Pick<Host, 'stores'>, id: string): Extract<Resource, { kind: 'vmm' }> | undefined {
  return stores.ledger.of(id).find((resource) => resource.kind === 'vmm');
}
