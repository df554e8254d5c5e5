/** How limits of drives are put into QEMU's terms, one-time bursts above all. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { DriveLimits } from '../../fcqemu/vmm/drive-limits.ts';
import { updatedLimiter } from '../../fcqemu/vmm/rate-limiter.ts';

function limits(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const stats = { rd_bytes: 0, wr_bytes: 0, rd_operations: 0, wr_operations: 0, flush_operations: 0 };
  const throttles: Record<string, unknown>[] = [];
  let looks = 0;
  const control = new DriveLimits({
    execute: async <T>(command: string, args?: Record<string, unknown>) => {
      if (command === 'query-blockstats') looks += 1;
      else throttles.push(args ?? {});
      return [{ qdev: '/machine/peripheral/block0/virtio-backend', stats }] as T;
    },
  });
  return {
    control,
    stats,
    throttles,
    looks: () => looks,
    tick: async (ms: number) => {
      t.mock.timers.tick(ms);
      for (let i = 0; i < 10; i++) await Promise.resolve();
    },
  };
}

const bucket = (size: number, refill_time: number, one_time_burst: number | null = null) => ({
  size,
  one_time_burst,
  refill_time,
});

describe('limits of a drive', () => {
  it('are a rate, and a bucket where it holds more than a second brings', async (t) => {
    const { control, throttles, looks } = limits(t);
    await control.set(0, { bandwidth: bucket(1000, 100), ops: bucket(50, 5000) });
    const none = { bps_rd: 0, bps_wr: 0, iops_rd: 0, iops_wr: 0 };
    assert.deepEqual(throttles, [{ id: 'block0', bps: 10_000, iops: 10, iops_max: 50, ...none }]);
    await control.set(0, null);
    assert.deepEqual(throttles[1], { id: 'block0', bps: 0, iops: 0, ...none });
    assert.equal(looks(), 0);
  });

  it('take sizes that no drive has', async (t) => {
    const { control, throttles } = limits(t);
    await control.set(0, { bandwidth: bucket(2 ** 64, 1), ops: null });
    assert.equal(throttles[0]?.bps, 1e15);
  });

  it('have a larger bucket until the burst is spent', async (t) => {
    const { control, stats, throttles, tick } = limits(t);
    stats.rd_bytes = 500;
    await control.set(0, { bandwidth: bucket(1000, 1000, 9000), ops: bucket(10, 1000, 100) });
    assert.deepEqual([throttles[0]?.bps_max, throttles[0]?.iops_max], [10_000, 110]);
    Object.assign(stats, { wr_bytes: 8999, rd_operations: 50 });
    await tick(1000);
    assert.equal(throttles.length, 1);
    stats.wr_bytes = 9000;
    await tick(1000);
    assert.deepEqual([throttles[1]?.bps_max, throttles[1]?.iops_max], [undefined, 110]);
    stats.flush_operations = 50;
    await tick(1000);
    assert.deepEqual([throttles[2]?.bps_max, throttles[2]?.iops_max], [undefined, undefined]);
  });

  it('are at least one a second, and whole numbers', async (t) => {
    const { control, throttles } = limits(t);
    await control.set(0, { bandwidth: bucket(10, 3000), ops: bucket(1, 10_000) });
    assert.deepEqual([throttles[0]?.bps, throttles[0]?.iops], [3, 1]);
  });

  it('keep what is left of the burst of a bucket that an update does not name', async (t) => {
    const { control, stats, throttles, tick } = limits(t);
    const first = { bandwidth: bucket(1000, 1000, 9000), ops: bucket(10, 1000, 100) };
    await control.set(0, first);
    stats.rd_bytes = 9000;
    stats.rd_operations = 50;
    await tick(1000);
    const second = updatedLimiter(first, { bandwidth: bucket(2000, 1000) });
    await control.set(0, second);
    assert.deepEqual([throttles.at(-1)?.bps, throttles.at(-1)?.iops_max], [2000, 110]);
    stats.rd_operations = 100;
    await tick(1000);
    assert.equal(throttles.at(-1)?.iops_max, undefined);
    await control.set(0, updatedLimiter(second, { bandwidth: bucket(3000, 1000) }));
    assert.deepEqual([throttles.at(-1)?.bps, throttles.at(-1)?.iops_max], [3000, undefined]);
    await control.set(0, updatedLimiter(second, { ops: bucket(10, 1000, 100) }));
    assert.equal(throttles.at(-1)?.iops_max, 110);
  });

  it('are looked at less often while nothing happens, and no more once the burst is spent', async (t) => {
    const { control, stats, tick, looks } = limits(t);
    await control.set(0, { bandwidth: bucket(1000, 1000, 9000), ops: null });
    for (let second = 0; second < 600; second++) await tick(1000);
    assert.ok(looks() < 155, `${looks()} looks in ten minutes`);
    stats.rd_bytes = 10_000;
    await tick(60_000);
    const spent = looks();
    await tick(60_000);
    await tick(60_000);
    assert.equal(looks(), spent);
  });
});
