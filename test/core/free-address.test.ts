import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parsePool } from '../../src/core/addresses.ts';
import { chooseAddress, keepsAddress } from '../../src/core/free-address.ts';

// two addresses are reserved, five are left: .2 to .6
const pool = parsePool('10.0.0.0/29');
const at = (...numbers: number[]) => numbers.map((number) => `10.0.0.${number}`);

describe('the address of a new VM', () => {
  it('is none that a deleted VM may come back to, as long as there are others', () => {
    assert.equal(chooseAddress(pool, { living: at(2), trashed: at(3, 4) }), '10.0.0.5');
  });

  it('is that of the VM deleted longest ago when there are no others', () => {
    assert.equal(chooseAddress(pool, { living: at(2, 3), trashed: at(6, 4, 5) }), '10.0.0.6');
    assert.equal(chooseAddress(pool, { living: at(2, 3, 6), trashed: at(6, 4, 5) }), '10.0.0.4');
  });

  it('is never outside of the pool, and none at all when VMs have them all', () => {
    const living = at(2, 3, 4, 5, 6);
    assert.throws(() => chooseAddress(pool, { living, trashed: ['10.9.9.9'] }), { code: 'conflict' });
  });
});

describe('a VM that comes back', () => {
  it('keeps its address unless another has it or the pool is another one', () => {
    assert.equal(keepsAddress(pool, '10.0.0.3', at(2)), true);
    assert.equal(keepsAddress(pool, '10.0.0.3', at(2, 3)), false);
    assert.equal(keepsAddress(pool, '172.30.0.3', []), false);
  });
});
