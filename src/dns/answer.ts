/** Answers one query from a zone: bytes in, bytes out, and no side effects but that the zone hears of it. Prepared answers are copied, not encoded. */
import type { ZoneNode } from './nodes.ts';
import {
  CLASS_IN,
  HEADER_BYTES,
  MAX_LABEL_BYTES,
  MAX_NAME_BYTES,
  MAX_TCP_BYTES,
  MAX_UDP_BYTES,
  PLAIN_UDP_BYTES,
  RCODE,
  TYPE,
} from './wire.ts';
import type { Zone } from './zone.ts';

/** How queries can end; the counters of `banger dns status`. */
export const QUERY_RESULTS = [
  /** the record asked for */
  'answer',
  /** the name exists, the type does not */
  'nodata',
  'nxdomain',
  /** no name of ours; REFUSED, or forwarded where a listener does that */
  'outside',
  /** a transfer or a class other than IN */
  'refused',
  'notimp',
  'formerr',
  /** an EDNS version we do not speak */
  'badvers',
  /** too long for UDP: empty, with TC */
  'truncated',
  /** nothing sent: responses and packets shorter than a header */
  'ignored',
] as const;
export type QueryResult = (typeof QUERY_RESULTS)[number];

export type Transport = 'udp' | 'tcp';

/** Where an answer is written; made once and used again for query after query. */
export interface Reply {
  readonly bytes: Buffer;
  /** bytes of the answer; 0 when none may be sent */
  length: number;
}

/**
 * Header, longest question, a record with two of the longest names and OPT. Answers are bounded by what one name
 * can hold, so that no query makes one longer than this.
 */
const REPLY_BYTES = 2048;

const OPT_BYTES = 11;
const FLAG_RESPONSE = 0x80;
const FLAG_AUTHORITATIVE = 0x04;
const FLAG_TRUNCATED = 0x02;
const FLAG_RECURSION_DESIRED = 0x01;
const FLAG_RECURSION_AVAILABLE = 0x80;
/** bits of a query's flags that its response repeats: opcode and RD, then CD */
const KEEP_HIGH = 0x79;
const KEEP_LOW = 0x10;

/** What the additional section said; filled by `readAdditional`. */
interface Edns {
  present: boolean;
  version: number;
  udpBytes: number;
  dnssecOk: boolean;
}

export function createReply(): Reply {
  return { bytes: Buffer.alloc(REPLY_BYTES), length: 0 };
}

// Scratch space of one call; answers are made in one go, never two at a time.
const labelOffsets = new Uint16Array(MAX_NAME_BYTES);
const edns: Edns = { present: false, version: 0, udpBytes: PLAIN_UDP_BYTES, dnssecOk: false };

/** Answers `query` into `reply` and says how it ended. Never throws, whatever the bytes. */
export function answer(zone: Zone, query: Buffer, transport: Transport, reply: Reply): QueryResult {
  reply.length = 0;
  if (query.length < HEADER_BYTES || (byteAt(query, 2) & FLAG_RESPONSE) !== 0) return 'ignored';
  const opcode = (byteAt(query, 2) >> 3) & 0xf;
  if (opcode !== 0) return fail(query, reply, RCODE.NOTIMP, 'notimp');
  // several questions have no meaning (RFC 9619), and a query brings no answers along
  const onlyOneQuestion = wordAt(query, 4) === 1 && wordAt(query, 6) === 0 && wordAt(query, 8) === 0;
  const labels = onlyOneQuestion ? readLabels(query) : -1;
  if (labels < 0) return fail(query, reply, RCODE.FORMERR, 'formerr');

  const nameEnd = labels === 0 ? HEADER_BYTES + 1 : lastLabelEnd(query, labels);
  const questionEnd = nameEnd + 4;
  const type = wordAt(query, nameEnd);
  if (questionEnd > query.length || !readAdditional(query, questionEnd) || isPseudoType(type)) {
    return fail(query, reply, RCODE.FORMERR, 'formerr');
  }
  startReply(query, reply, questionEnd);
  if (edns.present && edns.version !== 0) return finish(reply, RCODE.NOERROR, 'badvers', 1);
  if (wordAt(query, nameEnd + 2) !== CLASS_IN || type === TYPE.AXFR || type === TYPE.IXFR) {
    return finish(reply, RCODE.REFUSED, 'refused');
  }
  if (isObsoleteMetaType(type)) return finish(reply, RCODE.NOTIMP, 'notimp');
  const node = zone.find(query, labelOffsets, labels, nameEnd);
  if (node === undefined) return finish(reply, RCODE.REFUSED, 'outside');
  return answerFrom(node, type, transport, reply);
}

