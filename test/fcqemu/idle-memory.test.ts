/** When fcqemu gives memory back. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createIdleMemory } from '../../fcqemu/idle-memory.ts';

const garbage = (): WeakRef<object> => new WeakRef(new Array(1000).fill(0));

describe('idle memory', () => {
  it('is given back once, some time after the last work', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    t.mock.method(process.memoryUsage, 'rss', () => 50 * 2 ** 20);
    const { promise, resolve } = Promise.withResolvers<void>();
    let returns = 0;
    const worked = createIdleMemory(() => {
      returns += 1;
      resolve();
    });
    worked();
    t.mock.timers.tick(900);
    worked();
    t.mock.timers.tick(900);
    assert.equal(returns, 0);
    t.mock.timers.tick(100);
    await promise;
    t.mock.timers.tick(60_000);
    assert.equal(returns, 1);
  });

  it('stays while there is little of it', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    t.mock.method(process.memoryUsage, 'rss', () => 30 * 2 ** 20);
    createIdleMemory(() => assert.fail('it was given back'))();
    t.mock.timers.tick(5000);
    await new Promise(setImmediate);
  });

  it('does not wait for quiet when there is much garbage', async () => {
    const worked = createIdleMemory(() => {});
    const held = garbage();
    await new Promise(setImmediate);
    worked(5 * 2 ** 20);
    // asking earlier would keep it
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(held.deref(), undefined);
  });
});
