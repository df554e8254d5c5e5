/** What the sweep frees, and what it leaves to whoever has it by then. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { sweepHost } from '../../../src/control/upkeep/reconcile.ts';
import { createRestarts } from '../../../src/control/upkeep/restarts.ts';
import { moveToTrash, restoreVm } from '../../../src/control/vm/trash.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { mortalHost } from '../../support/mortal-host.ts';
import { sampleVm } from '../../support/sample-vm.ts';

describe('the sweep', () => {
  it('leaves a VM its disks that was had back from the trash while something else was freed', async () => {
    await using place = await mortalHost();
    const daemon = place.daemon();
    await daemon.recover();
    const { host, life } = daemon;
    const restarts = createRestarts(
      host,
      async () => 'failed',
      async () => {},
    );
    const web = sampleVm({ id: '0000000b', name: 'deleted', phase: 'stopped' });
    const directory = (id: string) => vmFiles(host.config.paths.store, id).directory;
    await daemon.mortal.run(async () => {
      for (const id of ['0000000a', web.id]) {
        mkdirSync(directory(id), { recursive: true });
        host.stores.ledger.record(id, { kind: 'directory', name: directory(id) });
      }
      host.stores.ledger.record(web.id, { kind: 'disk-work', name: `${directory(web.id)}/root.ext4` });
      host.stores.vms.insert(web);
      moveToTrash(host, web);
      const { detach } = host.network;
      host.network.detach = async (vm) => {
        if (host.stores.trash.has(web.id)) restoreVm(host, web.id, undefined);
        await detach.call(host.network, vm);
      };
      await sweepHost(host, life, restarts);
    });
    assert.equal(host.stores.vms.find('deleted')?.id, web.id);
    assert.deepEqual([existsSync(directory('0000000a')), existsSync(directory(web.id))], [false, true]);
  });
});
