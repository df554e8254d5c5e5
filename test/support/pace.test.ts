import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { given, pace, paced, paceOf } from './pace.ts';

describe('the pace of a place', () => {
  it('is what BANGER_TEST_PACE says, which must be a number from 1 on', () => {
    assert.equal(given('2.5'), 2.5);
    assert.equal(given(''), undefined);
    assert.equal(given(undefined), undefined);
    for (const wrong of ['0', '0.5', '-3', 'fast', 'NaN', 'Infinity']) {
      assert.throws(() => given(wrong), new RegExp(`BANGER_TEST_PACE is "${wrong}"`), wrong);
    }
  });

  it('grows with the time a program takes to start, from 1 to a limit at which tests that hang still end', () => {
    assert.deepEqual([20, 150, 300, 750, 60_000].map(paceOf), [1, 1, 2, 5, 10]);
  });

  it('is measured once, and makes limits longer', () => {
    assert.ok(pace() >= 1);
    assert.equal(pace(), pace());
    assert.equal(paced(1000), Math.round(1000 * pace()));
  });
});
