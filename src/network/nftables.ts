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
}

export interface FirewallRules {
  /** name of the table; every banger of a host has its own */
  table: string;
  members: readonly FirewallMember[];
  /** whether VMs may talk to each other */
  vmToVm: boolean;
  /** where DNS queries of VMs to their gateway are answered; without it they meet whatever the host has there */
  guestDns?: GuestDns | undefined;
  /** devices whose forwarding is on for VMs alone: nothing else may pass from there through the host */
  lent?: readonly string[] | undefined;
  /** port of 127.0.0.1 that nothing arrives at as long as the table is there, see canary.ts */
  canaryPort?: number | undefined;
}

export interface GuestDns {
  /** address VMs send queries to */
  gateway: string;
  /** port the answers come from in place of 53, which takes a privilege to open */
  port: number;
}

/** Taps of all bangers of the host. */
const TAP_PATTERN = 'bgr-*';

/** Cloud metadata services hand out credentials of the host; a guest has no business there. */
const LINK_LOCAL = '169.254.0.0/16';

/** The text for `nft -f -` that replaces the whole table. */
export function renderRules({ table, members, vmToVm, guestDns, lent = [], canaryPort }: FirewallRules): string {
  const pairs = members.map((member) => `"${member.tap}" . ${member.address}`);
  const taps = members.map((member) => `"${member.tap}"`);
  const nat = members.filter((member) => member.nat).map((member) => member.address);
  return `table inet ${table}
delete table inet ${table}
table inet ${table} {
  set taps { type ifname;${elements(taps)} }
  set vms { type ifname . ipv4_addr;${elements(pairs)} }
  set nat { type ipv4_addr;${elements(nat)} }
  set lent { type ifname;${elements(lent.map((device) => `"${device}"`))} }
  chain antispoof {
    type filter hook prerouting priority raw; policy accept;
    iifname @taps iifname . ip saddr @vms accept
    iifname @taps drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname @taps ip daddr ${LINK_LOCAL} drop
    iifname @taps oifname @taps ${vmToVm ? 'accept' : 'drop'}
    iifname @taps ip saddr @nat accept
    iifname @taps drop
    oifname @taps ct state established,related accept
    oifname @taps drop
    iifname @lent oifname != "${TAP_PATTERN}" drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @nat oifname != @taps masquerade
  }
${guestDns ? guestDnsChains(guestDns) : ''}${canaryPort ? canaryChain(canaryPort) : ''}}
`;
}

/** Port 53 of the gateway, seen by VMs, is another one on the host, which nobody but VMs reaches. */
function guestDnsChains({ gateway, port }: GuestDns): string {
  return `  chain guestdns {
    type nat hook prerouting priority dstnat; policy accept;
    iifname @taps ip daddr ${gateway} udp dport 53 dnat ip to ${gateway}:${port}
    iifname @taps ip daddr ${gateway} tcp dport 53 dnat ip to ${gateway}:${port}
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname != @taps ip daddr ${gateway} udp dport ${port} drop
    iifname != @taps ip daddr ${gateway} tcp dport ${port} drop
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

/** Replaces the table in one transaction; without members the table is removed. */
export async function applyRules(privileged: Privileged, nft: string, rules: FirewallRules): Promise<void> {
  // naming a table before deleting it makes the deletion succeed where there is none
  const text =
    rules.members.length > 0 ? renderRules(rules) : `table inet ${rules.table}\ndelete table inet ${rules.table}\n`;
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
 * What the kernel has of the table, in a form that is the same text as long as nothing in it changes; undefined
 * when there is no such table.
 */
export async function readTable(privileged: Privileged, nft: string, table: string): Promise<string | undefined> {
  const listed = await privileged.run([nft, '-j', 'list', 'table', 'inet', table], { okExits: [0, 1] });
  return listed.exitCode === 0 ? canonicalTable(listed.stdout) : undefined;
}

/** A listing without handles and version, which differ each time, and with the elements of sets in order. */
function canonicalTable(listing: string): string {
  const { nftables } = JSON.parse(listing) as { nftables: object[] };
  const items = nftables.filter((item) => !('metainfo' in item));
  return JSON.stringify(items, (key, value) => {
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
