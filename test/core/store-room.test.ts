import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { greediest, isNear, nextLookMs, roomToGoOn } from '../../src/core/store-room.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

describe('who uses up the room of disks', () => {
  it('is the VM that took the most', () => {
    const grown = [
      { id: 'quiet', bytes: 0 },
      { id: 'busy', bytes: 40 * MIB },
      { id: 'busier', bytes: 41 * MIB },
    ];
    assert.equal(greediest(grown, 256 * MIB)?.id, 'busier');
  });

  it('is nobody where no VM took a telling part of what is left', () => {
    assert.equal(greediest([{ id: 'a', bytes: 7 * MIB }], 256 * MIB), undefined);
    assert.equal(greediest([{ id: 'a', bytes: 8 * MIB }], 256 * MIB)?.id, 'a');
    assert.equal(greediest([], 256 * MIB), undefined);
    assert.equal(greediest([{ id: 'a', bytes: -5 * MIB }], 256 * MIB), undefined, 'it gave some back');
  });

  it('is also one that takes little, when little is left', () => {
    assert.equal(greediest([{ id: 'a', bytes: MIB }], 16 * MIB)?.id, 'a');
    assert.equal(greediest([{ id: 'a', bytes: 64 * 1024 }], 0)?.id, 'a');
    assert.equal(greediest([{ id: 'a', bytes: 4096 }], 0), undefined, 'a line in a log');
  });

  it('goes on at more room than it was held at', () => {
    assert.equal(roomToGoOn(256 * MIB), 320 * MIB);
    assert.equal(roomToGoOn(0), 0);
  });
});

describe('the time of the next look', () => {
  it('comes before the fastest guest could have used up what is left', () => {
    for (const left of [2 * GIB, 4 * GIB, 8 * GIB, 14 * GIB]) {
      assert.ok(nextLookMs(left, true, 4000) * ((4 * GIB) / 1000) <= left * 1.001, `${left}`);
    }
    assert.equal(nextLookMs(100 * GIB, false, 4000), 4000);
    assert.equal(nextLookMs(100 * GIB, true, 4000), 4000);
  });

  it('is soon where room is short and shrinks, and later where nothing moves', () => {
    assert.equal(nextLookMs(10 * MIB, true, 4000), 250);
    assert.equal(nextLookMs(10 * MIB, false, 4000), 1000);
    assert.equal(nextLookMs(-10 * MIB, true, 4000), 250);
  });

  it('finds the files of VMs looked at before the limit is passed', () => {
    assert.ok(isNear(GIB - MIB));
    assert.ok(!isNear(2 * GIB));
    assert.ok(nextLookMs(1.01 * GIB, false, 4000) <= 1000);
  });
});
