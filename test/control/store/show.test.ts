import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { showStorage } from '../../../src/control/store/show.ts';
import { mortalHost } from '../../support/mortal-host.ts';

describe('the store', () => {
  it('is shown with what takes its room, most first, and without an image where it lies in none', async () => {
    await using place = await mortalHost();
    const shown = await showStorage(place.daemon().host);
    assert.deepEqual([shown.path, shown.image, shown.state], [place.config.paths.store, null, 'ok']);
    assert.ok(shown.usage.some(({ what, bytes }) => what === 'images' && bytes > 0));
    const sizes = shown.usage.map(({ bytes }) => bytes);
    assert.deepEqual(
      sizes,
      sizes.toSorted((a, b) => b - a),
    );
  });
});
