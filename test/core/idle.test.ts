import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type IdleSight, type IdleSpan, judgeIdle } from '../../src/core/idle.ts';

const MINUTE = 60_000;
const IDLE_MS = 30 * MINUTE;
const seen = (minutes: number, changes: Partial<IdleSight> = {}): IdleSight => ({
  ...{ nowMs: minutes * MINUTE, run: 'a', sessions: 0, sessionsBegun: 0, connections: 0, packets: 0, cpuMs: 0 },
  ...changes,
});

/** The last verdict of looks that come one after the other. */
function judge(looks: IdleSight[], awakeUntil: string | null = null): { span: IdleSpan; suspend: boolean } {
  let last: { span: IdleSpan; suspend: boolean } | undefined;
  for (const look of looks) {
    assert.ok(last === undefined || !last.suspend, 'suspended too early');
    last = judgeIdle(last?.span, look, IDLE_MS, awakeUntil);
  }
  assert.ok(last);
  return last;
}

describe('a VM that nobody uses', () => {
  it('is suspended after its time, and not before', () => {
    assert.equal(judge([seen(0), seen(10), seen(29.9)]).suspend, false);
    assert.equal(judge([seen(0), seen(10), seen(30)]).suspend, true);
    assert.equal(judge([seen(0)]).suspend, false);
  });

  it('begins anew with each use: a command, a connection, another run', () => {
    for (const use of [{ sessions: 1 }, { sessionsBegun: 1 }, { connections: 1 }, { run: 'b' }]) {
      const stays = 'run' in use || 'sessionsBegun' in use;
      const { suspend, span } = judge([seen(0), seen(20, use), seen(31, stays ? use : {})]);
      assert.deepEqual([suspend, span.sinceMs], [false, 20 * MINUTE], JSON.stringify(use));
    }
  });

  it('is used while it works: over all of its time, not in a moment', () => {
    const work = (percent: number) => (30 * MINUTE * percent) / 100;
    assert.equal(judge([seen(0, { cpuMs: 500 }), seen(30, { cpuMs: 500 + work(1.9) })]).suspend, true);
    const { suspend, span } = judge([seen(0), seen(30, { cpuMs: work(2.1) })]);
    assert.deepEqual(
      [suspend, span],
      [false, { sinceMs: 30 * MINUTE, run: 'a', sessionsBegun: 0, packets: 0, cpuMs: work(2.1) }],
    );
  });

  it('is awake for as long as somebody said, and for all of its time after that', () => {
    const until = new Date(60 * MINUTE).toISOString();
    assert.equal(judge([seen(0), seen(40), seen(59)], until).suspend, false);
    assert.equal(judge([seen(0), seen(59), seen(61), seen(88)], until).suspend, false);
    assert.equal(judge([seen(0), seen(59), seen(61), seen(89)], until).suspend, true);
  });

  it('is known by its packets where connections are not seen', () => {
    const unseen = { connections: undefined };
    assert.equal(judge([seen(0, unseen), seen(30, { ...unseen, packets: 30 * 59 })]).suspend, true);
    assert.equal(judge([seen(0, unseen), seen(30, { ...unseen, packets: 30 * 61 })]).suspend, false);
    assert.equal(judge([seen(0), seen(30, { packets: 1e6 })]).suspend, true, 'seen connections count, packets do not');
  });
});
