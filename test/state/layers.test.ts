/** Layers of image builds in the database. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { openDatabase } from '../../src/state/database.ts';
import { createLayerStore, type LayerRecord } from '../../src/state/layers.ts';

function layer(key: string, changes: Partial<LayerRecord> = {}): LayerRecord {
  return {
    key,
    parent: null,
    base: 'debian-bookworm',
    step: 'packages jq',
    sizeBytes: 600_000_000,
    createdAt: '2026-11-25T00:00:00.000Z',
    usedAt: '2026-11-25T00:00:00.000Z',
    machine: null,
    unsyncedBoot: null,
    ...changes,
  };
}

describe('layers', () => {
  it('are listed with the longest unused first', () => {
    const store = createLayerStore(openDatabase(':memory:'));
    store.insert(layer('b', { parent: 'a', usedAt: '2026-11-25T02:00:00.000Z' }));
    store.insert(layer('a', { usedAt: '2026-11-25T03:00:00.000Z' }));
    store.insert(layer('c', { usedAt: '2026-11-25T01:00:00.000Z' }));
    assert.deepEqual(
      store.list().map(({ key }) => key),
      ['c', 'b', 'a'],
    );
    assert.deepEqual(store.find('b'), layer('b', { parent: 'a', usedAt: '2026-11-25T02:00:00.000Z' }));
  });

  it('move to the end when a build begins from them', () => {
    const store = createLayerStore(openDatabase(':memory:'));
    store.insert(layer('a'));
    store.insert(layer('b'));
    store.touch('a', '2026-11-26T00:00:00.000Z');
    assert.deepEqual(
      store.list().map(({ key }) => key),
      ['b', 'a'],
    );
  });

  it('are replaced by one of the same key, and removed once or twice', () => {
    const store = createLayerStore(openDatabase(':memory:'));
    store.insert(layer('a'));
    store.insert(layer('a', { sizeBytes: 5 }));
    assert.deepEqual(store.list(), [layer('a', { sizeBytes: 5 })]);
    store.remove('a');
    store.remove('a');
    assert.equal(store.find('a'), undefined);
  });
});
