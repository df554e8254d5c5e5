/**
 * banger's own nftables table, rendered whole and applied in one transaction: anti-spoof by (tap, address),
 * NAT as membership in a set, so that a thousand VMs are a thousand elements and not a thousand rules.
 */
import { BangerError } from '../errors.ts';
import type { Privileged } from '../system/privilege.ts';

/** Port on the gateway that packet rules lead port 53 of VMs to; above 1023, so it takes no privilege. */
export const GUEST_DNS_PORT = 42_053;

export interface FirewallMember {
  tap: string;
  address: string;
  /** whether the VM reaches the outside through the host */
  nat: boolean;
  /** whether everything from there is dropped: it does not speak for its address yet */
  closed?: boolean | undefined;
}

export interface FirewallRules {
  /** name of the table; every banger of a host has its own */
  table: string;
  members: readonly FirewallMember[];
  /** whether VMs may talk to each other */
  vmToVm: boolean;
  /** whether VMs may reach services of the host */
  vmToHost?: boolean | undefined;
  /** where DNS queries of VMs to their gateway are answered; without it they meet whatever the host has there */
  guestDns?: GuestDns | undefined;
  /** devices whose forwarding is on for VMs alone: nothing else may pass from there through the host */
  lent?: readonly string[] | undefined;
  /** port of 127.0.0.1 that nothing arrives at as long as the table is there, see canary.ts */
  canaryPort?: number | undefined;
  /** device that VMs which are asleep are routed to, and that connections to them come from when they are up, see sleep-device.ts */
  sleepDevice?: string | undefined;
}

export interface GuestDns {
  /** address VMs send queries to */
  gateway: string;
  /** port the answers come from in place of 53, which takes a privilege to open */
  port: number;
}

/** Taps of all bangers of the host. */
const TAP_PATTERN = 'bgr-*';

/**
 * Cloud metadata services hand out credentials of the host; a guest has no business there. Link-local for most,
 * 168.63.129.16 for Azure's platform, 100.100.100.200 for Alibaba Cloud.
 */
const METADATA = '{ 169.254.0.0/16, 168.63.129.16, 100.100.100.200 }';

/** Connections one VM may have under way; the kernel's table of them, often 262,144 entries, is everybody's. */
const MAX_FLOWS = 4096;
/** Devices with VMs that are counted at a time. */
const MAX_COUNTED = 65_535;

/** The text for `nft -f -` that replaces the whole table. */
export function renderRules({
  table,
  members,
  vmToVm,
  vmToHost = false,
  guestDns,
  lent = [],
  canaryPort,
  sleepDevice,
}: FirewallRules): string {
  const open = members.filter((member) => !member.closed);
  const pairs = open.map((member) => `"${member.tap}" . ${member.address}`);
  const taps = members.map((member) => `"${member.tap}"`);
  const nat = open.filter((member) => member.nat).map((member) => member.address);
  return `table inet ${table}
delete table inet ${table}
table inet ${table} {
  set taps { type ifname;${elements(taps)} }
  set vms { type ifname . ipv4_addr;${elements(pairs)} }
  set nat { type ipv4_addr;${elements(nat)} }
  set flows { type ifname; size ${MAX_COUNTED}; flags dynamic; }
  set lent { type ifname;${elements(lent.map((device) => `"${device}"`))} }
  chain antispoof {
    type filter hook prerouting priority raw; policy accept;
    iifname @taps iifname . ip saddr @vms accept
    iifname @taps drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
${sleepDevice ? `    iifname "${sleepDevice}" oifname @taps accept\n` : ''}    iifname @taps ip daddr ${METADATA} drop
    ${FLOW_LIMIT}
${sleepDevice ? sleepRules(sleepDevice, vmToVm) : ''}    iifname @taps oifname @taps ${vmToVm ? 'accept' : 'drop'}
    iifname @taps ip saddr @nat accept
    iifname @taps drop
    oifname @taps ct state established,related accept
    oifname @taps drop
    iifname @lent oifname != "${TAP_PATTERN}" drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
${sleepDevice ? `    oifname "${sleepDevice}" accept\n` : ''}    ip saddr @nat oifname != @taps masquerade
  }
  chain input {
    type filter hook input priority filter; policy accept;
${inputRules(vmToHost, guestDns)}  }
${guestDns ? guestDnsChain(guestDns) : ''}${canaryPort ? canaryChain(canaryPort) : ''}}
table arp ${table}
delete table arp ${table}
table arp ${table} {
  set taps { type ifname;${elements(taps)} }
  set vms { type ifname . ipv4_addr;${elements(pairs)} }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname @taps iifname . arp saddr ip @vms accept
    iifname @taps drop
  }
}
`;
}

/**
 * Who may wake a VM that is asleep is who may reach it: other VMs where that is wanted, under their own addresses. This host's own
 * packets are not forwarded, and whatever else is, of containers and of VMs of others, would come under an address of this host.
 */
function sleepRules(device: string, vmToVm: boolean): string {
  return `${vmToVm ? `    iifname @taps oifname "${device}" accept\n` : ''}    oifname "${device}" drop\n`;
}

