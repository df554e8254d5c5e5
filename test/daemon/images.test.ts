/** What the daemon does to images one after another. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { imageHandlers } from '../../src/daemon/routes/images.ts';
import { OLD } from '../support/mortal-disks.ts';
import { mortalHost } from '../support/mortal-host.ts';

describe('the rename of an image', () => {
  it('waits for what makes an image of the new name', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const { renameImage } = imageHandlers(host);
    const request = { params: { name: OLD.name }, body: { name: 'dev' } } as Parameters<typeof renameImage>[0];
    const over = Promise.withResolvers<void>();
    const build = host.operations.start({ kind: 'image.build', target: 'image dev', run: () => over.promise });
    await assert.rejects(async () => renameImage(request), { code: 'conflict', hint: /operation wait/ });
    over.resolve();
    await host.operations.finished(build.id);
    const { id } = (await renameImage(request)) as { id: string };
    assert.equal((await host.operations.finished(id)).state, 'succeeded');
    assert.equal(host.stores.images.get('dev').id, OLD.id);
  });
});
