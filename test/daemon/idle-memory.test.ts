import assert from 'node:assert/strict';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { describe, it } from 'node:test';
import { createIdleMemory } from '../../src/daemon/idle-memory.ts';

describe('idle memory', () => {
  it('is collected once, some time after the last work', (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let collections = 0;
    using memory = createIdleMemory(() => collections++);
    memory.worked();
    t.mock.timers.tick(4000);
    memory.worked();
    t.mock.timers.tick(4000);
    assert.equal(collections, 0);
    t.mock.timers.tick(1000);
    assert.equal(collections, 1);
    t.mock.timers.tick(60_000);
    assert.equal(collections, 1);
  });

  it('really is given back', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const collections: unknown[] = [];
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) collections.push((entry as { detail?: unknown }).detail);
    });
    observer.observe({ entryTypes: ['gc'] });
    using memory = createIdleMemory();
    memory.worked();
    t.mock.timers.tick(5000);
    for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
    observer.disconnect();
    const asked = collections.some((detail) => {
      const { kind, flags } = detail as { kind: number; flags: number };
      return kind === constants.NODE_PERFORMANCE_GC_MAJOR && flags !== constants.NODE_PERFORMANCE_GC_FLAGS_NO;
    });
    assert.ok(asked, JSON.stringify(collections));
  });
});
