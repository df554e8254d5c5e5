/** The address a new VM gets, from the records of VMs and of those in the trash. */
import { chooseAddress } from '../../core/free-address.ts';
import type { Host } from '../host.ts';

/** An address for a new VM; no await may come between this and taking it. */
export function freeAddress(host: Pick<Host, 'pool' | 'vms' | 'trash' | 'buildVms'>): string {
  const living = [...host.vms.list(), ...host.buildVms.list()].map((vm) => vm.address);
  const trashed = host.trash.list().map(({ vm }) => vm.address);
  return chooseAddress(host.pool, { living, trashed: trashed.reverse() });
}
