/** The host's routes: which ranges are taken, which device leads outside, and the pool's own route. */
import { formatSubnet, MIN_PREFIX, parseSubnet, type Subnet } from '../core/addresses.ts';
import { isTapName } from '../core/vm.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Runner } from '../system/runner.ts';

export interface HostRoute {
  destination: Subnet;
  /** undefined for routes without a device, such as `unreachable` ones */
  device: string | undefined;
  /** `unicast`, `unreachable`, … */
  type: string;
  /** `main` is not named */
  table?: string;
}

/** Where a route leads, for who looks for it: of other tables than the main one `ip route` shows nothing. */
export function describeRoute({ device, table, type }: HostRoute): string {
  return `${device ?? type}${table === undefined ? '' : ` (ip route show table ${table})`}`;
}

interface IpRoute {
  dst: string;
  dev?: string;
  type?: string;
  /** `main` is not named */
  table?: string;
  /** of a route with several ways */
  nexthops?: { dev?: string }[];
}

interface IpRule {
  priority: number;
  /** address without its length */
  dst?: string;
  dstlen?: number;
}

/** Priorities of the kernel's own rules: local, main and default. */
const KERNEL_RULES: readonly number[] = [0, 32_766, 32_767];

/** Priority of banger's rule: before those of VPNs and people, after the host's own addresses. */
const RULE_PRIORITY = '1';

/** Marks banger's own routes (`ip route … proto`), so that they can be told from others. */
const ROUTE_PROTOCOL = '119';

/** Types of routes that send nothing anywhere: `throw` leaves it to the next table. */
const NOT_TAKEN: readonly (string | undefined)[] = ['throw', 'broadcast', 'multicast'];

/** The kernel's own table: addresses of the host. Each has its network in another one. */
const LOCAL_TABLES: readonly (string | undefined)[] = ['local', '255'];

/**
 * IPv4 routes of all tables to networks that have a part of these ranges, or more: rules of VPNs and people ask other tables than
 * the main one, and banger's own rule comes before theirs. Those to more than any pool can have are left out: the default route,
 * also one in pieces, as VPNs write it that leave the host's own in place (0.0.0.0/1 and 128.0.0.0/1). banger's are more specific.
 */
export async function listRoutes(runner: Runner, ip: string, ranges: readonly Subnet[]): Promise<HostRoute[]> {
  // what has a part of a pool is within that network; a router knows a million others
  const networks = new Set(ranges.map(({ base }) => formatSubnet(parseSubnet(`${base >>> 24}.0.0.0/${MIN_PREFIX}`))));
  const listed: HostRoute[][] = [];
  for (const network of networks) listed.push(await routesWithin(runner, ip, network));
  return listed.flat();
}

async function routesWithin(runner: Runner, ip: string, network: string): Promise<HostRoute[]> {
  const { stdout } = await runner.run([ip, '-j', '-4', 'route', 'show', 'table', 'all', 'root', network]);
  const routes = JSON.parse(stdout || '[]') as IpRoute[];
  return routes
    .filter(({ dst, table, type }) => dst !== 'default' && !LOCAL_TABLES.includes(table) && !NOT_TAKEN.includes(type))
    .map(({ dst, dev, nexthops, table, type = 'unicast' }) => ({
      destination: parseSubnet(dst.includes('/') ? dst : `${dst}/32`),
      device: dev ?? nexthops?.[0]?.dev,
      type,
      ...(table === undefined ? {} : { table }),
    }))
    .filter(({ destination }) => destination.prefix >= MIN_PREFIX);
}

export interface Uplink {
  device: string;
  /** bytes */
  mtu: number;
}

/** The device of the default route with its MTU, or of `configured`; undefined when there is none. */
export async function findUplink(runner: Runner, ip: string, configured: string): Promise<Uplink | undefined> {
  const device = configured === 'auto' ? await defaultDevice(runner, ip) : configured;
  if (!device) return undefined;
  const { stdout, exitCode } = await runner.run([ip, '-j', 'link', 'show', 'dev', device], { okExits: [0, 1] });
  if (exitCode !== 0) return undefined;
  const [link] = JSON.parse(stdout) as { mtu?: number }[];
  return { device, mtu: link?.mtu ?? 1500 };
}

async function defaultDevice(runner: Runner, ip: string): Promise<string | undefined> {
  const { stdout } = await runner.run([ip, '-j', '-4', 'route', 'show', 'default']);
  return (JSON.parse(stdout || '[]') as IpRoute[])[0]?.dev;
}

