import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { allDisks } from '../../../src/control/disks/view.ts';
import { keptDirectory, vmFiles } from '../../../src/storage/layout.ts';
import { mortalHost } from '../../support/mortal-host.ts';

describe('the disks there are', () => {
  it('are those of VMs that were made, and the kept ones', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    const { store } = place.config.paths;
    const { directory, rootDisk } = vmFiles(store, place.vm.id);
    for (const path of [directory, keptDirectory(store)]) mkdirSync(path, { recursive: true });
    writeFileSync(rootDisk, Buffer.alloc(4096, 1));
    writeFileSync(join(keptDirectory(store), 'old.ext4'), 'x');
    const disks = await allDisks(place.daemon().host);
    assert.deepEqual(
      disks.map(({ vm, role, name, apparentBytes }) => [vm, role, name, apparentBytes]),
      [
        ['web', 'root', null, 4096],
        [null, 'kept', 'old', 1],
      ],
    );
  });
});
