/** Reverse names: addresses below in-addr.arpa and ip6.arpa, and the zones that make up an address range. */
import { isIPv4, isIPv6 } from 'node:net';
import { parseSubnet } from '../core/addresses.ts';
import { BangerError } from '../errors.ts';

/**
 * The reverse name of an address, without a trailing dot.
 * @throws BangerError `invalid_input` when the text is no address
 */
export function reverseName(address: string): string {
  if (isIPv4(address)) return `${address.split('.').reverse().join('.')}.in-addr.arpa`;
  return `${nibbles(address).reverse().join('.')}.ip6.arpa`;
}

/**
 * The reverse zones that cover a range exactly. Zones are cut at octets (IPv4) or nibbles (IPv6), so a range
 * between two cuts is several zones: 172.30.0.0/16 is one, 10.8.0.0/15 two, a /29 eight.
 * @throws BangerError `invalid_input` when the text is no range in CIDR notation
 */
export function reverseZones(range: string): string[] {
  if (!range.includes(':')) {
    const { base, prefix } = parseSubnet(range);
    const octets = Math.max(1, Math.ceil(prefix / 8));
    const step = 2 ** (32 - octets * 8);
    return Array.from({ length: 2 ** (octets * 8 - prefix) }, (_, index) => {
      const first = base + index * step;
      const labels = [24, 16, 8, 0].slice(0, octets).map((shift) => Math.floor(first / 2 ** shift) % 256);
      return `${labels.reverse().join('.')}.in-addr.arpa`;
    });
  }
  const [address = '', prefixText = ''] = range.split('/');
  const prefix = Number(prefixText);
  if (!/^\d{1,3}$/.test(prefixText) || prefix < 1 || prefix > 128) throw notAnAddress(range);
  const digits = nibbles(address);
  const count = Math.ceil(prefix / 4);
  const last = Number.parseInt(digits[count - 1] ?? '0', 16);
  return Array.from({ length: 2 ** (count * 4 - prefix) }, (_, index) => {
    const labels = [...digits.slice(0, count - 1), (last + index).toString(16)];
    return `${labels.reverse().join('.')}.ip6.arpa`;
  });
}

/** The 32 hexadecimal digits of an IPv6 address. */
function nibbles(address: string): string[] {
  if (!isIPv6(address) || address.includes('%') || address.includes('.')) throw notAnAddress(address);
  const [head = '', tail] = address.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups = [...left, ...Array.from({ length: 8 - left.length - right.length }, () => '0'), ...right];
  return groups.flatMap((group) => [...group.toLowerCase().padStart(4, '0')]);
}

function notAnAddress(text: string): BangerError {
  return new BangerError('invalid_input', `"${text}" is not an address or range of addresses.`);
}