/** A device that packets to some destination leave by. */
export interface Way {
  device: string;
  /** whether the main table's default route names it */
  isDefault: boolean;
}

/**
 * The devices that routes of any table lead to, those of the default route first; devices of VMs and loopback left out.
 * Which of the tables counts for a packet is for the kernel to say: rules may ask for anything.
 */
export async function findWays(runner: Runner, ip: string): Promise<Way[]> {
  const { stdout } = await runner.run([ip, '-j', '-4', 'route', 'show', 'table', 'all', 'type', 'unicast']);
  const routes = JSON.parse(stdout || '[]') as IpRoute[];
  const ways = new Map<string, boolean>();
  for (const { dst, dev, nexthops, table = 'main' } of routes) {
    for (const device of [dev, ...(nexthops ?? []).map((hop) => hop.dev)]) {
      if (device === undefined || device === 'lo' || isTapName(device)) continue;
      const isDefault = dst === 'default' && table === 'main';
      ways.set(device, ways.get(device) === true || isDefault);
    }
  }
  return [...ways]
    .map(([device, isDefault]) => ({ device, isDefault }))
    .sort((a, b) => Number(b.isDefault) - Number(a.isDefault));
}

/** What the rules of the host (`ip rule`) mean for packets to VMs. */
export interface RuleState {
  /** whether another rule may come before the main table, which has the routes to VMs */
  others: boolean;
  /** whether banger's own is there */
  own: boolean;
}

export async function readRules(runner: Runner, ip: string, pool: string): Promise<RuleState> {
  // a kernel without tables knows no rules, and needs none
  const { stdout, exitCode } = await runner.run([ip, '-j', '-4', 'rule', 'show'], { okExits: [0, 1, 2] });
  const rules = exitCode === 0 ? (JSON.parse(stdout || '[]') as IpRule[]) : [];
  const isOwn = ({ priority, dst, dstlen }: IpRule) =>
    String(priority) === RULE_PRIORITY && `${dst}/${dstlen ?? 32}` === pool;
  return {
    others: rules.some((rule) => !KERNEL_RULES.includes(rule.priority) && String(rule.priority) !== RULE_PRIORITY),
    own: rules.some(isOwn),
  };
}

/** Packets to VMs go by the main table, whatever rules others have for theirs. */
export async function addPoolRule(privileged: Privileged, ip: string, pool: string): Promise<void> {
  const rule = ['to', pool, 'lookup', 'main', 'priority', RULE_PRIORITY, 'protocol', ROUTE_PROTOCOL];
  // exit 2 is "File exists"
  await privileged.run([ip, 'rule', 'add', ...rule], { okExits: [0, 2] });
}

/** Removing a rule that is already gone succeeds. */
export async function deletePoolRule(privileged: Privileged, ip: string, pool: string): Promise<void> {
  const rule = ['to', pool, 'lookup', 'main', 'priority', RULE_PRIORITY, 'protocol', ROUTE_PROTOCOL];
  await privileged.run([ip, 'rule', 'delete', ...rule], { okExits: [0, 2] });
}

/**
 * Keeps packets for VMs that do not run inside the host: without this route they would leave through the
 * default gateway. It also shows other programs, and other bangers, that the range is taken.
 */
export async function addPoolRoute(privileged: Privileged, ip: string, pool: string): Promise<void> {
  await privileged.run([ip, 'route', 'replace', 'unreachable', pool, 'proto', ROUTE_PROTOCOL]);
}

/** Ranges of all bangers of this host that have VMs running, by the routes of their pools. */
export async function listPools(runner: Runner, ip: string): Promise<string[]> {
  const { stdout } = await runner.run([ip, '-j', '-4', 'route', 'show', 'proto', ROUTE_PROTOCOL]);
  return (JSON.parse(stdout || '[]') as IpRoute[]).map(({ dst }) => dst);
}

/** Whether another banger of this host has VMs running, by the route of its pool. */
export async function otherPoolsInUse(runner: Runner, ip: string, pool: string): Promise<boolean> {
  return (await listPools(runner, ip)).some((other) => other !== pool);
}

/** Removing a route that is already gone succeeds. */
export async function deletePoolRoute(privileged: Privileged, ip: string, pool: string): Promise<void> {
  // exit 2 is "No such process": there is no such route
  await privileged.run([ip, 'route', 'delete', 'unreachable', pool, 'proto', ROUTE_PROTOCOL], { okExits: [0, 2] });
}
