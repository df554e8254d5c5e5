/** Questions and what has to come back, in tables. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { RecordType } from 'dns-packet';
import type { QueryResult } from '../../src/dns/answer.ts';
import { ask, exampleZone, lines, query, rcodeOf } from './support/packets.ts';

interface Lookup {
  name: string;
  type: RecordType;
  result: QueryResult;
  rcode?: string;
  answers?: string[];
  authorities?: string[];
}

const VM_SOA = ['vm SOA _ns.vm'];
const V4_SOA = ['30.172.in-addr.arpa SOA _ns.vm'];
const V6_TOP = '0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa';
const V6_SOA = [`${V6_TOP} SOA _ns.vm`];
const V6_WEB = `2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.${V6_TOP}`;

const FOUND: Lookup[] = [
  { name: 'web.vm', type: 'A', result: 'answer', answers: ['web.vm A 172.30.0.2'] },
  { name: 'web.vm', type: 'AAAA', result: 'answer', answers: ['web.vm AAAA fd42::2'] },
  { name: 'WeB.vM', type: 'A', result: 'answer', answers: ['WeB.vM A 172.30.0.2'] },
  { name: 'api.web.vm', type: 'A', result: 'answer', answers: ['api.web.vm A 172.30.0.2'] },
  { name: 'a.B.c.web.vm', type: 'AAAA', result: 'answer', answers: ['a.B.c.web.vm AAAA fd42::2'] },
  { name: '*.web.vm', type: 'A', result: 'answer', answers: ['*.web.vm A 172.30.0.2'] },
  { name: 'six.vm', type: 'AAAA', result: 'answer', answers: ['six.vm AAAA fd42::6'] },
  { name: 'vm', type: 'SOA', result: 'answer', answers: ['vm SOA _ns.vm'] },
  { name: 'vm', type: 'NS', result: 'answer', answers: ['vm NS _ns.vm'] },
  { name: '_ns.vm', type: 'A', result: 'answer', answers: ['_ns.vm A 127.0.0.1'] },
  { name: '_probe.vm', type: 'A', result: 'answer', answers: ['_probe.vm A 172.30.0.1'] },
  { name: 'f00._probe.vm', type: 'A', result: 'answer', answers: ['f00._probe.vm A 172.30.0.1'] },
  { name: '2.0.30.172.in-addr.arpa', type: 'PTR', result: 'answer', answers: ['2.0.30.172.in-addr.arpa PTR web.vm'] },
  { name: '2.0.30.172.IN-ADDR.arpa', type: 'PTR', result: 'answer', answers: ['2.0.30.172.IN-ADDR.arpa PTR web.vm'] },
  { name: V6_WEB, type: 'PTR', result: 'answer', answers: [`${V6_WEB} PTR web.vm`] },
  { name: '30.172.in-addr.arpa', type: 'SOA', result: 'answer', answers: ['30.172.in-addr.arpa SOA _ns.vm'] },
  { name: '30.172.in-addr.arpa', type: 'NS', result: 'answer', answers: ['30.172.in-addr.arpa NS _ns.vm'] },
];

const MISSING: Lookup[] = [
  { name: 'db.vm', type: 'AAAA', result: 'nodata', authorities: VM_SOA },
  { name: 'x.db.vm', type: 'AAAA', result: 'nodata', authorities: VM_SOA },
  { name: 'six.vm', type: 'A', result: 'nodata', authorities: VM_SOA },
  { name: 'web.vm', type: 'MX', result: 'nodata', authorities: VM_SOA },
  { name: 'web.vm', type: 'NS', result: 'nodata', authorities: VM_SOA },
  { name: 'vm', type: 'A', result: 'nodata', authorities: VM_SOA },
  { name: 'vm', type: 'DS', result: 'nodata', authorities: VM_SOA },
  { name: 'nobody.vm', type: 'A', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: VM_SOA },
  { name: 'web.nobody.vm', type: 'A', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: VM_SOA },
  { name: '*.vm', type: 'A', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: VM_SOA },
  { name: '2.0.30.172.in-addr.arpa', type: 'A', result: 'nodata', authorities: V4_SOA },
  { name: '30.172.in-addr.arpa', type: 'PTR', result: 'nodata', authorities: V4_SOA },
  // web is 172.30.0.2, so something exists below 0.30.172; nothing does below 9.30.172
  { name: '0.30.172.in-addr.arpa', type: 'PTR', result: 'nodata', authorities: V4_SOA },
  { name: '9.30.172.in-addr.arpa', type: 'PTR', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: V4_SOA },
  { name: '9.0.30.172.in-addr.arpa', type: 'PTR', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: V4_SOA },
  { name: 'x.2.0.30.172.in-addr.arpa', type: 'PTR', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: V4_SOA },
  { name: `0.0.0.${V6_TOP}`, type: 'PTR', result: 'nodata', authorities: V6_SOA },
  { name: `1.0.0.${V6_TOP}`, type: 'PTR', result: 'nxdomain', rcode: 'NXDOMAIN', authorities: V6_SOA },
];

const OUTSIDE: Lookup[] = [
  { name: 'example.com', type: 'A', result: 'outside', rcode: 'REFUSED' },
  { name: '.', type: 'NS', result: 'outside', rcode: 'REFUSED' },
  { name: 'web.vm.example.com', type: 'A', result: 'outside', rcode: 'REFUSED' },
  { name: 'web', type: 'A', result: 'outside', rcode: 'REFUSED' },
  { name: 'xvm', type: 'A', result: 'outside', rcode: 'REFUSED' },
  { name: 'web.xvm', type: 'A', result: 'outside', rcode: 'REFUSED' },
  { name: '172.in-addr.arpa', type: 'SOA', result: 'outside', rcode: 'REFUSED' },
  { name: '1.0.31.172.in-addr.arpa', type: 'PTR', result: 'outside', rcode: 'REFUSED' },
  { name: 'arpa', type: 'NS', result: 'outside', rcode: 'REFUSED' },
  { name: 'vm', type: 'AXFR', result: 'refused', rcode: 'REFUSED' },
  { name: 'vm', type: 'IXFR', result: 'refused', rcode: 'REFUSED' },
];

function check({ name, type, result, rcode = 'NOERROR', answers = [], authorities = [] }: Lookup): void {
  for (const edns of [false, true]) {
    for (const transport of ['udp', 'tcp'] as const) {
      const asked = ask(exampleZone(), query({ name, type, edns }), transport);
      const authoritative = result !== 'outside' && result !== 'refused';
      assert.equal(asked.result, result);
      assert.equal(rcodeOf(asked.packet), rcode);
      assert.deepEqual(lines(asked.packet), { answers, authorities });
      assert.equal(asked.packet.flag_aa, authoritative);
      assert.equal(asked.packet.flag_qr, true);
      assert.equal(asked.packet.flag_ra, false, 'never recursive');
      assert.equal(asked.packet.flag_rd, true, 'RD is repeated');
      assert.equal(asked.packet.flag_tc, false);
      assert.equal(asked.packet.id, 4711);
      assert.equal(asked.packet.questions?.[0]?.name, name);
      assert.equal(asked.packet.additionals?.length, edns ? 1 : 0, 'OPT is answered with OPT');
    }
  }
}

describe('answers', () => {
  for (const lookup of FOUND) it(`finds ${lookup.name} ${lookup.type}`, () => check(lookup));
  for (const lookup of MISSING) {
    it(`says ${lookup.result} with the SOA for ${lookup.name} ${lookup.type}`, () => check(lookup));
  }
  for (const lookup of OUTSIDE) it(`refuses ${lookup.name} ${lookup.type}`, () => check(lookup));

  it('gives records the short time to live and "no such name" an even shorter one', () => {
    const zone = exampleZone({ ttlSeconds: 7 });
    const found = ask(zone, query({ name: 'web.vm' })).packet.answers?.[0];
    const missing = ask(zone, query({ name: 'nobody.vm' })).packet.authorities?.[0];
    assert.equal(found?.type === 'A' && found.ttl, 7);
    assert.equal(missing?.type === 'SOA' && missing.ttl, 1);
    assert.equal(missing?.type === 'SOA' && missing.data.minimum, 1);
  });

  it('answers ANY with a single record (RFC 8482)', () => {
    const names = ['web.vm', 'vm', '2.0.30.172.in-addr.arpa', 'six.vm'];
    const types = names.map((name) => ask(exampleZone(), query({ name, type: 'ANY' as RecordType })).packet.answers);
    assert.deepEqual(
      types.map((answers) => answers?.map(({ type }) => type)),
      [['A'], ['SOA'], ['PTR'], ['AAAA']],
    );
    assert.equal(ask(exampleZone(), query({ name: 'nobody.vm', type: 'ANY' as RecordType })).result, 'nxdomain');
  });

  it('serves a pool smaller than a /24 as one zone per address', () => {
    const zone = exampleZone({ pools: ['172.30.0.0/29'] });
    const pointer = ask(zone, query({ name: '2.0.30.172.in-addr.arpa', type: 'PTR' }));
    assert.deepEqual(lines(pointer.packet).answers, ['2.0.30.172.in-addr.arpa PTR web.vm']);
    assert.equal(ask(zone, query({ name: '2.0.30.172.in-addr.arpa', type: 'SOA' })).result, 'answer');
    assert.equal(ask(zone, query({ name: '3.0.30.172.in-addr.arpa', type: 'PTR' })).result, 'nodata');
    assert.equal(ask(zone, query({ name: '8.0.30.172.in-addr.arpa', type: 'PTR' })).result, 'outside');
  });

  it('serves a zone of several labels', () => {
    const zone = exampleZone({ zone: 'Lab.Internal' });
    assert.deepEqual(lines(ask(zone, query({ name: 'x.web.lab.INTERNAL' })).packet).answers, [
      'x.web.lab.INTERNAL A 172.30.0.2',
    ]);
    assert.equal(ask(zone, query({ name: 'web.internal' })).result, 'outside');
    assert.equal(ask(zone, query({ name: 'lab.internal', type: 'NS' })).result, 'answer');
  });
});

describe('EDNS', () => {
  it('tells the size it takes and repeats the DO bit', () => {
    const bytes = query({ name: 'web.vm', edns: true });
    bytes[bytes.length - 4] = 0x80;
    const opt = ask(exampleZone(), bytes).packet.additionals?.[0];
    assert.ok(opt?.type === 'OPT');
    assert.equal(opt.udpPayloadSize, 1232);
    assert.equal(opt.flag_do, true);
    assert.equal(opt.ednsVersion, 0);
  });

  it('answers a version it does not speak with BADVERS and its own version', () => {
    const bytes = query({ name: 'web.vm', edns: true });
    bytes[bytes.length - 5] = 1;
    const { result, packet } = ask(exampleZone(), bytes);
    const opt = packet.additionals?.[0];
    assert.equal(result, 'badvers');
    assert.ok(opt?.type === 'OPT');
    assert.equal(opt.extendedRcode, 1);
    assert.equal(opt.ednsVersion, 0);
    assert.deepEqual(packet.answers, []);
  });

  it('reads past options and other additional records', () => {
    const cookie = Buffer.from('000a0008a1b2c3d4e5f60718', 'hex');
    const bytes = query({ name: 'web.vm', edns: true });
    bytes.writeUInt16BE(cookie.length, bytes.length - 2);
    assert.equal(ask(exampleZone(), Buffer.concat([bytes, cookie])).result, 'answer');
    const withSignature = Buffer.concat([
      query({ name: 'web.vm' }),
      Buffer.from('036b6579c00c00fa00ff000000000000', 'hex'),
    ]);
    withSignature[11] = 1;
    assert.equal(ask(exampleZone(), withSignature).result, 'answer');
  });

  it('takes sizes below 512 for 512', () => {
    const { result } = ask(exampleZone(), query({ name: 'web.vm', edns: 17 }));
    assert.equal(result, 'answer');
  });
});

describe('long answers', () => {
  // a zone name so long that the SOA after a long name needs more than 512 bytes
  const zone = `${'a'.repeat(60)}.${'b'.repeat(60)}.${'c'.repeat(60)}.vm`;
  const name = `${'n'.repeat(55)}.${zone}`;

  it('are cut to the question with TC over UDP', () => {
    const { packet, bytes } = ask(exampleZone({ zone }), query({ name }));
    assert.equal(packet.flag_tc, true);
    assert.deepEqual(lines(packet), { answers: [], authorities: [] });
    assert.equal(packet.questions?.[0]?.name, name);
    assert.ok(bytes.length <= 512);
  });

  it('are whole over TCP and where EDNS leaves room', () => {
    const overTcp = ask(exampleZone({ zone }), query({ name }), 'tcp');
    assert.equal(overTcp.packet.flag_tc, false);
    assert.equal(overTcp.result, 'nxdomain');
    assert.ok(overTcp.bytes.length > 512);
    assert.equal(ask(exampleZone({ zone }), query({ name, edns: 1232 })).result, 'nxdomain');
    assert.equal(ask(exampleZone({ zone }), query({ name, edns: 600 })).result, 'truncated');
  });
});
