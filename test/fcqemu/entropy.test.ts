/** The source of random bytes behind a limited entropy device. */
import assert from 'node:assert/strict';
import { duplexPair } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { EntropySource } from '../../fcqemu/vmm/entropy.ts';
import type { StoredLimiter } from '../../fcqemu/vmm/rate-limiter.ts';

function source(t: TestContext, limiter: Partial<StoredLimiter>) {
  const [qemu, own] = duplexPair();
  t.after(() => qemu.destroy());
  const counted: Record<string, number> = {};
  new EntropySource(own, { bandwidth: null, ops: null, ...limiter }, (counter, amount = 1) => {
    counted[counter] = (counted[counter] ?? 0) + amount;
  });
  let received = Buffer.alloc(0);
  qemu.on('data', (bytes: Buffer) => {
    received = Buffer.concat([received, bytes]);
  });
  return {
    qemu,
    counted,
    ask: (...lengths: number[]) => qemu.write(Buffer.from(lengths.flatMap((length) => [2, length]))),
    received: async (afterMs = 20) => {
      await delay(afterMs);
      return received;
    },
  };
}

describe('the entropy source', () => {
  it('gives as many bytes as it is asked for, however the requests are cut', async (t) => {
    const { qemu, ask, received } = source(t, {});
    ask(64, 255);
    qemu.write(Buffer.from([2]));
    qemu.write(Buffer.from([10, 2, 1]));
    const bytes = await received();
    assert.equal(bytes.length, 330);
    assert.ok(new Set(bytes).size > 100);
  });

  it('spends a burst once, then its buckets, and counts requests and bytes', async (t) => {
    const { ask, received, counted } = source(t, {
      bandwidth: { size: 100, one_time_burst: 200, refill_time: 10_000 },
    });
    ask(100, 100, 100, 100);
    assert.equal((await received()).length, 300);
    assert.deepEqual(counted, { entropy_event_count: 3, entropy_bytes: 300, entropy_rate_limiter_throttled: 1 });
  });

  it('answers later what has to wait', async (t) => {
    const { ask, received } = source(t, { ops: { size: 1, one_time_burst: null, refill_time: 100 } });
    ask(8, 8);
    assert.equal((await received()).length, 8);
    assert.equal((await received(200)).length, 16);
  });

  it('ends the connection when it does not understand', async (t) => {
    const { qemu, received } = source(t, {});
    qemu.write(Buffer.from([4, 0, 0]));
    assert.equal((await received()).length, 0);
  });
});
