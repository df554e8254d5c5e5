/** Which address range a user's VMs get: from those that users may have, and no other's. */
import {
  formatSubnet,
  gatewayOf,
  overlaps,
  parseAddress,
  parsePool,
  parseSubnet,
  type Subnet,
} from '../core/addresses.ts';
import { vmOfTap } from '../core/network-names.ts';
import { BangerError } from '../errors.ts';
import type { HelperMember } from '../network/helper-protocol.ts';
import { describeRoute, type HostRoute } from '../network/routes.ts';
import type { Realm, User } from './users.ts';

/** Largest range that one banger of a user may have. */
const MIN_PREFIX = 16;

/** Ranges at a time, so that nobody takes all. */
const MAX_REALMS = 8;

/** @throws BangerError `invalid_input` for a range that users may not have */
export function requirePool(text: string, allowed: readonly Subnet[]): Subnet {
  const pool = parsePool(text);
  const isWithin = (range: Subnet) => overlaps(range, pool) && range.prefix <= pool.prefix;
  if (pool.prefix >= MIN_PREFIX && allowed.some(isWithin)) return pool;
  throw new BangerError('invalid_input', `The network helper does not give ${formatSubnet(pool)} to VMs of users.`, {
    hint: `Take a range of at most /${MIN_PREFIX} within ${allowed.map(formatSubnet).join(', ')}, or have root allow others: systemctl edit bangernet (bangernet --pools)`,
  });
}

/** @throws BangerError `conflict` when another banger has a part of it, or the user has too many */
export function requireUnclaimed(pool: Subnet, user: User, instance: string, users: Iterable<User>): void {
  for (const other of users) {
    for (const realm of other.realms.values()) {
      if (other === user && realm.instance === instance) continue;
      if (!overlaps(parseSubnet(realm.pool), pool)) continue;
      const whose = other === user ? 'another banger of this user' : `user ${other.uid}`;
      throw new BangerError('conflict', `VMs of ${whose} have addresses of ${realm.pool}.`, {
        hint: 'Take another range: network.pool in the configuration file',
      });
    }
  }
  if (user.realms.size < MAX_REALMS || user.realms.has(instance)) return;
  throw new BangerError('conflict', `This user has VMs in ${MAX_REALMS} ranges already.`, {
    hint: 'Stop the VMs of a banger that is not needed: banger ls',
  });
}

/** @throws BangerError `conflict` when a route leads into it that is no VM's of this user */
export function requireNoRoute(
  pool: Subnet,
  routes: readonly HostRoute[],
  isOwnTap: (device: string) => boolean,
): void {
  const isOwn = ({ destination, device, type }: HostRoute) =>
    device === undefined
      ? type === 'unreachable' && formatSubnet(destination) === formatSubnet(pool)
      : vmOfTap(device) !== undefined && isOwnTap(device);
  const other = routes.find((route) => overlaps(route.destination, pool) && !isOwn(route));
  if (other === undefined) return;
  const where = `${other.device === undefined ? '' : 'to '}${describeRoute(other)}`;
  throw new BangerError('conflict', `The host has a route ${where} for a part of ${formatSubnet(pool)}.`, {
    hint: 'Take another range: network.pool in the configuration file',
  });
}

/**
 * @param limit VMs a user may have at a time
 * @param ownerOfName user who has had a VM of that id
 * @throws BangerError when a member is not one this user can have
 */
export function requireMembers(
  members: readonly HelperMember[],
  realm: Realm,
  user: User,
  limit: number,
  ownerOfName: (vm: string) => number | undefined,
): void {
  const elsewhere = [...user.realms.values()].filter((other) => other !== realm);
  const count = members.length + elsewhere.reduce((sum, other) => sum + other.members.length, 0);
  if (count > limit) {
    throw tooMany(limit, count);
  }
  const pool = parseSubnet(realm.pool);
  const [first, last] = [parseAddress(gatewayOf(pool)) + 1, pool.base + 2 ** (32 - pool.prefix) - 2];
  const seen = new Set<string>();
  for (const { vm, address } of members) {
    const number = parseAddress(address);
    if (number < first || number > last) {
      throw new BangerError('invalid_input', `${address} is no address for a VM in ${realm.pool}.`);
    }
    if (seen.has(vm) || seen.has(address)) {
      throw new BangerError('invalid_input', `The VM ${vm} with ${address} is there twice.`);
    }
    seen.add(vm).add(address);
    const owner = ownerOfName(vm);
    const another = elsewhere.some((other) => other.members.some((member) => member.vm === vm));
    if (another || (owner !== undefined && owner !== user.uid)) {
      throw new BangerError('conflict', `The VM ${vm} is another one's.`, {
        hint: 'Make yours anew, with another id: banger create NAME',
      });
    }
  }
}

export function tooMany(limit: number, count: number): BangerError {
  return new BangerError('conflict', `A user may have ${limit} VMs on this host at a time, and not ${count}.`, {
    hint: 'Stop one: banger ls, then banger stop NAME. Root can allow more: systemctl edit bangernet (bangernet --vms)',
  });
}
