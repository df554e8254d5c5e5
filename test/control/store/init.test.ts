import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { initStorage, resizeStorage, undoStorage } from '../../../src/control/store/init.ts';
import { createStillGuests } from '../../../src/control/upkeep/still-guests.ts';
import { mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';

const never = new AbortController().signal;

describe('a store that moves', () => {
  it('moves out of no image where it lies in none', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    await assert.rejects(undoStorage(host, createStillGuests(host), quietProgress(), never), {
      code: 'conflict',
      hint: /storage init/,
    });
    await assert.rejects(resizeStorage(host, 2 ** 40, quietProgress()), { code: 'conflict', hint: /storage init/ });
  });

  it('moves into no image inside itself', async () => {
    await using place = await mortalHost();
    const { store } = place.config.paths;
    const request = { path: `${store}/store.xfs`, sizeBytes: 2 ** 30 };
    const { host } = place.daemon();
    await assert.rejects(initStorage(host, createStillGuests(host), request, quietProgress(), never));
    assert.deepEqual(place.stores.ledger.all(), []);
  });
});
