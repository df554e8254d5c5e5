/** IPv4 arithmetic for the address pool: one gateway for all VMs, one /32 per VM. */
import { BangerError } from '../errors.ts';

export interface Subnet {
  /** first address, as a 32-bit number */
  base: number;
  /** length of the prefix, 0 to 32 */
  prefix: number;
}

/** Longest and shortest pool worth having: 2 addresses are reserved, and a /8 swallows whole networks. */
export const MIN_PREFIX = 8;
const MAX_PREFIX = 29;

/** @throws BangerError `invalid_input` when the text is no dotted IPv4 address */
export function parseAddress(text: string): number {
  const octets = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)?.slice(1).map(Number);
  if (!octets || octets.some((octet) => octet > 255)) {
    throw new BangerError('invalid_input', `"${text}" is not an IPv4 address.`);
  }
  return octets.reduce((sum, octet) => sum * 256 + octet, 0);
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join('.');
}

/** @throws BangerError `invalid_input` when the text is no CIDR range or has host bits set */
export function parseSubnet(text: string): Subnet {
  const [addressText = '', prefixText] = text.split('/');
  const prefix = Number(prefixText ?? '32');
  const base = parseAddress(addressText);
  if (!/^\d{1,2}$/.test(prefixText ?? '32') || prefix > 32 || base % 2 ** (32 - prefix) !== 0) {
    throw new BangerError('invalid_input', `"${text}" is not an address range.`, {
      hint: 'Write it as 172.30.0.0/16: the first address of the range and the length of its prefix.',
    });
  }
  return { base, prefix };
}

/** @throws BangerError `invalid_input` when the range is too small or too large to serve as a pool */
export function parsePool(text: string): Subnet {
  const subnet = parseSubnet(text);
  if (subnet.prefix < MIN_PREFIX || subnet.prefix > MAX_PREFIX) {
    throw new BangerError('invalid_input', `The address pool ${text} has no usable size.`, {
      hint: `Choose a prefix from /${MIN_PREFIX} to /${MAX_PREFIX}, for example 172.30.0.0/16.`,
    });
  }
  return subnet;
}

export function formatSubnet({ base, prefix }: Subnet): string {
  return `${formatAddress(base)}/${prefix}`;
}

export function overlaps(a: Subnet, b: Subnet): boolean {
  const shorter = 2 ** (32 - Math.min(a.prefix, b.prefix));
  return Math.floor(a.base / shorter) === Math.floor(b.base / shorter);
}

/** The address every tap carries on the host side: the first of the pool. */
export function gatewayOf(pool: Subnet): string {
  return formatAddress(pool.base + 1);
}

/**
 * The lowest address of the pool that nobody has.
 * @throws BangerError `conflict` when the pool is used up
 */
export function nextAddress(pool: Subnet, taken: Iterable<string>): string {
  const used = new Set(taken);
  for (let candidate = pool.base + 2; candidate < broadcastOf(pool); candidate++) {
    const address = formatAddress(candidate);
    if (!used.has(address)) return address;
  }
  throw poolIsFull(pool);
}

/**
 * The highest address of the pool that nobody has: for what needs one for minutes, out of the way of those for life.
 * @param avoided given out only when there are no others
 * @throws BangerError `conflict` when the pool is used up
 */
export function lastAddress(pool: Subnet, taken: Iterable<string>, avoided: ReadonlySet<string> = new Set()): string {
  const used = new Set(taken);
  let last: string | undefined;
  for (let candidate = broadcastOf(pool) - 1; candidate >= pool.base + 2; candidate--) {
    const address = formatAddress(candidate);
    if (used.has(address)) continue;
    if (!avoided.has(address)) return address;
    last ??= address;
  }
  if (last !== undefined) return last;
  throw poolIsFull(pool);
}

/** The highest address, given to nobody. */
function broadcastOf(pool: Subnet): number {
  return pool.base + 2 ** (32 - pool.prefix) - 1;
}

function poolIsFull(pool: Subnet): BangerError {
  return new BangerError('conflict', `Every address of the pool ${formatSubnet(pool)} is taken.`, {
    hint: 'Delete a VM you no longer need: banger ls, then banger rm NAME',
  });
}

/**
 * Ranges to try for the pool, best first. A banger with a home of its own starts at a place derived from
 * it, so that several bangers side by side do not meet.
 */
export function poolCandidates(homeHash: number | undefined): Subnet[] {
  if (homeHash !== undefined) {
    const ranges = 64;
    return Array.from({ length: ranges }, (_, index) =>
      parseSubnet(`10.${128 + ((homeHash + index) % ranges)}.0.0/16`),
    );
  }
  return ['172.30.0.0/16', '172.29.0.0/16', '172.28.0.0/16', '172.27.0.0/16', '10.213.0.0/16', '10.214.0.0/16'].map(
    parseSubnet,
  );
}

/** The first candidate that no route of the host touches; undefined when all do. */
export function choosePool(candidates: readonly Subnet[], routes: readonly Subnet[]): Subnet | undefined {
  return candidates.find((candidate) => !routes.some((route) => overlaps(candidate, route)));
}
