import assert from 'node:assert/strict';
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
    const before = process.memoryUsage().heapUsed;
    {
      const garbage = Array.from({ length: 200_000 }, (_, index) => ({ text: `piece ${index}` }));
      assert.ok(process.memoryUsage().heapUsed > before + garbage.length * 40);
    }
    await Promise.resolve();
    using memory = createIdleMemory();
    memory.worked();
    const used = process.memoryUsage().heapUsed;
    t.mock.timers.tick(5000);
    assert.ok(process.memoryUsage().heapUsed < used - 5 * 2 ** 20);
  });
});
