/** Users that VMs run as: numbers without a name, one for each VM, from a range that nothing else on a host takes. */
import { BangerError } from '../errors.ts';

export interface UserRange {
  /** for programs that work on files which are no VM's */
  first: number;
  last: number;
}

/** Whom the programs that work for VMs run as. */
export interface VmUsers {
  /** undefined where all of them run as the daemon's user */
  range: UserRange | undefined;
  /** group that may open /dev/kvm; undefined when users of VMs need none for it, or there is none that would help */
  kvmGroup: number | undefined;
}

export const NO_VM_USERS: VmUsers = { range: undefined, kvmGroup: undefined };

/** Not handed out by distributions, containers or systemd (systemd.io/UIDS-GIDS: 1879048192 to 2147352575 is unused). */
export const DEFAULT_USERS: UserRange = { first: 1_879_048_192, last: 1_895_825_407 };

/** What a container with 65,536 users still has: below those that systemd hands out (from 61184). */
export const SMALL_USERS: UserRange = { first: 40_000, last: 59_999 };

/** Numbers from here on have meanings of their own for the kernel and for programs that take them as signed. */
const LIMIT = 2 ** 31 - 1;

/** People and services of the host have lower numbers. */
const LEAST = 1000;

/**
 * @param text `FIRST-LAST`
 * @throws BangerError `invalid_input`
 */
export function parseUserRange(text: string): UserRange {
  const [, first, last] = /^(\d{1,10})-(\d{1,10})$/.exec(text) ?? [];
  const range = { first: Number(first), last: Number(last) };
  if (first !== undefined && range.first >= LEAST && range.last > range.first && range.last < LIMIT) return range;
  throw new BangerError('invalid_input', `"${text}" is no range of user ids.`, {
    hint: `Write the first and the last one, between ${LEAST} and ${LIMIT - 1}: "${DEFAULT_USERS.first}-${DEFAULT_USERS.last}"`,
  });
}

export function isInRange(range: UserRange | undefined, user: number): boolean {
  return range !== undefined && user >= range.first && user <= range.last;
}

/**
 * Whether all users of a range exist in a user namespace.
 * @param map text of /proc/PID/uid_map: first user inside, first outside, how many
 */
export function isMapped(map: string, { first, last }: UserRange): boolean {
  return map.split('\n').some((line) => {
    const [inside, , count] = line.trim().split(/\s+/).map(Number);
    return inside !== undefined && count !== undefined && inside <= first && last < inside + count;
  });
}

/**
 * A user that no VM has. Where to begin to look follows from the VM's id, so that two bangers of one host rarely choose
 * the same one.
 * @throws BangerError `conflict` when all are taken
 */
export function chooseUser({ first, last }: UserRange, vmId: string, taken: ReadonlySet<number>): number {
  const count = last - first;
  const start = Number.parseInt(vmId, 16) % count;
  for (let step = 0; step < count; step++) {
    const user = first + 1 + ((start + step) % count);
    if (!taken.has(user)) return user;
  }
  throw new BangerError('conflict', `All ${count} users for VMs are taken.`, {
    hint: 'Give more of them: privilege.vm_users = "FIRST-LAST"',
  });
}
