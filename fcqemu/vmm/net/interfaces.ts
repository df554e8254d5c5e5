/** Configured network interfaces: what the API accepts and its echo in `GET /vm/config`. */
import { readFileSync } from 'node:fs';
import type { ActionArguments } from '../../api/actions.ts';
import { Fault, systemErrorText } from '../../fault.ts';
import { type StoredLimiter, storedLimiter, updatedLimiter } from '../rate-limiter.ts';
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
    this.list.push({
      iface_id: config.iface_id,
      host_dev_name: config.host_dev_name,
      guest_mac: config.guest_mac,
      mtu: config.mtu,
      rx_rate_limiter: storedLimiter(config.rx_rate_limiter),
      tx_rate_limiter: storedLimiter(config.tx_rate_limiter),
    });
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

/** What the kernel counted at the tap; directions are the guest's. */
export function interfaceCounters({ host_dev_name }: StoredInterface): Record<string, number> {
  const read = (name: string) => statistic(host_dev_name, name);
  return {
    rx_bytes_count: read('tx_bytes'),
    rx_packets_count: read('tx_packets'),
    tx_bytes_count: read('rx_bytes'),
    tx_packets_count: read('rx_packets'),
  };
}

function statistic(device: string, name: string): number {
  try {
    return Number(readFileSync(`/sys/class/net/${device}/statistics/${name}`, 'latin1'));
  } catch {
    return 0;
  }
}
