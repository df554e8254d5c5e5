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

  it('keeps no value of a recipe’s environment, and tells none that an older banger kept', () => {
    const database = openDatabase(':memory:');
    const images = createImageStore(database);
    const recipe = JSON.stringify({ run: ['echo {"env":{"A":"b"}}'], env: { TOKEN: 's3cret', STAGE: '' } });
    const kept = { run: ['echo {"env":{"A":"b"}}'], env: { TOKEN: null, STAGE: null } };
    images.insert(sampleImage({ recipe }));
    const inRow = () => String(database.prepare('SELECT recipe FROM images').get()?.recipe);
    assert.deepEqual(JSON.parse(inRow()), kept);
    database.prepare('UPDATE images SET recipe = ?').run(recipe);
    for (const image of [images.get('dev'), images.find('dev'), images.findById('0a0b0c0d'), images.list()[0]]) {
      assert.deepEqual(JSON.parse(image?.recipe ?? ''), kept);
    }
    for (const other of ['no recipe', '[]', '"env"', '{"env":7}', '{"env":{}}']) {
      images.insert(sampleImage({ recipe: other }), { replace: '0a0b0c0d' });
      assert.equal(images.get('dev').recipe, other);
    }
    images.insert(sampleImage({ recipe: `[${'0,'.repeat(300_000)}0]` }), { replace: '0a0b0c0d' });
    assert.equal(images.get('dev').recipe, null, 'nothing that long is a recipe');
  });

  it('refuses a taken name, and replaces the image that is meant', () => {
    const images = createImageStore(openDatabase(':memory:'));
    images.insert(sampleImage());
    const next = sampleImage({ id: '22222222' });
    assert.throws(() => images.insert(next), { code: 'conflict', message: /"dev" exists already/ });
    assert.throws(() => images.insert(next, { replace: '33333333' }), { code: 'conflict' });
    assert.deepEqual(images.list(), [sampleImage()], 'another one is not replaced');
    assert.deepEqual(images.insert(next, { replace: sampleImage().id }), sampleImage());
    assert.deepEqual(images.list(), [next]);
    images.rename(next.id, 'elsewhere');
    assert.equal(images.insert(sampleImage(), { replace: next.id }), undefined);
    assert.deepEqual(
      images.list().map(({ name }) => name),
      ['dev', 'elsewhere'],
    );
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
