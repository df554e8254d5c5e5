/** Resource records in the form answers are put together from: encoded once, when a record changes. */
import { type Answer, encode } from 'dns-packet';
import { HEADER_BYTES } from './wire.ts';

/** A pointer to offset 12, where every query's name starts: answers thereby carry the query's own spelling. */
const QUESTION_POINTER = [0xc0, HEADER_BYTES];

/** A record and the name it belongs to, as text; what `banger dns status` lists. */
export interface ZoneRecord {
  /** full name without a trailing dot */
  name: string;
  type: 'A' | 'AAAA' | 'PTR' | 'SOA' | 'NS';
  /** value in the usual presentation format */
  data: string;
}

/** Numbers of an SOA record, in `s` but for the serial. */
export interface Soa {
  mname: string;
  rname: string;
  serial: number;
  refresh: number;
  retry: number;
  expire: number;
  minimum: number;
}

export type RecordData =
  | { type: 'A' | 'AAAA' | 'PTR' | 'NS'; ttl: number; data: string }
  | { type: 'SOA'; ttl: number; data: Soa };

/** The record for an answer section, its name a pointer to the question. */
export function encodeForQuestion(record: RecordData): Uint8Array {
  const withRootName = encodeRecord('.', record);
  // an array of its own: small ones need less memory than slices of Node's pool, which they keep from being freed
  const answer = new Uint8Array(withRootName.length + 1);
  answer.set(QUESTION_POINTER);
  answer.set(withRootName.subarray(1), QUESTION_POINTER.length);
  return answer;
}

/** The record with its name in full, for an authority section. */
export function encodeRecord(name: string, record: RecordData): Buffer {
  const answer: Answer = { ...record, name };
  return encode({ type: 'response', answers: [answer] }).subarray(HEADER_BYTES);
}

/** Puts a new serial in an encoded SOA; it is the first of the five numbers a SOA ends with. */
export function patchSerial(soa: Uint8Array, serial: number): void {
  new DataView(soa.buffer, soa.byteOffset).setUint32(soa.length - 20, serial);
}
