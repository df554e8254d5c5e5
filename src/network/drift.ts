/** What others took away from the links to VMs, read from files anybody may read: no program is started. */
import { readFile } from 'node:fs/promises';
import { formatAddress, formatSubnet, parseAddress } from '../core/addresses.ts';
import { tapExists } from './tap.ts';

/** One line of the kernel's IPv4 routing table. */
export interface KernelRoute {
  /** undefined for a route that refuses packets */
  device: string | undefined;
  /** CIDR notation */
  destination: string;
}

/** A link as it should be. */
export interface Link {
  tap: string;
  address: string;
}

export interface Drift {
  /** devices that are gone; the VMM holds what is left of one, so it cannot be put back under it */
  goneTaps: string[];
  /** links whose route is gone, which is also what a device that was shut down looks like */
  lostRoutes: Link[];
  /** whether the route that keeps packets for stopped VMs inside is gone */
  poolRouteLost: boolean;
}

/** Main routing table as text. */
const ROUTES_FILE = '/proc/net/route';

/** RTF_REJECT of linux/route.h, set for `unreachable` routes. */
const REJECT = 0x200;

/** Compares links with what the host has; links are those that are attached now. */
export async function findDrift(links: readonly Link[], pool: string): Promise<Drift> {
  const routes = parseRoutes(await readFile(ROUTES_FILE, 'utf8'));
  const present = await Promise.all(links.map(({ tap }) => tapExists(tap)));
  return compareLinks(links, pool, routes, (link) => present[links.indexOf(link)] === true);
}

export function compareLinks(
  links: readonly Link[],
  pool: string,
  routes: readonly KernelRoute[],
  exists: (link: Link) => boolean,
): Drift {
  const known = new Set(routes.map(({ device, destination }) => `${destination} ${device ?? 'refused'}`));
  return {
    goneTaps: links.filter((link) => !exists(link)).map(({ tap }) => tap),
    lostRoutes: links.filter((link) => exists(link) && !known.has(`${link.address}/32 ${link.tap}`)),
    poolRouteLost: links.length > 0 && !known.has(`${pool} refused`),
  };
}

/** The text of /proc/net/route: addresses are hexadecimal numbers with their bytes in the machine's order. */
export function parseRoutes(text: string): KernelRoute[] {
  return text
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const [device, destination = '', , flags = '', , , , mask = ''] = line.split(/\s+/);
      if (!/^[0-9A-F]{8}$/.test(destination) || !/^[0-9A-F]{8}$/.test(mask)) return [];
      const base = parseAddress(fromHex(destination));
      const prefix = parseAddress(fromHex(mask)).toString(2).replaceAll('0', '').length;
      const refused = (Number.parseInt(flags, 16) & REJECT) !== 0;
      return [{ device: refused || device === '*' ? undefined : device, destination: formatSubnet({ base, prefix }) }];
    });
}

/** `0200870A` → `10.135.0.2`; little-endian on every machine banger runs on. */
function fromHex(hex: string): string {
  return formatAddress(Buffer.from(hex, 'hex').readUInt32LE(0));
}
