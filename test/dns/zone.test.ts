import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { createZone, type Zone, type ZoneVm } from '../../src/dns/zone.ts';
import { ask, exampleZone, lines, query, ZONE_OPTIONS } from './support/packets.ts';

describe('a zone', () => {
  it('answers from the moment a VM is set until it is deleted', () => {
    const zone = createZone(ZONE_OPTIONS);
    assert.equal(ask(zone, query({ name: 'web.vm' })).result, 'nxdomain');
    assert.equal(zone.set({ name: 'Web', ipv4: '172.30.0.2' }), true);
    assert.equal(ask(zone, query({ name: 'web.vm' })).result, 'answer');
    assert.equal(zone.delete('WEB'), true);
    assert.equal(ask(zone, query({ name: 'web.vm' })).result, 'nxdomain');
    assert.equal(ask(zone, query({ name: '2.0.30.172.in-addr.arpa', type: 'PTR' })).result, 'nxdomain');
  });

  it('moves all records when a VM gets another address', () => {
    const zone = exampleZone();
    zone.set({ name: 'db', ipv4: '172.30.7.7' });
    assert.deepEqual(lines(ask(zone, query({ name: 'db.vm' })).packet).answers, ['db.vm A 172.30.7.7']);
    assert.equal(ask(zone, query({ name: '3.1.30.172.in-addr.arpa', type: 'PTR' })).result, 'nxdomain');
    assert.equal(ask(zone, query({ name: '1.30.172.in-addr.arpa', type: 'PTR' })).result, 'nxdomain');
    assert.equal(ask(zone, query({ name: '7.7.30.172.in-addr.arpa', type: 'PTR' })).result, 'answer');
  });

  it('keeps the pointer of an address that went to another VM first', () => {
    const zone = exampleZone();
    zone.set({ name: 'new', ipv4: '172.30.1.3' });
    zone.delete('db');
    const pointer = ask(zone, query({ name: '3.1.30.172.in-addr.arpa', type: 'PTR' }));
    assert.deepEqual(lines(pointer.packet).answers, ['3.1.30.172.in-addr.arpa PTR new.vm']);
  });

  it('swaps the addresses of two VMs in one replacement', () => {
    const zone = exampleZone();
    const changes = zone.replace([
      { name: 'web', ipv4: '172.30.1.3' },
      { name: 'db', ipv4: '172.30.0.2' },
    ]);
    assert.equal(changes, 3);
    const names = ['3.1.30.172.in-addr.arpa', '2.0.30.172.in-addr.arpa'].map(
      (name) => lines(ask(zone, query({ name, type: 'PTR' })).packet).answers[0],
    );
    assert.deepEqual(names, ['3.1.30.172.in-addr.arpa PTR web.vm', '2.0.30.172.in-addr.arpa PTR db.vm']);
  });

  it('changes nothing when one VM of a replacement can not be served', () => {
    const zone = exampleZone();
    const before = zone.records();
    assert.throws(() => zone.replace([{ name: 'ok' }, { name: 'not ok' }]), { code: 'invalid_input' });
    assert.throws(() => zone.set({ name: 'ok', ipv4: '172.30.0.256' }), { code: 'invalid_input' });
    assert.throws(() => zone.set({ name: 'ok', ipv6: 'fe80::1%tap0' }), { code: 'invalid_input' });
    assert.deepEqual(zone.records(), before);
  });

  it('leaves no room for VMs at names of its own', () => {
    assert.throws(() => exampleZone().set({ name: '_probe', ipv4: '172.30.0.9' }), { code: 'invalid_input' });
  });

  it('refuses names too long for DNS at the moment they are set', () => {
    const zone = createZone({ ...ZONE_OPTIONS, zone: `${'z'.repeat(60)}.`.repeat(3).concat('vm') });
    assert.equal(zone.set({ name: 'a'.repeat(63), ipv4: '172.30.0.2' }), true);
    const longer = `${'z'.repeat(61)}.`.repeat(3).concat('zzzzzz');
    assert.throws(() => createZone({ ...ZONE_OPTIONS, zone: longer }).set({ name: 'a'.repeat(63) }), {
      code: 'invalid_input',
    });
  });

  it('lists its records as people read them', () => {
    const zone = createZone({ ...ZONE_OPTIONS, pools: ['172.30.0.0/16'], now: () => 1_000_000_000_000 });
    zone.set({ name: 'web', ipv4: '172.30.0.2' });
    assert.deepEqual(
      zone.records().map(({ name, type, data }) => `${name} ${type} ${data}`),
      [
        'vm SOA _ns.vm hostmaster.vm 1000000001',
        'vm NS _ns.vm',
        '30.172.in-addr.arpa SOA _ns.vm hostmaster.vm 1000000001',
        '30.172.in-addr.arpa NS _ns.vm',
        '_ns.vm A 127.0.0.1',
        '_probe.vm A 172.30.0.1',
        'web.vm A 172.30.0.2',
        '2.0.30.172.in-addr.arpa PTR web.vm',
      ],
    );
    assert.equal(zone.recordCount, 8);
  });
});

