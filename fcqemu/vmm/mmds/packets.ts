/** Ethernet, ARP, IPv4 and TCP as far as the metadata service speaks them, to and from bytes. */

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_ARP = 0x0806;
const ETHERNET_BYTES = 14;
const ARP_BYTES = 28;
const IPV4_BYTES = 20;
const TCP_BYTES = 20;
const PROTOCOL_TCP = 6;
const ARP_REQUEST = 1;
const ARP_REPLY = 2;

/** One hop is all a packet of the service makes. */
const TTL = 1;

/** Option kinds of a TCP header. */
const OPTION = { end: 0, nop: 1, mss: 2 } as const;

/** The service's address on the wire, the one Firecracker uses. */
export const MMDS_MAC: Buffer = Buffer.from([0x06, 0x01, 0x23, 0x45, 0x67, 0x01]);

export const FLAG = { fin: 0x01, syn: 0x02, rst: 0x04, psh: 0x08, ack: 0x10 } as const;

/** Both ends of a connection, as the guest's frames give them. */
export interface Peer {
  mac: Buffer;
  address: Buffer;
  port: number;
  /** port of the service */
  localPort: number;
}

export interface Segment {
  seq: number;
  ack: number;
  flags: number;
  window: number;
  payload: Buffer;
  /** largest segment the sender takes; only in a SYN */
  mss?: number;
}

/** What a frame to the service's address is; `unusual` is IPv4 the service has no use for. */
export type Received =
  | { kind: 'arp'; mac: Buffer; address: Buffer }
  | { kind: 'tcp'; peer: Peer; segment: Segment }
  | { kind: 'unusual' }
  | { kind: 'broken' };

/** Whether an Ethernet frame asks for, or goes to, the IPv4 address. */
export function isFor(frame: Buffer, address: Buffer): boolean {
  if (frame.length < ETHERNET_BYTES + IPV4_BYTES) return false;
  const type = frame.readUInt16BE(12);
  const at = ETHERNET_BYTES + (type === ETHERTYPE_ARP ? 24 : 16);
  if (type !== ETHERTYPE_IPV4 && type !== ETHERTYPE_ARP) return false;
  return frame.length >= at + 4 && frame.compare(address, 0, 4, at, at + 4) === 0;
}

/** Takes a frame apart for which `isFor` holds. Checksums are not looked at: the guest leaves them to its device. */
export function parseFrame(frame: Buffer): Received {
  return frame.readUInt16BE(12) === ETHERTYPE_ARP ? parseArp(frame) : parseIpv4(frame);
}

function parseArp(frame: Buffer): Received {
  const arp = frame.subarray(ETHERNET_BYTES, ETHERNET_BYTES + ARP_BYTES);
  const isRequest =
    arp.length === ARP_BYTES && arp.readUInt32BE(0) === 0x0001_0800 && arp.readUInt16BE(6) === ARP_REQUEST;
  if (!isRequest || arp.readUInt16BE(4) !== 0x0604) return { kind: 'broken' };
  return { kind: 'arp', mac: Buffer.from(arp.subarray(8, 14)), address: Buffer.from(arp.subarray(14, 18)) };
}

function parseIpv4(frame: Buffer): Received {
  const packet = frame.subarray(ETHERNET_BYTES);
  const headerBytes = ((packet[0] ?? 0) & 0x0f) * 4;
  const totalBytes = packet.readUInt16BE(2);
  if (
    (packet[0] ?? 0) >> 4 !== 4 ||
    headerBytes < IPV4_BYTES ||
    totalBytes < headerBytes ||
    totalBytes > packet.length
  ) {
    return { kind: 'broken' };
  }
  const isFragment = (packet.readUInt16BE(6) & 0x3fff) !== 0;
  if (packet[9] !== PROTOCOL_TCP || isFragment) return { kind: 'unusual' };
  const tcp = packet.subarray(headerBytes, totalBytes);
  const tcpHeaderBytes = tcp.length < TCP_BYTES ? 0 : ((tcp[12] ?? 0) >> 4) * 4;
  if (tcpHeaderBytes < TCP_BYTES || tcpHeaderBytes > tcp.length) return { kind: 'broken' };
  const mss = readMss(tcp.subarray(TCP_BYTES, tcpHeaderBytes));
  return {
    kind: 'tcp',
    peer: {
      mac: Buffer.from(frame.subarray(6, 12)),
      address: Buffer.from(packet.subarray(12, 16)),
      port: tcp.readUInt16BE(0),
      localPort: tcp.readUInt16BE(2),
    },
    segment: {
      seq: tcp.readUInt32BE(4),
      ack: tcp.readUInt32BE(8),
      flags: tcp[13] ?? 0,
      window: tcp.readUInt16BE(14),
      payload: tcp.subarray(tcpHeaderBytes),
      ...(mss === undefined ? {} : { mss }),
    },
  };
}

