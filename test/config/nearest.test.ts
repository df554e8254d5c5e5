import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { editDistance, nearest } from '../../src/config/nearest.ts';

describe('nearest', () => {
  it('finds what a slip of the fingers meant', () => {
    const keys = ['memory', 'vcpus', 'root_disk', 'work_disk'];
    assert.equal(nearest('memroy', keys), 'memory');
    assert.equal(nearest('VCPU', keys), 'vcpus');
    assert.equal(nearest('rootdisk', keys), 'root_disk');
  });

  it('does not guess at another word', () => {
    assert.equal(nearest('cores', ['memory', 'vcpus']), undefined);
  });
});

describe('editDistance', () => {
  it('is symmetric, zero only for equal words, and at most the longer length', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) => {
        const distance = editDistance(a, b);
        assert.equal(distance, editDistance(b, a));
        assert.equal(distance === 0, a === b);
        assert.ok(distance <= Math.max(a.length, b.length));
      }),
    );
  });

  it('counts a swap of neighbours once', () => {
    assert.equal(editDistance('memroy', 'memory'), 1);
  });
});
