/** What a zone holds at one name, as prepared answers, and the top of a zone that its names share. */
import { encodeForQuestion, encodeRecord, patchSerial, type RecordData } from './records.ts';
import { RCODE, TYPE } from './wire.ts';

/** For secondaries, of which there are none; the usual values of a zone that changes often. */
const SOA_TIMERS = { refresh: 3600, retry: 600, expire: 86_400 };

/** How long "no such name" may be remembered, in `s`: a VM that just started must not stay hidden. */
const NEGATIVE_TTL_SECONDS = 1;

/** All there is at one name: an answer per type, or nothing with the reason. */
export interface ZoneNode {
  /** response code of every query for the name */
  rcode: number;
  types: readonly number[];
  /** encoded answer of the type at the same index */
  answers: readonly Uint8Array[];
  /** the zone's SOA for answers that hold nothing else (RFC 2308) */
  authority: Uint8Array;
  /** hears that an answer of it is given */
  asked?: () => void;
}

/** The top of a zone: all its nodes share one SOA, patched in place when the serial grows. */
export interface Apex {
  name: string;
  node: ZoneNode;
  /** at names that do not exist */
  missing: ZoneNode;
  /** at names that exist only because something exists below them (RFC 8020) */
  empty: ZoneNode;
  setSerial(serial: number): void;
}

export interface ApexOptions {
  /** zone name without a trailing dot */
  name: string;
  /** name of the server and of the one who answers for the zone, as the SOA has them */
  mname: string;
  rname: string;
  serial: number;
  ttlSeconds: number;
}

export function createApex({ name, mname, rname, serial, ttlSeconds: ttl }: ApexOptions): Apex {
  const minimum = Math.min(NEGATIVE_TTL_SECONDS, ttl);
  const data = { mname, rname, serial, ...SOA_TIMERS, minimum };
  const soa = encodeForQuestion({ type: 'SOA', ttl, data });
  const authority = encodeRecord(name, { type: 'SOA', ttl: minimum, data });
  const ns = encodeForQuestion({ type: 'NS', ttl, data: mname });
  const nothing = { types: [], answers: [], authority };
  return {
    name,
    node: { rcode: RCODE.NOERROR, types: [TYPE.SOA, TYPE.NS], answers: [soa, ns], authority },
    missing: { rcode: RCODE.NXDOMAIN, ...nothing },
    empty: { rcode: RCODE.NOERROR, ...nothing },
    setSerial(next) {
      patchSerial(soa, next);
      patchSerial(authority, next);
    },
  };
}

export function createNode(apex: Apex, records: readonly RecordData[]): ZoneNode {
  return {
    rcode: RCODE.NOERROR,
    types: records.map((record) => TYPE[record.type]),
    answers: records.map(encodeForQuestion),
    authority: apex.empty.authority,
  };
}
