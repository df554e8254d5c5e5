/** Queries to send and answers as dns-packet, which the server does not use for reading, understands them. */
import dnsPacket, { type DecodedPacket, type Packet, type RecordType } from 'dns-packet';
import { answer, createReply, type QueryResult, type Transport } from '../../../src/dns/answer.ts';
import { createZone, type Zone, type ZoneOptions } from '../../../src/dns/zone.ts';

export interface QueryOptions {
  name: string;
  type?: RecordType;
  id?: number;
  /** `true` for an OPT that takes 1232 bytes, or the number of bytes */
  edns?: boolean | number;
  recursion?: boolean;
}

export interface Asked {
  result: QueryResult;
  bytes: Buffer;
  /** the answer taken apart; undefined when nothing may be sent */
  packet: DecodedPacket;
}

export function query({ name, type = 'A', id = 4711, edns, recursion = true }: QueryOptions): Buffer {
  const packet: Packet = {
    type: 'query',
    id,
    flags: recursion ? dnsPacket.RECURSION_DESIRED : 0,
    questions: [{ name, type }],
  };
  if (edns !== undefined && edns !== false) {
    const udpPayloadSize = edns === true ? 1232 : edns;
    packet.additionals = [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0,
        flag_do: false,
        options: [],
      },
    ];
  }
  return dnsPacket.encode(packet);
}

/** Answers bytes from a zone; what comes back is a copy. */
export function ask(zone: Zone, bytes: Buffer, transport: Transport = 'udp'): Asked {
  const reply = createReply();
  const result = answer(zone, bytes, transport, reply);
  const copy = Buffer.from(reply.bytes.subarray(0, reply.length));
  return {
    result,
    bytes: copy,
    packet: copy.length === 0 ? dnsPacket.decode(Buffer.alloc(12)) : dnsPacket.decode(copy),
  };
}

/** Answer and authority records of a packet as lines, e.g. "web.vm A 172.30.0.2". */
export function lines(packet: DecodedPacket): { answers: string[]; authorities: string[] } {
  return { answers: (packet.answers ?? []).map(line), authorities: (packet.authorities ?? []).map(line) };
}

function line(record: NonNullable<DecodedPacket['answers']>[number]): string {
  if (record.type === 'SOA') return `${record.name} SOA ${record.data.mname}`;
  return `${record.name} ${record.type} ${'data' in record ? String(record.data) : ''}`;
}

/** The response code in words, as dns-packet gives it. */
export function rcodeOf(packet: DecodedPacket): string {
  return (packet as DecodedPacket & { rcode: string }).rcode;
}

export const ZONE_OPTIONS: ZoneOptions = {
  zone: 'vm',
  pools: ['172.30.0.0/16', 'fd42::/64'],
  ttlSeconds: 5,
  serverAddress: '127.0.0.1',
  probeAddress: '172.30.0.1',
};

/** web (both families), db (IPv4 only) and six (IPv6 only). */
export function exampleZone(options: Partial<ZoneOptions> = {}): Zone {
  const zone = createZone({ ...ZONE_OPTIONS, ...options });
  zone.replace([
    { name: 'web', ipv4: '172.30.0.2', ipv6: 'fd42::2' },
    { name: 'db', ipv4: '172.30.1.3' },
    { name: 'six', ipv6: 'fd42::6' },
  ]);
  return zone;
}
