/** Statistics of processes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, it } from 'node:test';
import { parseProcessStats, readProcessStats } from '../../src/system/process-stats.ts';

describe('statistics of a process', () => {
  it('are those of this one: time, memory, threads, start', async () => {
    const until = performance.now() + 60;
    while (performance.now() < until); // some time on the processor
    const stats = await readProcessStats(process.pid);
    assert.ok(stats);
    assert.ok(stats.cpuMs > 20 && Math.abs(stats.cpuMs - process.cpuUsage().user / 1000) < 5000, `${stats.cpuMs} ms`);
    assert.ok(Math.abs(stats.rssBytes - process.memoryUsage.rss()) < 64 * 2 ** 20, `${stats.rssBytes} bytes`);
    assert.ok(stats.threads > 1);
    const startedAt = Date.now() - process.uptime() * 1000;
    assert.ok(Math.abs(stats.startedAt.getTime() - startedAt) < 3000, stats.startedAt.toISOString());
  });

  it('count fields after the last parenthesis of the command', () => {
    const stat = `7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 1000 ${'0 '.repeat(30)}`;
    const stats = parseProcessStats(7, stat, 'Name:\ta\nVmRSS:\t     120 kB\n', 'cpu 1\nbtime 1700000000\n');
    assert.deepEqual(stats, {
      pid: 7,
      command: 'a) b (c',
      cpuMs: 2000,
      rssBytes: 120 * 1024,
      threads: 3,
      startedAt: new Date(1_700_000_010_000),
    });
  });

  it('are none of a process that is gone', async () => {
    const child = spawn('true');
    await new Promise((resolve) => child.once('close', resolve));
    assert.equal(await readProcessStats(child.pid ?? 0), undefined);
  });
});
