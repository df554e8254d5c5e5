/** The address a new VM gets, from the records of VMs and of those in the trash. */
import { chooseAddress } from '../../core/free-address.ts';
import type { Host, HostNetwork } from '../host.ts';

/** An address for a new VM; no await may come between this and taking it. */
export function freeAddress(host: Pick<Host, 'stores'> & { network: Pick<HostNetwork, 'pool'> }): string {
  const living = [...host.stores.vms.list(), ...host.stores.buildVms.list()].map((vm) => vm.address);
  const trashed = host.stores.trash.list().map(({ vm }) => vm.address);
  return chooseAddress(host.network.pool, { living, trashed: trashed.reverse() });
}
