/** Whatever bytes come in: no exception, no reply to replies, and never more bytes than the client takes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RecordType } from 'dns-packet';
import fc from 'fast-check';
import type { Transport } from '../../src/dns/answer.ts';
import { readCorpus } from './support/corpus.ts';
import { type Asked, ask, exampleZone, query, rcodeOf } from './support/packets.ts';

const zone = exampleZone();
const corpus = readCorpus();

/** What holds for every packet, however broken. */
function checkInvariants(bytes: Buffer, transport: Transport): Asked {
  const before = Buffer.from(bytes);
  const asked = ask(zone, bytes, transport);
  assert.deepEqual(bytes, before, 'the query is left as it was');
  const mustStaySilent = bytes.length < 12 || ((bytes[2] ?? 0) & 0x80) !== 0;
  assert.equal(asked.result === 'ignored', mustStaySilent);
  assert.equal(asked.bytes.length === 0, mustStaySilent);
  if (mustStaySilent) return asked;
  assert.deepEqual(asked.bytes.subarray(0, 2), bytes.subarray(0, 2), 'the id is repeated');
  assert.ok(asked.packet.flag_qr, 'it is a response');
  assert.ok(asked.bytes.length <= (transport === 'udp' ? largestUdp(asked) : 65_535), `${asked.bytes.length} bytes`);
  const header = rcodeOf(asked.packet) === 'FORMERR' || asked.bytes.length === 12;
  if (!header) {
    const question = asked.bytes.subarray(12, 12 + questionLength(bytes));
    assert.deepEqual(question, bytes.subarray(12, 12 + questionLength(bytes)), 'the question is repeated');
  }
  return asked;
}

/** 512, unless the reply says by its OPT that the query had one; then 1232 at most. */
function largestUdp({ packet }: Asked): number {
  return packet.additionals?.length ? 1232 : 512;
}

function questionLength(bytes: Buffer): number {
  let at = 12;
  while ((bytes[at] ?? 0) !== 0) at += (bytes[at] ?? 0) + 1;
  return at + 5 - 12;
}

const transports = fc.constantFrom<Transport>('udp', 'tcp');
const label = fc.oneof(
  fc.constantFrom('web', 'WEB', 'db', 'six', 'vm', 'VM', 'arpa', 'in-addr', '30', '172', '0', '2', '*', '_probe'),
  fc.stringMatching(/^[a-zA-Z0-9_-]{1,63}$/),
);
const name = fc
  .array(label, { minLength: 1, maxLength: 12 })
  .map((labels) => labels.join('.'))
  .filter((text) => text.length <= 253);
const type = fc.constantFrom<RecordType>('A', 'AAAA', 'PTR', 'SOA', 'NS', 'MX', 'TXT', 'DS', 'AXFR');
const edns = fc.option(fc.integer({ min: 0, max: 65_535 }), { nil: undefined });
const wellFormed = fc
  .record({ name, type, edns, recursion: fc.boolean(), id: fc.integer({ min: 0, max: 65_535 }) })
  .map(({ edns: size, ...rest }) => query(size === undefined ? rest : { ...rest, edns: size }));

describe('the corpus', () => {
  for (const { name: title, bytes, expected } of corpus) {
    it(`${title} is ${expected}`, () => {
      assert.equal(checkInvariants(bytes, 'udp').result, expected);
      assert.equal(checkInvariants(bytes, 'tcp').result, expected);
    });
  }
});

describe('fuzzed packets', () => {
  it('are survived when they are random bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), transports, (bytes, transport) => {
        checkInvariants(Buffer.from(bytes), transport);
      }),
      { numRuns: 3000 },
    );
  });

  it('are survived when they are a header and random bytes', () => {
    const header = fc.constantFrom('0001 0000 0000 0000', '0001 0000 0000 0001', '0001 0000 0000 0003');
    fc.assert(
      fc.property(header, fc.uint8Array({ maxLength: 300 }), transports, (counts, rest, transport) => {
        checkInvariants(Buffer.concat([Buffer.from(`abcd0100${counts.replaceAll(' ', '')}`, 'hex'), rest]), transport);
      }),
      { numRuns: 3000 },
    );
  });

  it('are survived when they are queries with some bytes changed, cut off or added', () => {
    const changes = fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 0, max: 255 })), { maxLength: 5 });
    const origin = fc.oneof(wellFormed, fc.constantFrom(...corpus.map(({ bytes }) => bytes)));
    fc.assert(
      fc.property(
        origin,
        changes,
        fc.nat(400),
        fc.uint8Array({ maxLength: 20 }),
        transports,
        (start, edits, cut, tail, by) => {
          const bytes = Buffer.concat([start.subarray(0, cut), tail]);
          for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
          checkInvariants(bytes, by);
        },
      ),
      { numRuns: 5000 },
    );
  });

  it('are answered when they are well formed, by nothing but the zone', () => {
    fc.assert(
      fc.property(wellFormed, transports, (bytes, transport) => {
        const { result, packet } = checkInvariants(bytes, transport);
        assert.ok(['answer', 'nodata', 'nxdomain', 'outside', 'refused'].includes(result), result);
        assert.ok((packet.answers ?? []).length <= 1);
        assert.equal(packet.authorities?.length, result === 'nodata' || result === 'nxdomain' ? 1 : 0);
      }),
      { numRuns: 3000 },
    );
  });
});
