/** The DNS wire format as far as the query path reads it by hand: header fields, names, numbers (RFC 1035). */
import { BangerError } from '../errors.ts';

export const HEADER_BYTES = 12;
/** longest name on the wire, closing zero included (RFC 1035, 2.3.4) */
export const MAX_NAME_BYTES = 255;
export const MAX_LABEL_BYTES = 63;
/** what a UDP client without EDNS can take (RFC 1035, 2.3.4) */
export const PLAIN_UDP_BYTES = 512;
/** most we send over UDP, and what our OPT says we take: no fragments on any usual link (DNS flag day 2020) */
export const MAX_UDP_BYTES = 1232;
export const MAX_TCP_BYTES = 65_535;

export const TYPE = {
  A: 1,
  NS: 2,
  SOA: 6,
  PTR: 12,
  AAAA: 28,
  OPT: 41,
  TKEY: 249,
  TSIG: 250,
  IXFR: 251,
  AXFR: 252,
  MAILB: 253,
  MAILA: 254,
  ANY: 255,
} as const;

export const CLASS_IN = 1;

export const RCODE = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5 } as const;

/** A name as text in wire format, lower case; "" is the root. */
export function nameToWire(name: string): Uint8Array {
  const labels = name === '' ? [] : name.toLowerCase().split('.');
  const parts = labels.map((label) => {
    const bytes = Buffer.from(label, 'latin1');
    if (bytes.length === 0 || bytes.length > MAX_LABEL_BYTES) throw notAName(name);
    return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  });
  const wire = Buffer.concat([...parts, Buffer.from([0])]);
  if (wire.length > MAX_NAME_BYTES) throw notAName(name);
  return wire;
}

/** How many labels a wire name has; the root has none. */
export function countLabels(wire: Uint8Array): number {
  let labels = 0;
  for (let at = 0; (wire[at] ?? 0) !== 0; at += (wire[at] ?? 0) + 1) labels++;
  return labels;
}

/** The key names are looked up by: their wire format, lower case. Length bytes are below "A" and stay as they are. */
export function nameKey(packet: Buffer, start: number, end: number): string {
  return packet.toString('latin1', start, end).toLowerCase();
}

export function wireKey(wire: Uint8Array): string {
  return Buffer.from(wire).toString('latin1').toLowerCase();
}

function notAName(name: string): BangerError {
  return new BangerError('invalid_input', `"${name}" is not a DNS name.`, {
    hint: 'A name has labels of 1 to 63 characters and 253 characters in all.',
  });
}
