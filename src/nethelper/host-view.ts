/** What the helper sees of the host, read from the kernel whenever it is needed. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { vmOfTap } from '../core/network-names.ts';
import { LENT } from '../network/forwarding.ts';
import { findWays, listPools, listRoutes } from '../network/routes.ts';
import type { Runner } from '../system/runner.ts';
import type { HostView } from './helper.ts';

const DEVICES = '/sys/class/net';
const SETTINGS = '/proc/sys/net/ipv4/conf';

/** Names that need no quoting in packet rules; Linux allows others. */
const PLAIN_NAME = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,14}$/;

export function createHostView(runner: Runner, ip: string): HostView {
  const forwarding = (device: string) => read(`${SETTINGS}/${device}/forwarding`);
  return {
    tapOwner(device) {
      const owner = Number(read(`${DEVICES}/${device}/owner`) ?? -1);
      return owner >= 0 ? owner : undefined;
    },
    vmTaps: () => readdirSync(DEVICES).filter((device) => vmOfTap(device) !== undefined),
    deviceExists: (device) => existsSync(`${DEVICES}/${device}`),
    lentDevices: () =>
      readdirSync(SETTINGS).filter(
        (device) => vmOfTap(device) === undefined && PLAIN_NAME.test(device) && forwarding(device) === LENT,
      ),
    forwarding,
    ownsPort: (uid, port) => isOpenBy(read('/proc/net/udp') ?? '', uid, port),
    routes: (pool) => listRoutes(runner, ip, [pool]),
    ways: () => findWays(runner, ip),
    poolsInUse: () => listPools(runner, ip),
  };
}

/** Address 127.0.0.1 as /proc/net/udp writes it, on machines of either order of bytes. */
const LOOPBACK = ['0100007F', '7F000001'];

/** Whether a line of /proc/net/udp has this port of 127.0.0.1 and this user. */
export function isOpenBy(table: string, uid: number, port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  return table.split('\n').some((line) => {
    const [, local = '', , , , , , owner] = line.trim().split(/\s+/);
    return LOOPBACK.some((address) => local === `${address}:${hex}`) && owner === String(uid);
  });
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}
