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
    const garbage = makeGarbage();
    assert.ok(garbage.deref(), 'nobody has collected it yet');
    // a reference that was followed keeps its object for the rest of the turn
    await new Promise(setImmediate);
    using memory = createIdleMemory();
    memory.worked();
    t.mock.timers.tick(5000);
    assert.equal(garbage.deref(), undefined);
  });
});

/** In a function of its own: nothing of the caller's may still refer to it. */
function makeGarbage(): WeakRef<object> {
  return new WeakRef(Array.from({ length: 1000 }, (_, index) => ({ text: `piece ${index}` })));
}
