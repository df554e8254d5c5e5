/** Configured network interfaces: what the API accepts and its echo in `GET /vm/config`. */
import { readFileSync } from 'node:fs';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, systemErrorText, unsupported } from '../fault.ts';
import { addDevice, type Totals } from '../metrics.ts';
import { type StoredLimiter, storedLimiter } from './rate-limiter.ts';
import { tapProblem } from './tap.ts';

const PREFIX = 'Network config error';

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

  find(id: string): StoredInterface | undefined {
    return this.list.find((candidate) => candidate.iface_id === id);
  }

  /**
   * Adds an interface or replaces the one with the same id. As in Firecracker, a replacement that fails
   * after the checks of the address leaves the old interface removed.
   * @throws Fault
   */
  put(config: ActionArguments['InsertNetworkDevice']): void {
    const others = this.list.filter((candidate) => candidate.iface_id !== config.iface_id);
    if (config.guest_mac !== null && others.some((other) => other.guest_mac === config.guest_mac)) {
      throw new Fault(`${PREFIX}: The MAC address is already in use: ${config.guest_mac}`);
    }
    const before = this.list.findIndex((candidate) => candidate.iface_id === config.iface_id);
    if (before !== -1) this.list.splice(before, 1);
    const problem = deviceProblem(config, others);
    if (problem) throw new Fault(`${PREFIX}: Could not create the network device: ${problem}`);
    refuseLimiters(config);
    this.list.push({
      iface_id: config.iface_id,
      host_dev_name: config.host_dev_name,
      guest_mac: config.guest_mac,
      mtu: config.mtu,
      rx_rate_limiter: null,
      tx_rate_limiter: null,
    });
  }

  /** `PATCH /network-interfaces`: taking limits away is all that can be asked for. @throws Fault */
  update(update: ActionArguments['UpdateNetworkInterface']): void {
    if (!this.find(update.iface_id)) {
      throw new Fault(`${PREFIX}: Unable to update the net device: Failed perform action on device: Device not found`);
    }
    refuseLimiters(update);
  }
}

/** QEMU cannot throttle a tap, and without privileges neither can fcqemu. */
function refuseLimiters(
  config: Pick<ActionArguments['UpdateNetworkInterface'], 'rx_rate_limiter' | 'tx_rate_limiter'>,
): void {
  if (storedLimiter(config.rx_rate_limiter) || storedLimiter(config.tx_rate_limiter)) {
    throw unsupported(PREFIX, 'rate limiters of network interfaces are');
  }
}

function deviceProblem(config: ActionArguments['InsertNetworkDevice'], others: StoredInterface[]): string | undefined {
  if (others.some((other) => other.host_dev_name === config.host_dev_name)) {
    return (
      `Open tap device failed: Error while creating ifreq structure: ${systemErrorText('EBUSY')}. Invalid TUN/TAP ` +
      `Backend provided by ${config.host_dev_name}. Check our documentation on setting up the network devices.`
    );
  }
  const tap = tapProblem(config.host_dev_name);
  if (tap) return `Open tap device failed: ${tap}`;
  if (config.mtu !== null && config.mtu < 68) return `MTU ${config.mtu} is out of range [68, 65535]`;
  return undefined;
}

/** Firecracker's counters of all interfaces, and of each as `net_<id>`; directions are the guest's. */
export function interfaceCounters(list: StoredInterface[]): Totals {
  const totals: Totals = {};
  for (const { iface_id, host_dev_name } of list) {
    const read = (name: string) => statistic(host_dev_name, name);
    addDevice(totals, 'net', iface_id, {
      rx_bytes_count: read('tx_bytes'),
      rx_packets_count: read('tx_packets'),
      tx_bytes_count: read('rx_bytes'),
      tx_packets_count: read('rx_packets'),
    });
  }
  return totals;
}

function statistic(device: string, name: string): number {
  try {
    return Number(readFileSync(`/sys/class/net/${device}/statistics/${name}`, 'latin1'));
  } catch {
    return 0;
  }
}
