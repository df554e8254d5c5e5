import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLately, NOTHING_LATELY } from '../../src/preflight/lately.ts';

describe('what was found lately', () => {
  it('is believed for a while if it was good, and looked at again if not', async () => {
    let time = 0;
    let looks = 0;
    const lately = createLately(() => time);
    const look = (good: boolean) =>
      lately.once(
        'taps',
        async () => ++looks,
        () => good,
      );
    assert.deepEqual([await look(false), await look(false)], [1, 2]);
    assert.deepEqual([await look(true), await look(true)], [3, 3]);
    time = 29_999;
    assert.equal(await look(true), 3);
    time = 30_000;
    assert.equal(await look(false), 4);
    assert.equal(await look(true), 5);
    assert.deepEqual(
      await Promise.all([1, 2].map((value) => NOTHING_LATELY.once('it', async () => value, Boolean))),
      [1, 2],
    );
  });
});
