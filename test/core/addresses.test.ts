import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  choosePool,
  formatAddress,
  formatSubnet,
  gatewayOf,
  nextAddress,
  overlaps,
  parseAddress,
  parsePool,
  parseSubnet,
  poolCandidates,
} from '../../src/core/addresses.ts';

describe('addresses', () => {
  it('survive a round trip through text', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (n) => parseAddress(formatAddress(n)) === n));
  });

  it('that are none are refused', () => {
    for (const text of ['', '1.2.3', '1.2.3.4.5', '256.1.1.1', 'a.b.c.d', '1.2.3.4/24']) {
      assert.throws(() => parseAddress(text), { code: 'invalid_input' }, text);
    }
  });
});

describe('parseSubnet', () => {
  it('refuses host bits and nonsense prefixes', () => {
    assert.deepEqual(parseSubnet('10.0.0.0/8'), { base: 0x0a000000, prefix: 8 });
    for (const text of ['10.0.0.1/8', '10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/x', '10.0.0.0/']) {
      assert.throws(() => parseSubnet(text), { code: 'invalid_input' }, text);
    }
  });
});

describe('pool', () => {
  it('gives the gateway the first address and VMs the lowest free one', () => {
    const pool = parsePool('172.30.0.0/16');
    assert.equal(gatewayOf(pool), '172.30.0.1');
    assert.equal(nextAddress(pool, []), '172.30.0.2');
    assert.equal(nextAddress(pool, ['172.30.0.2', '172.30.0.4']), '172.30.0.3');
  });

  it('says so when it is used up', () => {
    const pool = parsePool('10.0.0.0/29');
    const taken = ['10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6'];
    assert.throws(() => nextAddress(pool, taken), { code: 'conflict', message: /10\.0\.0\.0\/29/ });
  });

  it('of a useless size is refused', () => {
    assert.throws(() => parsePool('10.0.0.0/30'), { code: 'invalid_input' });
    assert.throws(() => parsePool('0.0.0.0/0'), { code: 'invalid_input' });
  });

  it('avoids every range that a route covers, or that lies inside one', () => {
    const routes = ['172.30.5.0/24', '172.16.0.0/13'].map(parseSubnet);
    const chosen = choosePool(poolCandidates(undefined), routes);
    assert.equal(chosen && formatSubnet(chosen), '172.29.0.0/16');
    assert.equal(choosePool(poolCandidates(undefined), [parseSubnet('0.0.0.0/0')]), undefined);
  });

  it('of a banger with its own home starts elsewhere and is stable', () => {
    const [first] = poolCandidates(7);
    assert.deepEqual(poolCandidates(7)[0], first);
    assert.notDeepEqual(poolCandidates(8)[0], first);
  });
});

describe('overlaps', () => {
  it('is symmetric and sees containment', () => {
    const wide = parseSubnet('10.0.0.0/8');
    const narrow = parseSubnet('10.200.3.0/24');
    assert.equal(overlaps(wide, narrow), true);
    assert.equal(overlaps(narrow, wide), true);
    assert.equal(overlaps(parseSubnet('10.0.0.0/24'), parseSubnet('10.0.1.0/24')), false);
  });
});
