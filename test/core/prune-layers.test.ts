import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type PruneRules, planPrune } from '../../src/core/prune-layers.ts';

/** `old` is unused the longest; an image was built from `debian`, none from `other`. */
const LAYERS = [
  { key: 'old', base: 'other', sizeBytes: 100, usedAt: '2026-01-01T00:00:00.000Z' },
  { key: 'first', base: 'debian', sizeBytes: 10, usedAt: '2026-02-01T00:00:00.000Z' },
  { key: 'step', base: 'debian', sizeBytes: 20, usedAt: '2026-03-01T00:00:00.000Z' },
  { key: 'new', base: 'other', sizeBytes: 40, usedAt: '2026-04-01T00:00:00.000Z' },
];

const removed = (rules: Partial<PruneRules>) => {
  const plan = planPrune(LAYERS, { bases: new Set(['debian']), ...rules });
  assert.equal(plan.remove.length + plan.keep.length, LAYERS.length);
  return plan.remove.map(({ key }) => key).sort();
};

describe('pruning layers', () => {
  it('without rules removes the layers from whose base no image was built', () => {
    assert.deepEqual(removed({}), ['new', 'old']);
    assert.deepEqual(removed({ bases: new Set() }), ['first', 'new', 'old', 'step']);
  });

  it('to a size removes the longest unused first, those of images last', () => {
    assert.deepEqual(removed({ keepBytes: 170 }), []);
    assert.deepEqual(removed({ keepBytes: 169 }), ['old']);
    assert.deepEqual(removed({ keepBytes: 69 }), ['new', 'old']);
    assert.deepEqual(removed({ keepBytes: 20 }), ['first', 'new', 'old']);
    assert.deepEqual(removed({ keepBytes: 0 }), ['first', 'new', 'old', 'step']);
  });

  it('by age removes what was not used since, whoever refers to it', () => {
    assert.deepEqual(removed({ unusedSince: '2026-02-15T00:00:00.000Z' }), ['first', 'old']);
    assert.deepEqual(removed({ unusedSince: '2026-02-15T00:00:00.000Z', keepBytes: 20 }), ['first', 'new', 'old']);
  });

  it('of all removes all', () => {
    assert.deepEqual(removed({ all: true }), ['first', 'new', 'old', 'step']);
  });
});
