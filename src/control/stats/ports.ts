/** The TCP ports a guest listens on, with the addresses under which others find them. */
import type { VmPort } from '../../api/stats.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { captureFromGuest } from '../../guest/capture.ts';
import { LISTENERS_COMMAND, type Listener, parseListeners, type Reach, reachOf } from '../../guest/listeners.ts';
import { GUEST_SSH_PORT } from '../../guest/ssh.ts';
import { imageFiles } from '../../storage/layout.ts';
import type { Host } from '../host.ts';
import { readOciRecord } from '../images/oci-record.ts';
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
  // of the image, as it says in words: `80/tcp`
  const oci =
    vm.imageId === null ? undefined : await readOciRecord(imageFiles(host.config.paths.store, vm.imageId).oci);
  requireRunning(vm);
  const text = await captureFromGuest(await host.guests.get(vm), LISTENERS_COMMAND, LIMITS);
  if (text === undefined) {
    throw new BangerError('guest_failed', `${vm.name} did not tell which ports it listens on.`, {
      hint: `Look inside: banger exec ${vm.name} -- ss -ltnp`,
    });
  }
  const { dns } = host.config;
  const hostName = dns.enabled ? `${vm.name}.${dns.zone}` : vm.address;
  return groupByPort(parseListeners(text), vm.address, hostName, tcpPorts(oci?.process.ports ?? []));
}

/** `8080`, `80/tcp` and `7000-7005/tcp`; ports of UDP are not looked for. */
export function tcpPorts(words: readonly string[]): number[] {
  const ports = words.flatMap((word) => {
    const [, from, to] = /^(\d{1,5})(?:-(\d{1,5}))?(?:\/tcp)?$/.exec(word) ?? [];
    const [first, last] = [Number(from), Number(to ?? from)];
    if (from === undefined || first < 1 || last > 65_535 || last < first || last - first >= MAX_PORTS) return [];
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
  return [...new Set(ports)];
}

/** One entry a port, in order; the same server often listens once for each address family. */
export function groupByPort(
  listeners: readonly Listener[],
  ownAddress: string,
  hostName: string,
  exposed: readonly number[] = [],
): VmPort[] {
  const ports = Map.groupBy(listeners, ({ port }) => port);
  for (const port of exposed) if (!ports.has(port)) ports.set(port, []);
  return [...ports]
    .sort(([a], [b]) => a - b)
    .slice(0, MAX_PORTS)
    .map(([port, bound]) => {
      const reaches = new Set(bound.map(({ address }) => reachOf(address, ownAddress)));
      const reach = REACHES.find((candidate) => reaches.has(candidate)) ?? (bound.length === 0 ? 'none' : 'other');
      const processes = new Map(bound.flatMap((listener) => listener.processes).map((known) => [known.pid, known]));
      return {
        port,
        addresses: [...new Set(bound.map(({ address }) => address))],
        reach,
        exposed: exposed.includes(port),
        processes: [...processes.values()],
        url: reach === 'network' && port !== GUEST_SSH_PORT ? `http://${hostName}:${port}` : null,
      };
    });
}
