/** Keys of layers and which layers pay. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { baseKey, chainKeys, isWorthKeeping } from '../../src/image/layers.ts';

const steps = [
  { kind: 'packages', inputs: { packages: ['jq'], env: { A: '1', B: '2' } } },
  { kind: 'run', inputs: 'one' },
  { kind: 'run', inputs: 'two' },
];

describe('keys of layers', () => {
  it('are the same for the same, whatever the order of keys', () => {
    const again = [{ inputs: { env: { B: '2', A: '1' }, packages: ['jq'] }, kind: 'packages' }, ...steps.slice(1)];
    assert.deepEqual(chainKeys(baseKey('root', 1), again), chainKeys(baseKey('root', 1), steps));
  });

  it('change from the changed step on, and nowhere before', () => {
    const before = chainKeys(baseKey('root', 1), steps);
    const changed = [steps[0], { kind: 'run', inputs: 'ONE' }, steps[2]].filter((step) => step !== undefined);
    const after = chainKeys(baseKey('root', 1), changed);
    assert.equal(after[0], before[0]);
    assert.notEqual(after[1], before[1]);
    assert.notEqual(after[2], before[2]);
  });

  it('depend on the root and the size', () => {
    const keys = [baseKey('root', 1), baseKey('root', 2), baseKey('toor', 1)];
    assert.equal(new Set(keys).size, 3);
    assert.match(keys[0] ?? '', /^[0-9a-f]{64}$/);
  });
});

describe('a layer', () => {
  const copyBytes = 500_000_000; // two seconds
  it('is always kept where copies share blocks', () => {
    assert.equal(isWorthKeeping({ shares: true, workMs: 0, copyBytes, beforeLast: false }), true);
  });
  it('is kept elsewhere when it saves much more than it costs, or only one step is left', () => {
    assert.equal(isWorthKeeping({ shares: false, workMs: 5000, copyBytes, beforeLast: false }), false);
    assert.equal(isWorthKeeping({ shares: false, workMs: 7000, copyBytes, beforeLast: false }), true);
    assert.equal(isWorthKeeping({ shares: false, workMs: 100, copyBytes, beforeLast: true }), true);
    assert.equal(isWorthKeeping({ shares: false, workMs: 0, copyBytes, beforeLast: true }), false);
  });
});
