import assert from 'node:assert/strict';
import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { resizeDisks } from '../../../src/control/disks/resize.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { MIB } from '../../../src/units.ts';
import { DISK_BYTES, ext4 } from '../../support/mortal-disks.ts';
import { mortalHost } from '../../support/mortal-host.ts';
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

  it('of a VM that was never started: the work disk is made with the new size by the first start', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    const { directory, rootDisk, workDisk } = vmFiles(place.config.paths.store, place.vm.id);
    mkdirSync(directory, { recursive: true });
    writeFileSync(rootDisk, ext4(DISK_BYTES, 'old'));
    const { host } = place.daemon();
    const resize = (request: { rootBytes?: number; workBytes?: number }) =>
      resizeDisks(host, 'web', { ...request, online: false }, quietProgress(), new AbortController().signal);
    const disks = await resize({ workBytes: 64 * MIB });
    assert.deepEqual(
      disks.map(({ role }) => role),
      ['root'],
    );
    const { workDiskBytes, rootDiskBytes } = place.stores.vms.get('web');
    assert.deepEqual([workDiskBytes, rootDiskBytes, existsSync(workDisk)], [64 * MIB, DISK_BYTES, false]);
    assert.equal(statSync(rootDisk).size, DISK_BYTES);
    await assert.rejects(resize({ workBytes: 32 * MIB }), {
      code: 'invalid_input',
      message: /cannot shrink to 32 MiB/,
    });
    // both at once: one that is there, and one that is not
    await resize({ rootBytes: 2 * MIB, workBytes: 128 * MIB });
    const after = place.stores.vms.get('web');
    assert.deepEqual([after.workDiskBytes, after.rootDiskBytes], [128 * MIB, 2 * MIB]);
    assert.deepEqual([existsSync(workDisk), statSync(rootDisk).size], [false, 2 * MIB]);
  });
});
