/** What a new VM is known by: its id and its address. */
import { randomBytes } from 'node:crypto';
import { chooseAddress } from '../../core/free-address.ts';
import type { Host, HostNetwork } from '../host.ts';

/** 8 hexadecimal digits; names of host devices derive from them. */
export function newVmId(): string {
  return randomBytes(4).toString('hex');
}

/**
 * An address for a new VM, from the records of VMs and of those in the trash; no await may come between this and
 * taking it.
 */
export function freeAddress(host: Pick<Host, 'stores'> & { network: Pick<HostNetwork, 'pool'> }): string {
  const living = [...host.stores.vms.list(), ...host.stores.buildVms.list()].map((vm) => vm.address);
  const trashed = host.stores.trash.list().map(({ vm }) => vm.address);
  return chooseAddress(host.network.pool, { living, trashed: trashed.reverse() });
}
