import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { renameVm } from '../../../src/control/vm/rename.ts';
import { mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';

describe('another name for a VM', () => {
  it('counts at once, and in a guest that does not run from its next start on', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    const { host } = place.daemon();
    const { vm, hostname } = await renameVm(host, 'web', 'shop', quietProgress());
    assert.deepEqual([vm.id, vm.name, hostname], [place.vm.id, 'shop', 'at-next-start']);
    assert.equal(place.stores.vms.find('web'), undefined);
  });

  it('is refused when it is the same, taken, or at work', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    place.stores.vms.insert({ ...place.vm, id: '0000000b', name: 'db', address: '172.30.0.3' });
    const { host } = place.daemon();
    const rename = (name: string) => renameVm(host, 'web', name, quietProgress());
    await assert.rejects(rename('web'), { code: 'invalid_input' });
    await assert.rejects(rename('db'), { code: 'conflict' });
    const { id } = host.operations.start({ kind: 'vm.create', target: 'new', run: async () => {} });
    await assert.rejects(rename('new'), { code: 'conflict', message: new RegExp(id) });
    assert.ok(place.stores.vms.find('web'));
  });
});