/** Answers a query so long that only its start was kept; no query needs that many bytes. */
export function refuseOverlong(query: Buffer, reply: Reply): QueryResult {
  reply.length = 0;
  if (query.length < HEADER_BYTES || (byteAt(query, 2) & FLAG_RESPONSE) !== 0) return 'ignored';
  return fail(query, reply, RCODE.FORMERR, 'formerr');
}

/** Whether the client asks for answers from elsewhere too. */
export function wantsRecursion(query: Buffer): boolean {
  return (byteAt(query, 2) & FLAG_RECURSION_DESIRED) !== 0;
}

/** Turns an answer made here into one of a server that also asks elsewhere for its clients. */
export function offerRecursion({ bytes }: Reply): void {
  bytes[3] = byteAt(bytes, 3) | FLAG_RECURSION_AVAILABLE;
}

/** Tells the client of a well-formed query that nobody could be asked. */
export function answerServfail(query: Buffer, reply: Reply): void {
  fail(query, reply, RCODE.SERVFAIL, 'outside');
}

/** Offset behind the only question of a well-formed query. */
export function endOfQuestion(query: Buffer): number {
  return skipName(query, HEADER_BYTES) + 4;
}

/** Longest answer the client of a well-formed query takes over UDP, in bytes. */
export function udpLimitOf(query: Buffer): number {
  return readAdditional(query, endOfQuestion(query)) ? edns.udpBytes : PLAIN_UDP_BYTES;
}

function answerFrom(node: ZoneNode, type: number, transport: Transport, reply: Reply): QueryResult {
  const { bytes } = reply;
  bytes[2] = byteAt(bytes, 2) | FLAG_AUTHORITATIVE;
  const found = answerOf(node, type);
  const record = found ?? node.authority;
  const limit = transport === 'udp' ? Math.min(edns.udpBytes, MAX_UDP_BYTES) : MAX_TCP_BYTES;
  if (reply.length + record.length + (edns.present ? OPT_BYTES : 0) > limit) {
    bytes[2] = byteAt(bytes, 2) | FLAG_TRUNCATED;
    return finish(reply, node.rcode, 'truncated');
  }
  bytes[found === undefined ? 9 : 7] = 1; // one authority record or one answer
  append(reply, record);
  if (found !== undefined) node.asked?.();
  if (found !== undefined) return finish(reply, RCODE.NOERROR, 'answer');
  return finish(reply, node.rcode, node.rcode === RCODE.NOERROR ? 'nodata' : 'nxdomain');
}

function answerOf(node: ZoneNode, type: number): Uint8Array | undefined {
  for (let index = 0; index < node.types.length; index++) {
    // one record of our choice satisfies ANY (RFC 8482); more would only be larger
    if (type === node.types[index] || type === TYPE.ANY) return node.answers[index];
  }
  return undefined;
}

/** Header with all counts zero but the question's, and the question itself in its own spelling. */
function startReply(query: Buffer, reply: Reply, questionEnd: number): void {
  const { bytes } = reply;
  for (let at = 0; at < questionEnd; at++) bytes[at] = byteAt(query, at);
  bytes[2] = FLAG_RESPONSE | (byteAt(query, 2) & KEEP_HIGH);
  bytes[3] = byteAt(query, 3) & KEEP_LOW;
  bytes[10] = 0; // OPT is counted when it is written
  bytes[11] = 0;
  reply.length = questionEnd;
}

