/** Which address a VM gets, when deleted VMs that may come back keep theirs as long as there are others. */
import { nextAddress, parseAddress, type Subnet } from './addresses.ts';

export interface HeldAddresses {
  /** addresses of VMs */
  living: readonly string[];
  /** addresses of VMs in the trash, the one that is had back least likely first */
  trashed: readonly string[];
}

/**
 * An address nobody has, else that of a VM in the trash.
 * @throws BangerError `conflict` when VMs have them all
 */
export function chooseAddress(pool: Subnet, { living, trashed }: HeldAddresses): string {
  try {
    return nextAddress(pool, [...living, ...trashed]);
  } catch (error) {
    const taken = new Set(living);
    const oldest = trashed.find((address) => !taken.has(address) && inPool(pool, address));
    if (oldest === undefined) throw error;
    return oldest;
  }
}

/** Whether a VM that comes back can have its own address again. */
export function keepsAddress(pool: Subnet, address: string, living: readonly string[]): boolean {
  return inPool(pool, address) && !living.includes(address);
}

function inPool({ base, prefix }: Subnet, address: string): boolean {
  const number = parseAddress(address);
  return number >= base && number < base + 2 ** (32 - prefix);
}