function readMss(options: Buffer): number | undefined {
  for (let at = 0; at < options.length; ) {
    const kind = options[at];
    if (kind === OPTION.end) return undefined;
    const length = kind === OPTION.nop ? 1 : (options[at + 1] ?? 0);
    if (kind === OPTION.mss && length === 4 && at + 4 <= options.length) return options.readUInt16BE(at + 2);
    if (length < 1 || (kind !== OPTION.nop && length < 2)) return undefined;
    at += length;
  }
  return undefined;
}

/** "I am there" to whoever asked. */
export function arpReply(service: Buffer, to: { mac: Buffer; address: Buffer }): Buffer {
  const frame = ethernet(to.mac, ETHERTYPE_ARP, ARP_BYTES);
  frame.writeUInt32BE(0x0001_0800, 14);
  frame.writeUInt16BE(0x0604, 18);
  frame.writeUInt16BE(ARP_REPLY, 20);
  MMDS_MAC.copy(frame, 22);
  service.copy(frame, 28);
  to.mac.copy(frame, 32);
  to.address.copy(frame, 38);
  return frame;
}

/** A TCP segment from the service to its peer, with all checksums. */
export function tcpFrame(service: Buffer, peer: Peer, segment: Segment): Buffer {
  const optionBytes = segment.mss === undefined ? 0 : 4;
  const tcpBytes = TCP_BYTES + optionBytes + segment.payload.length;
  const frame = ethernet(peer.mac, ETHERTYPE_IPV4, IPV4_BYTES + tcpBytes);
  const ip = frame.subarray(ETHERNET_BYTES);
  ip[0] = 0x45;
  ip.writeUInt16BE(IPV4_BYTES + tcpBytes, 2);
  // do not fragment
  ip.writeUInt16BE(0x4000, 6);
  ip[8] = TTL;
  ip[9] = PROTOCOL_TCP;
  service.copy(ip, 12);
  peer.address.copy(ip, 16);
  ip.writeUInt16BE(checksum(ip.subarray(0, IPV4_BYTES), 0), 10);

  const tcp = ip.subarray(IPV4_BYTES);
  tcp.writeUInt16BE(peer.localPort, 0);
  tcp.writeUInt16BE(peer.port, 2);
  tcp.writeUInt32BE(segment.seq >>> 0, 4);
  tcp.writeUInt32BE(segment.ack >>> 0, 8);
  tcp[12] = ((TCP_BYTES + optionBytes) / 4) << 4;
  tcp[13] = segment.flags;
  tcp.writeUInt16BE(segment.window, 14);
  if (segment.mss !== undefined) {
    tcp.set([OPTION.mss, 4], TCP_BYTES);
    tcp.writeUInt16BE(segment.mss, TCP_BYTES + 2);
  }
  segment.payload.copy(tcp, TCP_BYTES + optionBytes);
  tcp.writeUInt16BE(checksum(tcp, sum(ip.subarray(12, 20)) + PROTOCOL_TCP + tcpBytes), 16);
  return frame;
}

function ethernet(to: Buffer, type: number, payloadBytes: number): Buffer {
  const frame = Buffer.alloc(ETHERNET_BYTES + payloadBytes);
  to.copy(frame, 0);
  MMDS_MAC.copy(frame, 6);
  frame.writeUInt16BE(type, 12);
  return frame;
}

function sum(bytes: Buffer): number {
  let total = 0;
  for (let at = 0; at + 1 < bytes.length; at += 2) total += bytes.readUInt16BE(at);
  return bytes.length % 2 === 0 ? total : total + ((bytes.at(-1) ?? 0) << 8);
}

/** The Internet checksum (RFC 1071) on top of what was summed before. */
export function checksum(bytes: Buffer, before: number): number {
  let total = before + sum(bytes);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return ~total & 0xffff;
}