function finish(reply: Reply, rcode: number, result: QueryResult, extendedRcode = 0): QueryResult {
  const { bytes } = reply;
  bytes[3] = byteAt(bytes, 3) | rcode;
  if (!edns.present) return result;
  bytes[11] = 1;
  const at = reply.length;
  bytes[at] = 0; // root name
  bytes[at + 1] = 0;
  bytes[at + 2] = TYPE.OPT;
  bytes[at + 3] = MAX_UDP_BYTES >> 8;
  bytes[at + 4] = MAX_UDP_BYTES & 0xff;
  bytes[at + 5] = extendedRcode;
  bytes[at + 6] = 0; // version
  bytes[at + 7] = edns.dnssecOk ? 0x80 : 0; // DO is repeated (RFC 3225)
  bytes[at + 8] = 0;
  bytes[at + 9] = 0; // no options
  bytes[at + 10] = 0;
  reply.length = at + OPT_BYTES;
  return result;
}

/** A bare header: what was asked could not be understood, so nothing of it is repeated. */
function fail(query: Buffer, reply: Reply, rcode: number, result: QueryResult): QueryResult {
  const { bytes } = reply;
  bytes.fill(0, 0, HEADER_BYTES);
  bytes[0] = byteAt(query, 0);
  bytes[1] = byteAt(query, 1);
  bytes[2] = FLAG_RESPONSE | (byteAt(query, 2) & KEEP_HIGH);
  bytes[3] = (byteAt(query, 3) & KEEP_LOW) | rcode;
  reply.length = HEADER_BYTES;
  return result;
}

function append(reply: Reply, record: Uint8Array): void {
  const { bytes, length } = reply;
  // quicker than `set` for the 16 bytes of an address
  for (let at = 0; at < record.length; at++) bytes[length + at] = record[at] ?? 0;
  reply.length = length + record.length;
}

/**
 * Notes where each label of the question's name starts; the number of labels, or -1 when the name is malformed.
 * A pointer is malformed here: the first name of a packet has nothing before it to point to.
 */
function readLabels(query: Buffer): number {
  let at = HEADER_BYTES;
  let labels = 0;
  for (;;) {
    const length = query[at];
    if (length === undefined || length > MAX_LABEL_BYTES) return -1;
    if (length === 0) break;
    labelOffsets[labels++] = at;
    at += length + 1;
    if (at - HEADER_BYTES >= MAX_NAME_BYTES) return -1;
  }
  return labels;
}

/** Offset behind the closing zero of a name with at least one label. */
function lastLabelEnd(query: Buffer, labels: number): number {
  const last = labelOffsets[labels - 1] ?? 0;
  return last + byteAt(query, last) + 2;
}

/**
 * Walks the records after the question, looking for OPT; false when they are malformed, when there are several
 * OPT (RFC 6891, 6.1.1) or when bytes are left over.
 */
function readAdditional(query: Buffer, start: number): boolean {
  edns.present = false;
  edns.udpBytes = PLAIN_UDP_BYTES;
  let at = start;
  for (let left = wordAt(query, 10); left > 0; left--) {
    const nameStart = at;
    at = skipName(query, at);
    if (at + 10 > query.length) return false;
    if (wordAt(query, at) === TYPE.OPT) {
      if (edns.present || at !== nameStart + 1) return false;
      edns.present = true;
      edns.udpBytes = Math.max(PLAIN_UDP_BYTES, wordAt(query, at + 2));
      edns.version = byteAt(query, at + 5);
      edns.dnssecOk = (byteAt(query, at + 6) & 0x80) !== 0;
    }
    at += 10 + wordAt(query, at + 8);
  }
  return at === query.length;
}

/** Offset behind a name, which a pointer ends; behind the packet when malformed. Pointers are not followed. */
function skipName(query: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const length = query[at];
    if (length === undefined) return query.length;
    if (length === 0) return at + 1;
    if (length >= 0xc0) return at + 2;
    if (length > MAX_LABEL_BYTES) return query.length;
    at += length + 1;
  }
}

/** Types that are parts of a packet and never a question. */
function isPseudoType(type: number): boolean {
  return type === TYPE.OPT || type === TYPE.TSIG || type === 0;
}

function isObsoleteMetaType(type: number): boolean {
  return type === TYPE.MAILA || type === TYPE.MAILB || type === TYPE.TKEY;
}

function byteAt(packet: Buffer, at: number): number {
  return packet[at] ?? 0;
}

function wordAt(packet: Buffer, at: number): number {
  return (byteAt(packet, at) << 8) | byteAt(packet, at + 1);
}
