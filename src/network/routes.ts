/** The host's routes: which ranges are taken, which device leads outside, and the pool's own route. */
import { parseSubnet, type Subnet } from '../core/addresses.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Runner } from '../system/runner.ts';

export interface HostRoute {
  destination: Subnet;
  /** undefined for routes without a device, such as `unreachable` ones */
  device: string | undefined;
  /** `unicast`, `unreachable`, … */
  type: string;
}

interface IpRoute {
  dst: string;
  dev?: string;
  type?: string;
}

/** Marks banger's own routes (`ip route … proto`), so that they can be told from others. */
const ROUTE_PROTOCOL = '119';

/** IPv4 routes of the main table, the default route left out. */
export async function listRoutes(runner: Runner, ip: string): Promise<HostRoute[]> {
  const { stdout } = await runner.run([ip, '-j', '-4', 'route', 'show']);
  const routes = JSON.parse(stdout || '[]') as IpRoute[];
  return routes
    .filter((route) => route.dst !== 'default')
    .map((route) => ({
      destination: parseSubnet(route.dst.includes('/') ? route.dst : `${route.dst}/32`),
      device: route.dev,
      type: route.type ?? 'unicast',
    }));
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

/**
 * Keeps packets for VMs that do not run inside the host: without this route they would leave through the
 * default gateway. It also shows other programs, and other bangers, that the range is taken.
 */
export async function addPoolRoute(privileged: Privileged, ip: string, pool: string): Promise<void> {
  await privileged.run([ip, 'route', 'replace', 'unreachable', pool, 'proto', ROUTE_PROTOCOL]);
}

/** Whether another banger of this host has VMs running, by the route of its pool. */
export async function otherPoolsInUse(runner: Runner, ip: string, pool: string): Promise<boolean> {
  const { stdout } = await runner.run([ip, '-j', '-4', 'route', 'show', 'proto', ROUTE_PROTOCOL]);
  return (JSON.parse(stdout || '[]') as IpRoute[]).some((route) => route.dst !== pool);
}

/** Removing a route that is already gone succeeds. */
export async function deletePoolRoute(privileged: Privileged, ip: string, pool: string): Promise<void> {
  // exit 2 is "No such process": there is no such route
  await privileged.run([ip, 'route', 'delete', 'unreachable', pool, 'proto', ROUTE_PROTOCOL], { okExits: [0, 2] });
}
