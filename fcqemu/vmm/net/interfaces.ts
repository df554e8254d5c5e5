/** Configured network interfaces: what the API accepts and its echo in `GET /vm/config`. */
import type { ActionArguments } from '../../api/actions.ts';
import { Fault } from '../../fault.ts';
import { type StoredLimiter, storedLimiter, updatedLimiter } from '../rate-limiter.ts';
import { type DeviceCounters, deviceCounters, openTap, type Tap, TapError } from './tap.ts';

const PREFIX = 'Network config error';

/** Smallest packet an IPv4 host has to take, RFC 791. */
const MIN_MTU = 68;

/** An interface as Firecracker echoes it. */
export interface StoredInterface {
  iface_id: string;
  host_dev_name: string;
  guest_mac: string | null;
  mtu: number | null;
  rx_rate_limiter: StoredLimiter | null;
  tx_rate_limiter: StoredLimiter | null;
}

export class NetworkInterfaces {
  readonly list: StoredInterface[] = [];
  /** by interface id */
  readonly #taps = new Map<string, Tap>();
  /** what was counted before, by interface id */
  readonly #before = new Map<string, DeviceCounters>();

  /** The taps of all interfaces, which belong to this process, in the order of `list`. */
  get taps(): Tap[] {
    return this.list.flatMap(({ iface_id }) => this.#taps.get(iface_id) ?? []);
  }

  find(id: string): StoredInterface | undefined {
    return this.list.find((candidate) => candidate.iface_id === id);
  }

  /**
   * Adds an interface or replaces the one with the same id, and opens its tap. As in Firecracker, a replacement that
   * fails after the checks of the address leaves the old interface removed.
   * @throws Fault
   */
  async put(config: ActionArguments['InsertNetworkDevice']): Promise<void> {
    const others = this.list.filter((candidate) => candidate.iface_id !== config.iface_id);
    if (config.guest_mac !== null && others.some((other) => other.guest_mac === config.guest_mac)) {
      throw new Fault(`${PREFIX}: The MAC address is already in use: ${config.guest_mac}`);
    }
    const before = this.list.findIndex((candidate) => candidate.iface_id === config.iface_id);
    if (before !== -1) this.list.splice(before, 1);
    this.#close(config.iface_id);
    const tap = await openTap(config.host_dev_name).catch((error: unknown) => {
      throw error instanceof TapError ? createFault(`Open tap device failed: ${error.message}`) : error;
    });
    if (config.mtu !== null && config.mtu < MIN_MTU) {
      tap.close();
      throw createFault(`MTU ${config.mtu} is out of range [${MIN_MTU}, 65535]`);
    }
    this.#hold(config.iface_id, tap);
    this.list.push({
      iface_id: config.iface_id,
      host_dev_name: tap.name,
      guest_mac: config.guest_mac,
      mtu: config.mtu,
      rx_rate_limiter: storedLimiter(config.rx_rate_limiter),
      tx_rate_limiter: storedLimiter(config.tx_rate_limiter),
    });
  }

  /** Takes over the interfaces of a snapshot and opens their taps. @throws TapError */
  async restore(interfaces: readonly StoredInterface[]): Promise<void> {
    for (const iface of interfaces) {
      const tap = await openTap(iface.host_dev_name);
      this.#hold(iface.iface_id, tap);
      this.list.push({ ...iface, host_dev_name: tap.name });
    }
  }

  /** What the kernel counted at the tap since it is held; directions are the guest's. */
  counters({ iface_id, host_dev_name }: StoredInterface): Record<string, number> {
    const before = this.#before.get(iface_id);
    const now = deviceCounters(host_dev_name);
    const since = (name: keyof DeviceCounters) => Math.max(0, now[name] - (before?.[name] ?? 0));
    return {
      rx_bytes_count: since('txBytes'),
      rx_packets_count: since('txPackets'),
      tx_bytes_count: since('rxBytes'),
      tx_packets_count: since('rxPackets'),
    };
  }

  #hold(id: string, tap: Tap): void {
    this.#taps.set(id, tap);
    this.#before.set(id, deviceCounters(tap.name));
  }

  #close(id: string): void {
    this.#taps.get(id)?.close();
    this.#taps.delete(id);
  }

  /** Records the limits a running interface was given. */
  update(iface: StoredInterface, update: ActionArguments['UpdateNetworkInterface']): void {
    iface.rx_rate_limiter = updatedLimiter(iface.rx_rate_limiter, update.rx_rate_limiter);
    iface.tx_rate_limiter = updatedLimiter(iface.tx_rate_limiter, update.tx_rate_limiter);
  }
}

/** A refused `PATCH /network-interfaces`. */
export function updateFault(cause: string): Fault {
  return new Fault(`${PREFIX}: Unable to update the net device: ${cause}`);
}

function createFault(cause: string): Fault {
  return new Fault(`${PREFIX}: Could not create the network device: ${cause}`);
}
