import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { findJump, mustStep } from '../../src/core/clock.ts';

/** A clock that is moved by hand: awake both go on, asleep only the second does. */
function fakeClock() {
  let monotonicMs = 1000;
  let boottimeMs = 61_000;
  return {
    sample: () => ({ monotonicMs, boottimeMs }),
    awake(ms: number) {
      monotonicMs += ms;
      boottimeMs += ms;
    },
    asleep(ms: number) {
      boottimeMs += ms;
    },
  };
}

describe('jumps of the clock', () => {
  it('are none while time goes by as it should, on a busy host too', () => {
    const clock = fakeClock();
    const before = clock.sample();
    clock.awake(4000);
    assert.equal(findJump(before, clock.sample(), 4000), undefined);
    clock.awake(4900);
    assert.equal(findJump(before, clock.sample(), 4000), undefined);
  });

  it('tell a host that slept from a process that was held', () => {
    const clock = fakeClock();
    const before = clock.sample();
    clock.awake(3000);
    clock.asleep(7_200_000);
    clock.awake(1000);
    assert.deepEqual(findJump(before, clock.sample(), 4000), { kind: 'slept', ms: 7_200_000 });
    const held = clock.sample();
    clock.awake(64_000);
    assert.deepEqual(findJump(held, clock.sample(), 4000), { kind: 'held', ms: 60_000 });
  });

  it('take the resolution of /proc/uptime for no sleep', () => {
    const before = { monotonicMs: 0, boottimeMs: 0 };
    assert.equal(findJump(before, { monotonicMs: 4000, boottimeMs: 4010 }, 4000), undefined);
  });
});

describe('a guest’s clock', () => {
  it('is set when it is off by more than whole seconds can hide', () => {
    const hostMs = 1_800_000_000_700;
    assert.equal(mustStep(1_800_000_000, hostMs), false);
    assert.equal(mustStep(1_799_999_999, hostMs), false);
    assert.equal(mustStep(1_799_999_997, hostMs), true);
    assert.equal(mustStep(1_800_000_003, hostMs), true);
  });
});
