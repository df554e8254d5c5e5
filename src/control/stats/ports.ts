/** The TCP ports a guest listens on, with the addresses under which others find them. */
import type { VmPort } from '../../api/stats.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { captureFromGuest } from '../../guest/capture.ts';
import { LISTENERS_COMMAND, type Listener, parseListeners, type Reach, reachOf } from '../../guest/listeners.ts';
import { GUEST_SSH_PORT } from '../../guest/ssh.ts';
import type { Host } from '../host.ts';
import { requireRunning } from '../vm/problem.ts';

/** A busy emulated guest needs seconds for a program it has not run yet. */
const LIMITS = { timeoutMs: 20_000, maxBytes: 1024 * 1024 };

/** More than a person reads; a guest may listen on 65535. */
const MAX_PORTS = 1000;

/** Best first: a port that is bound several times is as reachable as its best address. */
const REACHES: readonly Reach[] = ['network', 'other', 'loopback'];

/**
 * @throws BangerError `conflict` when the VM does not run
 * @throws BangerError `guest_failed` when the guest does not let us in or does not tell
 */
export async function listVmPorts(host: Pick<Host, 'guests' | 'config'>, vm: VmRecord): Promise<VmPort[]> {
  requireRunning(vm);
  const text = await captureFromGuest(await host.guests.get(vm), LISTENERS_COMMAND, LIMITS);
  if (text === undefined) {
    throw new BangerError('guest_failed', `${vm.name} did not tell which ports it listens on.`, {
      hint: `Look inside: banger exec ${vm.name} -- ss -ltnp`,
    });
  }
  const { dns } = host.config;
  const hostName = dns.enabled ? `${vm.name}.${dns.zone}` : vm.address;
  return groupByPort(parseListeners(text), vm.address, hostName);
}

/** One entry a port, in order; the same server often listens once for each address family. */
export function groupByPort(listeners: readonly Listener[], ownAddress: string, hostName: string): VmPort[] {
  const ports = Map.groupBy(listeners, ({ port }) => port);
  return [...ports]
    .sort(([a], [b]) => a - b)
    .slice(0, MAX_PORTS)
    .map(([port, bound]) => {
      const reaches = new Set(bound.map(({ address }) => reachOf(address, ownAddress)));
      const reach = REACHES.find((candidate) => reaches.has(candidate)) ?? 'other';
      const processes = new Map(bound.flatMap((listener) => listener.processes).map((known) => [known.pid, known]));
      return {
        port,
        addresses: [...new Set(bound.map(({ address }) => address))],
        reach,
        processes: [...processes.values()],
        url: reach === 'network' && port !== GUEST_SSH_PORT ? `http://${hostName}:${port}` : null,
      };
    });
}
