/** Packets for VMs that are asleep, as text says nothing about them: what of a packet decides, and how a stream of them is cut. */

/** The first packet of a TCP connection. */
export interface OpeningPacket {
  source: string;
  target: string;
}

const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;
const TCP = 6;
/** Of the TCP flags: SYN without ACK, FIN and RST. */
const FLAGS_OF_INTEREST = 0b10111;
const SYN = 0b00010;

/** @returns undefined for every other packet: pings and scans of other kinds wake nobody */
export function openingOf(packet: Buffer): OpeningPacket | undefined {
  if (packet.length < IPV4_HEADER_BYTES || packet.readUInt8(0) >> 4 !== 4) return undefined;
  const headerBytes = (packet.readUInt8(0) & 0x0f) * 4;
  const isFragment = (packet.readUInt16BE(6) & 0x1fff) !== 0;
  if (packet.readUInt8(9) !== TCP || isFragment || packet.length < headerBytes + 20) return undefined;
  if ((packet.readUInt8(headerBytes + 13) & FLAGS_OF_INTEREST) !== SYN) return undefined;
  return { source: addressAt(packet, 12), target: addressAt(packet, 16) };
}

function addressAt(packet: Buffer, offset: number): string {
  return [...packet.subarray(offset, offset + 4)].join('.');
}

/**
 * Cuts the bytes of packets that follow each other; each says its own length.
 * @returns takes what has come, gives the packets that are complete. Throws a RangeError when it is none
 */
export function createPacketCutter(): (chunk: Buffer) => Buffer[] {
  let rest: Buffer = Buffer.alloc(0);
  return (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const packets: Buffer[] = [];
    for (;;) {
      const length = lengthOf(rest);
      if (length === undefined || rest.length < length) return packets;
      packets.push(rest.subarray(0, length));
      rest = rest.subarray(length);
    }
  };
}

function lengthOf(bytes: Buffer): number | undefined {
  if (bytes.length < 6) return undefined;
  const version = bytes.readUInt8(0) >> 4;
  const length =
    version === 4 ? bytes.readUInt16BE(2) : version === 6 ? IPV6_HEADER_BYTES + bytes.readUInt16BE(4) : undefined;
  if (length === undefined || length < IPV4_HEADER_BYTES) throw new RangeError('bytes that are no packet');
  return length;
}
