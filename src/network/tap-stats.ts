/** What a VM sent and received, as its tap on the host has counted since it was made. */
import { readFile } from 'node:fs/promises';

/** Counters from the guest's side: what the guest sends is what the tap receives. */
export interface TapStats {
  sentBytes: number;
  receivedBytes: number;
  sentPackets: number;
  receivedPackets: number;
}

/**
 * Reads the counters of a host network device.
 * @param sysfs where the kernel shows its network devices
 * @returns undefined when there is no such device
 */
export async function readTapStats(device: string, sysfs = '/sys/class/net'): Promise<TapStats | undefined> {
  const counter = async (name: string) =>
    Number((await readFile(`${sysfs}/${device}/statistics/${name}`, 'utf8')).trim());
  try {
    const [sentBytes, receivedBytes, sentPackets, receivedPackets] = await Promise.all([
      counter('rx_bytes'),
      counter('tx_bytes'),
      counter('rx_packets'),
      counter('tx_packets'),
    ]);
    return { sentBytes, receivedBytes, sentPackets, receivedPackets };
  } catch {
    return undefined; // the VM stopped between two looks
  }
}
