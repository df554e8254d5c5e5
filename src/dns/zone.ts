/** What the server knows: one zone of VM names and the reverse zones of their addresses, as prepared answers. */
import { isIPv4, isIPv6 } from 'node:net';
import { BangerError } from '../errors.ts';
import { type Apex, createApex, createNode, type ZoneNode } from './nodes.ts';
import { createPointers } from './pointers.ts';
import type { RecordData, ZoneRecord } from './records.ts';
import { reverseName, reverseZones } from './reverse.ts';
import { countLabels, nameKey, nameToWire, wireKey } from './wire.ts';

/** A name no VM can have (VM names are host names, which have no underscore); a lookup of it proves the path. */
export const PROBE_LABEL = '_probe';
const NAME_SERVER_LABEL = '_ns';

export interface ZoneOptions {
  /** name of the zone without dots at its ends, e.g. `vm` */
  zone: string;
  /** address ranges of the VMs in CIDR notation; their reverse zones are served too */
  pools: readonly string[];
  /** time to live of every record, in `s` */
  ttlSeconds: number;
  /** address of the name server itself, shown in its own record */
  serverAddress: string;
  /** what the probe name resolves to: of the pool, so that it meets the same filters as a VM's address */
  probeAddress: string;
  /** last serial of an earlier run; the next one is larger whatever the clock says */
  previousSerial?: number;
  /** called with the name of a VM whose address is told to somebody, before it is */
  onAsked?: (name: string) => void;
  /** clock in `ms`; the system's unless a test puts its own */
  now?: () => number;
}

/** A running VM as DNS shows it. */
export interface ZoneVm {
  /** DNS label */
  name: string;
  ipv4?: string;
  ipv6?: string;
}

export interface Zone {
  /** zone name without a trailing dot */
  readonly name: string;
  /** reverse zones, without trailing dots */
  readonly reverseNames: readonly string[];
  readonly serial: number;
  /** number of VMs with records */
  readonly size: number;
  /** number of records, those at the zones' tops included */
  readonly recordCount: number;
  /**
   * Adds a VM's records or replaces them; says whether anything changed.
   * @throws BangerError `invalid_input` when name or address can not be served
   */
  set(vm: ZoneVm): boolean;
  /** Removes a VM's records; says whether there were any. */
  delete(name: string): boolean;
  /**
   * Makes the VMs exactly these; says how many were added, changed or removed.
   * @throws BangerError `invalid_input` like `set`; then nothing has changed
   */
  replace(vms: Iterable<ZoneVm>): number;
  get(name: string): ZoneVm | undefined;
  /** Every record, zone tops first. */
  records(): ZoneRecord[];
  /**
   * What is at a query's name, or undefined outside all zones.
   * @param offsets where each of the name's `labels` labels starts in `packet`
   * @param end offset behind the name's closing zero
   */
  find(packet: Buffer, offsets: Uint16Array, labels: number, end: number): ZoneNode | undefined;
}

