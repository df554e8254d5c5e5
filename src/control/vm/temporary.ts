/**
 * Temporary VMs: each is there for one client, which holds a lease by reading an answer of the daemon. Whatever ends that
 * reading ends the VM, and a daemon that finds one without a lease deletes it.
 */
import type { LeaseLine } from '../../api/lease.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { Host } from '../host.ts';
import type { Life } from './life.ts';

export interface TemporaryVms {
  /** Grants a lease and holds it until `signal` is aborted. */
  hold(holder: number | null, signal: AbortSignal): AsyncGenerator<LeaseLine>;
  /**
   * Ends a lease and waits until its VMs are gone.
   * @throws BangerError `not_found`, or what keeps a VM from being deleted
   */
  end(leaseId: string): Promise<void>;
  /** Ends all leases, and tells those who hold them. */
  close(): Promise<void>;
}

type TemporaryHost = Pick<Host, 'stores' | 'operations' | 'log'>;

export function createTemporaryVms(host: TemporaryHost, life: Pick<Life, 'delete'>): TemporaryVms {
  const { leases, vms } = host.stores;
  const closing = Promise.withResolvers<void>();
  let closed = false;

  async function end(leaseId: string): Promise<void> {
    // first: a creation that is under way finds it gone, see createVm
    leases.release(leaseId);
    const left = vms.list().filter(({ temporary }) => temporary?.lease === leaseId);
    await Promise.all(left.map((vm) => removeTemporary(host, life, vm)));
  }

  return {
    async *hold(holder, signal) {
      const lease = leases.grant(holder, (name) => vms.find(name) !== undefined);
      try {
        yield { type: 'granted', lease: lease.id, name: lease.vmName };
        if (!closed) await Promise.race([aborted(signal), closing.promise]);
        if (closed) yield { type: 'ended' };
      } finally {
        await end(lease.id).catch((error) =>
          host.log.error({ lease: lease.id, error: messageOf(error) }, 'a temporary VM was not deleted'),
        );
      }
    },
    async end(leaseId) {
      if (leases.find(leaseId)) return await end(leaseId);
      throw new BangerError('not_found', `There is no lease ${leaseId}; the VMs of one that ended are gone.`, {
        hint: 'See what exists: banger ls',
      });
    },
    async close() {
      closed = true;
      const ends = leases.list().map(({ id }) => end(id));
      await Promise.allSettled(ends);
      closing.resolve();
    },
  };
}

/** Deletes temporary VMs whose lease is not held: an earlier daemon granted it, or deleting them failed. */
export async function removeAbandoned(host: TemporaryHost, life: Pick<Life, 'delete'>): Promise<void> {
  const { leases, vms } = host.stores;
  for (const vm of vms.list()) {
    if (vm.temporary === null || leases.find(vm.temporary.lease)) continue;
    host.log.info({ vm: vm.name }, 'a temporary VM without a client is deleted');
    await removeTemporary(host, life, vm);
  }
}

/** @throws BangerError what keeps it from being deleted */
async function removeTemporary(host: TemporaryHost, life: Pick<Life, 'delete'>, vm: VmRecord): Promise<void> {
  const { operations } = host;
  const { vms } = host.stores;
  // whatever is at work on it is called off, and undone first
  for (let busy = operations.activeOn(vm.name); busy; busy = operations.activeOn(vm.name)) {
    operations.abort(busy.id);
    await operations.finished(busy.id);
  }
  const left = vms.findById(vm.id);
  if (!left) return;
  const { id } = life.delete(left.name, { force: true, now: true, keepWorkDisk: false });
  const { error } = await operations.finished(id);
  if (error)
    throw new BangerError('conflict', `${left.name} was not deleted: ${error.message}`, {
      hint: `banger rm --force --now ${left.name}`,
    });
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
