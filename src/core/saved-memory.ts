/** What must not happen to a VM while its memory lies beside its disks. */
import { BangerError } from '../errors.ts';
import type { VmRecord } from './vm.ts';

/**
 * @param what e.g. `resized`
 * @throws BangerError `conflict` for a suspended VM: its memory belongs to its disks as they are
 */
export function requireNoMemory({ name, memory }: Pick<VmRecord, 'name' | 'memory'>, what: string): void {
  if (memory === null) return;
  throw new BangerError(
    'conflict',
    `${name} is suspended, and its memory belongs to its disks as they are: it cannot be ${what}.`,
    { hint: `Let it go on: banger resume ${name}   or give its memory up: banger stop --discard-memory ${name}` },
  );
}

/** @throws BangerError `conflict` for a suspended VM: what its programs hold is to be given up by word alone */
export function requireDiscard({ name, memory }: Pick<VmRecord, 'name' | 'memory'>): void {
  if (memory === null) return;
  throw new BangerError('conflict', `${name} is suspended; stopped, it loses what its programs hold in memory.`, {
    hint: `Give that up: banger stop --discard-memory ${name}   or let it go on first: banger resume ${name}`,
    details: { suspended: true },
  });
}