export function createZone(options: ZoneOptions): Zone {
  const now = options.now ?? Date.now;
  const ttl = options.ttlSeconds;
  const zoneName = options.zone.toLowerCase();
  const zoneWire = nameToWire(zoneName);
  const zoneLabels = countLabels(zoneWire);
  const nameServer = `${NAME_SERVER_LABEL}.${zoneName}`;
  const contact = `hostmaster.${zoneName}`;
  nameToWire(contact); // the longest name of our own has to fit
  let serial = nextSerial(options.previousSerial ?? 0);

  const forward = apexOf(zoneName);
  const reverse = options.pools.flatMap(reverseZones).map(apexOf);
  const pointers = createPointers(reverse, ttl);
  const vms = new Map<string, ZoneVm>();
  /** by key of `<label>.<zone>`; every name below a VM's is the same node, which makes the wildcard */
  const hosts = new Map([
    [hostKey(NAME_SERVER_LABEL), createNode(forward, [addressRecord(options.serverAddress)])],
    [hostKey(PROBE_LABEL), createNode(forward, [addressRecord(options.probeAddress)])],
  ]);
  const fixedRecords = hosts.size + 2 * (1 + reverse.length);

  function apexOf(name: string): Apex {
    return createApex({ name, mname: nameServer, rname: contact, serial, ttlSeconds: ttl });
  }

  function hostKey(label: string): string {
    return wireKey(nameToWire(`${label}.${zoneName}`));
  }

  function addressRecord(data: string): RecordData {
    return { type: isIPv6(data) ? 'AAAA' : 'A', ttl, data };
  }

  /** Seconds since 1970, or one more than before when changes come faster than seconds. */
  function nextSerial(previous: number): number {
    return Math.max(previous + 1, Math.floor(now() / 1000)) % 2 ** 32;
  }

  function changed(): void {
    serial = nextSerial(serial);
    forward.setSerial(serial);
    for (const apex of reverse) apex.setSerial(serial);
  }

  /** The VM with its name in lower case, if its full name and addresses fit in DNS. */
  function servable(vm: ZoneVm): ZoneVm {
    const good = checked(vm);
    nameToWire(`${good.name}.${zoneName}`);
    return good;
  }

  function put(vm: ZoneVm): boolean {
    const old = vms.get(vm.name);
    if (old !== undefined && old.ipv4 === vm.ipv4 && old.ipv6 === vm.ipv6) return false;
    if (old !== undefined) drop(old);
    vms.set(vm.name, vm);
    const node = createNode(forward, addressesOf(vm).map(addressRecord));
    hosts.set(hostKey(vm.name), { ...node, asked: () => options.onAsked?.(vm.name) });
    for (const address of addressesOf(vm)) pointers.add(address, `${vm.name}.${zoneName}`);
    return true;
  }

  function drop(vm: ZoneVm): void {
    vms.delete(vm.name);
    hosts.delete(hostKey(vm.name));
    for (const address of addressesOf(vm)) pointers.remove(address, `${vm.name}.${zoneName}`);
  }

  return {
    name: zoneName,
    reverseNames: reverse.map((apex) => apex.name),
    get serial() {
      return serial;
    },
    get size() {
      return vms.size;
    },
    get recordCount() {
      let addresses = 0;
      for (const vm of vms.values()) addresses += addressesOf(vm).length;
      return fixedRecords + addresses + pointers.size;
    },
    set(vm) {
      if (!put(servable(vm))) return false;
      changed();
      return true;
    },
    delete(name) {
      const vm = vms.get(name.toLowerCase());
      if (vm === undefined) return false;
      drop(vm);
      changed();
      return true;
    },
    replace(next) {
      const wanted = new Map(Array.from(next, (vm) => [vm.name.toLowerCase(), servable(vm)]));
      const gone = [...vms.values()].filter((vm) => !wanted.has(vm.name));
      for (const vm of gone) drop(vm);
      const changes = gone.length + [...wanted.values()].filter(put).length;
      if (changes > 0) changed();
      return changes;
    },
    get: (name) => vms.get(name.toLowerCase()),
    records() {
      const tops = [zoneName, ...reverse.map((apex) => apex.name)].flatMap((name): ZoneRecord[] => [
        { name, type: 'SOA', data: `${nameServer} ${contact} ${serial}` },
        { name, type: 'NS', data: nameServer },
      ]);
      const fixed = [
        forwardRecord(NAME_SERVER_LABEL, options.serverAddress),
        forwardRecord(PROBE_LABEL, options.probeAddress),
      ];
      const addresses = [...vms.values()].flatMap((vm) =>
        addressesOf(vm).map((address) => forwardRecord(vm.name, address)),
      );
      const back = Array.from(pointers.entries(), ([address, name]): ZoneRecord => {
        return { name: reverseName(address), type: 'PTR', data: name };
      });
      return [...tops, ...fixed, ...addresses, ...back];
    },
    find(packet, offsets, labels, end) {
      const top = labels - zoneLabels;
      if (top < 0 || !endsWith(packet, offsets[top] ?? end, end, zoneWire)) {
        return pointers.find(packet, offsets, labels, end);
      }
      if (top === 0) return forward.node;
      return hosts.get(nameKey(packet, offsets[top - 1] ?? end, end)) ?? forward.missing;
    },
  };

  function forwardRecord(label: string, address: string): ZoneRecord {
    return { name: `${label}.${zoneName}`, type: isIPv6(address) ? 'AAAA' : 'A', data: address };
  }
}

function addressesOf(vm: ZoneVm): string[] {
  return [vm.ipv4, vm.ipv6].filter((address) => address !== undefined);
}

function checked({ name, ipv4, ipv6 }: ZoneVm): ZoneVm {
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i.test(name)) {
    throw new BangerError('invalid_input', `"${name}" can not be a name in DNS.`);
  }
  if (ipv4 !== undefined && !isIPv4(ipv4)) throw noAddress(name, ipv4);
  // zones ("%eth0") and dotted tails have no place in DNS and reverse names
  if (ipv6 !== undefined && (!isIPv6(ipv6) || /[%.]/.test(ipv6))) throw noAddress(name, ipv6);
  return {
    name: name.toLowerCase(),
    ...(ipv4 === undefined ? {} : { ipv4 }),
    ...(ipv6 === undefined ? {} : { ipv6 }),
  };
}

function noAddress(name: string, address: string): BangerError {
  return new BangerError('invalid_input', `"${address}" of ${name} is not an address DNS can carry.`);
}

/** Whether the end of a query's name is `wire`, which is lower case. */
function endsWith(packet: Buffer, start: number, end: number, wire: Uint8Array): boolean {
  if (end - start !== wire.length) return false;
  for (let index = 0; index < wire.length; index++) {
    const byte = packet[start + index] ?? 0;
    if ((byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte) !== wire[index]) return false;
  }
  return true;
}
