import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { resizeDisks } from '../../../src/control/disks/resize.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { DISK_BYTES, ext4, mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';

describe('disks that are to grow', () => {
  it('do not shrink, and stay as they are', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert({ ...place.vm, rootDiskBytes: 64 * DISK_BYTES });
    const { directory, rootDisk } = vmFiles(place.config.paths.store, place.vm.id);
    mkdirSync(directory, { recursive: true });
    writeFileSync(rootDisk, ext4(DISK_BYTES, 'old'));
    const request = { rootBytes: 32 * DISK_BYTES, online: false };
    const never = new AbortController().signal;
    await assert.rejects(resizeDisks(place.daemon().host, 'web', request, quietProgress(), never), {
      code: 'invalid_input',
    });
    assert.equal(place.stores.vms.get('web').rootDiskBytes, 64 * DISK_BYTES);
  });
});
