/**
 * VMs that image builds use for a while: not in the records, so in no list and not in DNS. What they hold on the host
 * is in the ledger under their id, and an owner without a record is what the next daemon frees.
 */
import { lastAddress, type Subnet } from '../core/addresses.ts';
import { macFor, type VmRecord } from '../core/vm.ts';
import type { Trash } from './trash.ts';
import type { VmStore } from './vms.ts';

export interface BuildVms {
  list(): VmRecord[];
  /** Those that something is done with. */
  busy(): VmRecord[];
  /** From now on it waits, and nobody waits for it. */
  rest(vmId: string): void;
  /**
   * Takes an address from the end of the pool, where ordinary VMs come last, and keeps it until `forget`.
   * @throws BangerError `conflict` when the pool is used up
   */
  admit(pool: Subnet, make: (address: string) => VmRecord): VmRecord;
  /**
   * Takes a VM that was here before back, with its address; `instead` gets another one where it has that.
   * @returns whether neither its id nor its address is in use
   */
  readmit(pool: Subnet, vm: VmRecord, instead: VmRecord): boolean;
  forget(vmId: string): void;
}

/** @param trash VMs whose addresses are left to them while others are free */
export function createBuildVms(vms: Pick<VmStore, 'list'>, trash: Pick<Trash, 'list'>): BuildVms {
  const present = new Map<string, VmRecord>();
  const resting = new Set<string>();
  return {
    list: () => [...present.values()],
    busy: () => [...present.values()].filter(({ id }) => !resting.has(id)),
    rest: (vmId) => void resting.add(vmId),
    admit(pool, make) {
      const taken = [...vms.list(), ...present.values()].map((vm) => vm.address);
      const vm = make(lastAddress(pool, taken, new Set(trash.list().map((each) => each.vm.address))));
      present.set(vm.id, vm);
      return vm;
    },
    readmit(pool, vm, instead) {
      const others = [...vms.list(), ...present.values()].filter((other) => other !== instead);
      if (others.some(({ id, address }) => id === vm.id || address === vm.address)) return false;
      if (instead.address === vm.address) {
        instead.address = lastAddress(pool, [...others.map((other) => other.address), vm.address]);
        instead.mac = macFor(instead.address);
      }
      present.set(vm.id, vm);
      return true;
    },
    forget(vmId) {
      present.delete(vmId);
      resting.delete(vmId);
    },
  };
}
