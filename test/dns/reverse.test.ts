import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { reverseName, reverseZones } from '../../src/dns/reverse.ts';

describe('reverse zones', () => {
  const ranges: [string, string[]][] = [
    ['172.30.0.0/16', ['30.172.in-addr.arpa']],
    ['10.0.0.0/8', ['10.in-addr.arpa']],
    ['192.168.7.0/24', ['7.168.192.in-addr.arpa']],
    ['10.8.0.0/15', ['8.10.in-addr.arpa', '9.10.in-addr.arpa']],
    ['172.16.0.0/14', ['16.172.in-addr.arpa', '17.172.in-addr.arpa', '18.172.in-addr.arpa', '19.172.in-addr.arpa']],
    ['10.1.2.4/31', ['4.2.1.10.in-addr.arpa', '5.2.1.10.in-addr.arpa']],
    ['fd42::/64', ['0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa']],
    ['fd42:abc0::/30', ['0', '1', '2', '3'].map((digit) => `${digit}.c.b.a.2.4.d.f.ip6.arpa`)],
  ];
  for (const [range, zones] of ranges) {
    it(`cover ${range} with ${zones.length}`, () => assert.deepEqual(reverseZones(range), zones));
  }

  it('are as many as there are addresses below the last cut', () => {
    assert.equal(reverseZones('172.30.0.0/29').length, 8);
    assert.equal(reverseZones('172.30.0.0/20').length, 16);
  });

  it('are refused for what is no range', () => {
    for (const text of ['172.30.0.1/16', 'vm', 'fd42::/129', 'fd42::', '::ffff:1.2.3.4/96']) {
      assert.throws(() => reverseZones(text), { code: 'invalid_input' });
    }
  });
});

describe('reverse names', () => {
  it('turn addresses around', () => {
    assert.equal(reverseName('172.30.0.2'), '2.0.30.172.in-addr.arpa');
    const zeros = '0.'.repeat(24);
    assert.equal(reverseName('fd42::1'), `1.0.0.0.${zeros}2.4.d.f.ip6.arpa`);
    assert.equal(reverseName('::'), `${'0.'.repeat(32)}ip6.arpa`);
  });
});
