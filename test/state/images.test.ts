import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { openDatabase } from '../../src/state/database.ts';
import { createImageStore, type ImageRecord } from '../../src/state/images.ts';

function sampleImage(changes: Partial<ImageRecord> = {}): ImageRecord {
  return {
    id: '0a0b0c0d',
    name: 'dev',
    arch: 'x86_64',
    base: 'debian-bookworm',
    digest: `fsverity-sha256:${'ab'.repeat(32)}`,
    sizeBytes: 2 ** 31,
    recipe: '{}',
    recipeKey: 'cd'.repeat(32),
    createdAt: '2026-11-25T00:00:00.000Z',
    ...changes,
  };
}

describe('image store', () => {
  it('keeps an image as it was given', () => {
    const images = createImageStore(openDatabase(':memory:'));
    images.insert(sampleImage());
    images.insert(sampleImage({ id: '11111111', name: 'bare', recipe: null, recipeKey: null }));
    assert.deepEqual(images.get('dev'), sampleImage());
    assert.deepEqual(
      images.list().map(({ name, recipe }) => [name, recipe]),
      [
        ['bare', null],
        ['dev', '{}'],
      ],
    );
    images.remove('0a0b0c0d');
    assert.throws(() => images.get('dev'), { code: 'not_found', hint: /banger image list/ });
  });

  it('refuses a taken name, and replaces on demand', () => {
    const images = createImageStore(openDatabase(':memory:'));
    images.insert(sampleImage());
    const next = sampleImage({ id: '22222222' });
    assert.throws(() => images.insert(next), { code: 'conflict', message: /"dev" exists already/ });
    assert.deepEqual(images.insert(next, { replace: true }), sampleImage());
    assert.deepEqual(images.list(), [next]);
  });

  it('renames unless the name is taken', () => {
    const images = createImageStore(openDatabase(':memory:'));
    images.insert(sampleImage());
    images.insert(sampleImage({ id: '33333333', name: 'bare' }));
    assert.throws(() => images.rename('33333333', 'dev'), { code: 'conflict' });
    images.rename('33333333', 'base');
    assert.equal(images.get('base').id, '33333333');
  });
});
