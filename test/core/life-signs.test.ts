import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLifeWatch, type LifeSample } from '../../src/core/life-signs.ts';

/** One sample a second of a guest whose numbers grow by `a second`; the first verdict and when it came. */
function watch(seconds: number, aSecond: (second: number) => Partial<LifeSample>) {
  const verdictOf = createLifeWatch();
  const sample = { atMs: 0, cpuMs: 0, waitedMs: 0, consoleBytes: 0 };
  for (let second = 0; second <= seconds; second++) {
    const { answered = false, ...grown } = aSecond(second);
    for (const key of ['cpuMs', 'waitedMs', 'consoleBytes'] as const) sample[key] += grown[key] ?? 0;
    sample.atMs = second * 1000;
    const verdict = verdictOf({ ...sample, answered });
    if (verdict !== undefined) return { second, verdict };
  }
  return undefined;
}

describe('a guest that is being started', () => {
  it('is given up when it does nothing any more: no output, no answer, no processor time', () => {
    const dead = watch(180, (second) => (second < 3 ? { cpuMs: 900, consoleBytes: 40 } : { cpuMs: 4, waitedMs: 60 }));
    assert.deepEqual(dead, { second: 22, verdict: 'did nothing for 20 s' });
  });

  it('is given up as soon when it computed much before it fell silent', () => {
    const dead = watch(180, (second) =>
      second < 4 ? { cpuMs: 900, consoleBytes: second === 0 ? 40 : 0 } : { cpuMs: 4 },
    );
    assert.deepEqual(dead, { second: 23, verdict: 'did nothing for 20 s' });
  });

  it('is given up when it computes for many times what a login takes, and says nothing', () => {
    assert.deepEqual(watch(180, () => ({ cpuMs: 1000 }))?.verdict, 'computed for 90 s without a word');
  });

  it('is left alone while it computes, prints, answers or waits for a processor of the host', () => {
    assert.equal(
      watch(60, () => ({ cpuMs: 400 })),
      undefined,
    );
    assert.equal(
      watch(600, (second) => ({ cpuMs: 900, consoleBytes: second % 15 === 0 ? 10 : 0 })),
      undefined,
    );
    assert.equal(
      watch(600, () => ({ answered: true })),
      undefined,
    );
    assert.equal(
      watch(600, () => ({ cpuMs: 5, waitedMs: 900 })),
      undefined,
    );
  });
});
