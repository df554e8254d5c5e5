/**
 * Who holds temporary VMs: a lease is one connection of a client to this daemon, and is in memory alone. A VM whose lease
 * is not here is nobody's any more, also when an earlier daemon granted it.
 */
import { randomBytes } from 'node:crypto';

export interface Lease {
  id: string;
  /** name that is free for a VM of it */
  vmName: string;
  /** process id that the client says it has */
  holder: number | null;
}

export interface Leases {
  /** @param isTaken whether a VM has a name */
  grant(holder: number | null, isTaken: (name: string) => boolean): Lease;
  find(id: string): Lease | undefined;
  list(): Lease[];
  /** Ends one; nothing can be made under it any more. */
  release(id: string): void;
}

export function createLeases(): Leases {
  const held = new Map<string, Lease>();
  return {
    grant(holder, isTaken) {
      const reserved = new Set([...held.values()].map(({ vmName }) => vmName));
      let vmName = '';
      do vmName = `run-${randomBytes(4).toString('hex')}`;
      while (reserved.has(vmName) || isTaken(vmName));
      const lease = { id: randomBytes(8).toString('hex'), vmName, holder };
      held.set(lease.id, lease);
      return lease;
    },
    find: (id) => held.get(id),
    list: () => [...held.values()],
    release: (id) => void held.delete(id),
  };
}
