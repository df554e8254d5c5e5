/** A guest that says it is off, judged by looks at its processors. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { FIRST_LOOKS, LATE_LOOKS, type Look, staysOff } from '../../../src/control/vm/power-off.ts';

/** A guest that is found like this, one look after the other, and from then on as the last one says. */
async function judge(found: Look[], isLastWord: () => boolean = () => true) {
  const stop = new AbortController();
  const seen = { looks: 0, doubts: 0, waitedMs: 0 };
  const isOff = await staysOff({
    look: async () => found[Math.min(seen.looks++, found.length - 1)] ?? 'gone',
    isLastWord: async () => isLastWord(),
    onDoubt: () => seen.doubts++,
    wait: async (ms) => {
      seen.waitedMs += ms;
      if (seen.looks > 1000) stop.abort();
    },
    signal: stop.signal,
  });
  return { isOff, ...seen };
}

const times = (count: number, look: Look): Look[] => Array.from({ length: count }, () => look);

describe('a guest that says it is off', () => {
  it('is off when its processors stand still, at once or after its disks are written', async () => {
    assert.deepEqual(await judge(['still']), { isOff: true, looks: 1, doubts: 0, waitedMs: 0 });
    const written = await judge([...times(3, 'runs'), 'still']);
    assert.deepEqual(written, { isOff: true, looks: 4, doubts: 0, waitedMs: 3 * FIRST_LOOKS.everyMs });
  });

  it('is off too when packets woke a processor at each of the first looks', async () => {
    const woken = await judge([...times(FIRST_LOOKS.count + 5, 'runs'), 'still']);
    assert.equal(woken.isOff, true);
    assert.equal(woken.looks, FIRST_LOOKS.count + 6);
    assert.equal(woken.doubts, 1);
  });

  it('runs on when something follows the line, however still it gets later', async () => {
    const looks = [...times(FIRST_LOOKS.count, 'runs'), 'still' as const];
    assert.deepEqual(await judge(looks, () => false), {
      isOff: false,
      looks: FIRST_LOOKS.count,
      doubts: 1,
      waitedMs: FIRST_LOOKS.count * FIRST_LOOKS.everyMs,
    });
    let asked = 0;
    const later = await judge(['runs'], () => ++asked <= 3);
    assert.deepEqual([later.isOff, later.looks], [false, FIRST_LOOKS.count + 3]);
  });

  it('is given up after five minutes of looks', async () => {
    const busy = await judge(['runs']);
    assert.deepEqual([busy.isOff, busy.looks], [false, FIRST_LOOKS.count + LATE_LOOKS.count]);
    assert.ok(busy.waitedMs >= 300_000);
  });

  it('is judged when it goes on, if it is paused', async () => {
    const paused = await judge([...times(50, 'paused'), 'still']);
    assert.deepEqual([paused.isOff, paused.looks, paused.doubts], [true, 51, 0]);
  });

  it('is not off when its VMM has ended: that is another end', async () => {
    assert.deepEqual(await judge(['gone']), { isOff: false, looks: 1, doubts: 0, waitedMs: 0 });
  });

  it('is left alone when nobody watches it any more', async () => {
    assert.equal((await judge(['paused'])).isOff, false);
  });
});