const FLOW_LIMIT = `iifname @taps ct state new add @flows { iifname ct count over ${MAX_FLOWS} } drop`;

/** What VMs reach of the host itself: answers to what it began, echo and names; the rest where it is wanted. */
function inputRules(vmToHost: boolean, guestDns: GuestDns | undefined): string {
  const names = ['udp', 'tcp'].flatMap((protocol) => {
    if (!guestDns) return [`iifname @taps ${protocol} dport 53 accept`];
    const asked = `ip daddr ${guestDns.gateway} ${protocol} dport ${guestDns.port}`;
    return [`iifname != @taps ${asked} drop`, `iifname @taps ${asked} accept`];
  });
  const rules = [
    'iifname @taps ct state established,related accept',
    `iifname @taps ip daddr ${METADATA} drop`,
    FLOW_LIMIT,
    ...names,
    'iifname @taps icmp type echo-request accept',
    vmToHost ? 'iifname @taps accept' : 'iifname @taps reject with icmpx admin-prohibited',
  ];
  return rules.map((rule) => `    ${rule}\n`).join('');
}

/** Port 53 of the gateway, seen by VMs, is another one on the host, which nobody but VMs reaches. */
function guestDnsChain({ gateway, port }: GuestDns): string {
  return `  chain guestdns {
    type nat hook prerouting priority dstnat; policy accept;
    iifname @taps ip daddr ${gateway} udp dport 53 dnat ip to ${gateway}:${port}
    iifname @taps ip daddr ${gateway} tcp dport 53 dnat ip to ${gateway}:${port}
  }
`;
}

function canaryChain(port: number): string {
  return `  chain canary {
    type filter hook input priority filter; policy accept;
    iifname "lo" ip daddr 127.0.0.1 udp dport ${port} drop
  }
`;
}

/**
 * Replaces both tables, of IP and of ARP, in one transaction; without members, devices that are lent and a device of VMs that are
 * asleep they are removed.
 */
export async function applyRules(privileged: Privileged, nft: string, rules: FirewallRules): Promise<void> {
  // naming a table before deleting it makes the deletion succeed where there is none
  const removed = ['inet', 'arp'].map(
    (family) => `table ${family} ${rules.table}\ndelete table ${family} ${rules.table}\n`,
  );
  const isEmpty = rules.members.length === 0 && !rules.lent?.length && !rules.sleepDevice;
  const text = isEmpty ? removed.join('') : renderRules(rules);
  try {
    await privileged.run([nft, '-f', '-'], { input: text });
  } catch (error) {
    if (error instanceof BangerError && error.code !== 'command_failed') throw error;
    throw new BangerError('host_unprepared', `The firewall table "${rules.table}" could not be written with nft.`, {
      cause: error,
      hint: 'See which kernel or right is missing: banger doctor',
    });
  }
}

/**
 * What the kernel has of both tables, in a form that is the same text as long as nothing in it changes; undefined
 * when there is no such table.
 */
export async function readTable(privileged: Privileged, nft: string, table: string): Promise<string | undefined> {
  const list = (family: string) => privileged.run([nft, '-j', 'list', 'table', family, table], { okExits: [0, 1] });
  const listed = await list('inet');
  if (listed.exitCode !== 0) return undefined;
  const arp = await list('arp');
  return canonicalTable([listed.stdout, ...(arp.exitCode === 0 ? [arp.stdout] : [])]);
}

/** A listing without handles and version, which differ each time, and with the elements of sets in order. */
function canonicalTable(listings: string[]): string {
  const items = listings.flatMap((listing) => {
    const { nftables } = JSON.parse(listing) as { nftables: { set?: { flags?: string[] } }[] };
    return nftables.filter((item) => !('metainfo' in item));
  });
  // the kernel fills a dynamic set as packets come
  const own = items.map((item) => (item.set?.flags?.includes('dynamic') ? { set: { ...item.set, elem: [] } } : item));
  return JSON.stringify(own, (key, value) => {
    if (key === 'handle') return undefined;
    if (key !== 'elem' || !Array.isArray(value)) return value;
    return value.map((element) => JSON.stringify(element)).sort();
  });
}

/** Whether a listing by `readTable` has as many rules and elements as were written: nobody took any away in between. */
export function isWhole(listed: string, rules: FirewallRules): boolean {
  const items = JSON.parse(listed) as { rule?: object; set?: { elem?: unknown[] } }[];
  const written = renderRules(rules).split('\n');
  const ruleCount = written.filter((line) => /^ {4}(?!type )/.test(line)).length;
  const elementCount = written
    .map((line) => /^ {2}set .* elements = \{ (.*) \};/.exec(line)?.[1]?.split(', ').length ?? 0)
    .reduce((sum, count) => sum + count, 0);
  return (
    items.filter(({ rule }) => rule).length === ruleCount &&
    items.reduce((sum, { set }) => sum + (set?.elem?.length ?? 0), 0) === elementCount
  );
}

function elements(values: string[]): string {
  return values.length > 0 ? ` elements = { ${values.join(', ')} };` : '';
}