describe('the serial', () => {
  it('starts from the clock, so that a restart never goes back', () => {
    const zone = createZone({ ...ZONE_OPTIONS, now: () => 1_800_000_000_999 });
    assert.equal(zone.serial, 1_800_000_000);
  });

  it('starts above an earlier one when the clock went back', () => {
    const zone = createZone({ ...ZONE_OPTIONS, previousSerial: 1_900_000_000, now: () => 1_800_000_000_000 });
    assert.equal(zone.serial, 1_900_000_001);
  });

  it('grows with each change, also with several in one second, and with nothing else', () => {
    const zone = createZone({ ...ZONE_OPTIONS, now: () => 1_800_000_000_000 });
    const serials = [
      () => zone.set({ name: 'a', ipv4: '172.30.0.2' }),
      () => zone.set({ name: 'a', ipv4: '172.30.0.2' }),
      () => zone.replace([{ name: 'a', ipv4: '172.30.0.2' }]),
      () => zone.delete('b'),
      () => zone.replace([{ name: 'b', ipv4: '172.30.0.2' }]),
      () => zone.delete('b'),
    ].map((change) => {
      change();
      return zone.serial - 1_800_000_000;
    });
    assert.deepEqual(serials, [1, 1, 1, 1, 2, 3]);
  });

  it('is the same in answers for the zone, for its reverse zones and in "no such name"', () => {
    const zone = exampleZone();
    zone.set({ name: 'late', ipv4: '172.30.0.99' });
    const packets = [
      ask(zone, query({ name: 'vm', type: 'SOA' })).packet.answers,
      ask(zone, query({ name: '30.172.in-addr.arpa', type: 'SOA' })).packet.answers,
      ask(zone, query({ name: 'nobody.vm' })).packet.authorities,
      ask(zone, query({ name: 'db.vm', type: 'AAAA' })).packet.authorities,
      ask(zone, query({ name: '9.9.30.172.in-addr.arpa', type: 'PTR' })).packet.authorities,
    ];
    const serials = packets.map((records) => records?.[0]?.type === 'SOA' && records[0].data.serial);
    assert.deepEqual(
      serials,
      Array.from({ length: 5 }, () => zone.serial),
    );
  });
});

const ADDRESSES = Array.from({ length: 6 }, (_, index) => `172.30.${index % 2}.${index}`);
const vmArbitrary = fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd'), ipv4: fc.constantFrom(...ADDRESSES) });
type Change = { set: ZoneVm } | { delete: string } | { replace: ZoneVm[] };
const changeArbitrary: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ set: vmArbitrary }),
  fc.record({ delete: fc.constantFrom('a', 'b', 'c', 'd') }),
  fc.record({ replace: fc.uniqueArray(vmArbitrary, { selector: (vm) => vm.name }) }),
);

describe('a zone under any sequence of changes', () => {
  it('answers like a map made anew', () => {
    fc.assert(
      fc.property(fc.array(changeArbitrary, { maxLength: 12 }), (changes) => {
        const zone = createZone(ZONE_OPTIONS);
        const model = new Map<string, string>();
        for (const change of changes) apply(zone, model, change);
        for (const name of ['a', 'b', 'c', 'd']) {
          const address = model.get(name);
          const expected = address === undefined ? [] : [`${name}.vm A ${address}`];
          assert.deepEqual(lines(ask(zone, query({ name: `${name}.vm` })).packet).answers, expected);
        }
        checkPointers(zone, model);
      }),
    );
  });
});

/** Two VMs never have the same address at the same time, so the model gives it to the one that took it last. */
function apply(zone: Zone, model: Map<string, string>, change: Change): void {
  const take = ({ name, ipv4 = '' }: ZoneVm) => {
    for (const [owner, address] of model) {
      if (address !== ipv4 || owner === name) continue;
      zone.delete(owner);
      model.delete(owner);
    }
    model.set(name, ipv4);
  };
  if ('set' in change) {
    take(change.set);
    zone.set(change.set);
  } else if ('delete' in change) {
    model.delete(change.delete);
    zone.delete(change.delete);
  } else {
    const distinct = change.replace.filter(
      (vm, index, all) => all.findIndex((other) => other.ipv4 === vm.ipv4) === index,
    );
    model.clear();
    for (const vm of distinct) model.set(vm.name, vm.ipv4 ?? '');
    zone.replace(distinct);
  }
}

function checkPointers(zone: Zone, model: Map<string, string>): void {
  for (const address of ADDRESSES) {
    const name = `${address.split('.').reverse().join('.')}.in-addr.arpa`;
    const owner = [...model].find(([, taken]) => taken === address)?.[0];
    const expected = owner === undefined ? [] : [`${name} PTR ${owner}.vm`];
    assert.deepEqual(lines(ask(zone, query({ name, type: 'PTR' })).packet).answers, expected);
  }
  for (const octet of [0, 1]) {
    const used = [...model.values()].some((address) => address.startsWith(`172.30.${octet}.`));
    const { result } = ask(zone, query({ name: `${octet}.30.172.in-addr.arpa`, type: 'PTR' }));
    assert.equal(result, used ? 'nodata' : 'nxdomain');
  }
}
