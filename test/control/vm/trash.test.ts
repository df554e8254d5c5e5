import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { emptyTrash, moveToTrash, purgeTrash, restoreVm } from '../../../src/control/vm/trash.ts';
import { parsePool } from '../../../src/core/addresses.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createStores } from '../../../src/state/stores.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';
import { sampleVm } from '../../support/sample-vm.ts';

function setUp(t: TestContext) {
  const database = openDatabase(':memory:');
  t.after(() => database.close());
  let second = 0;
  const pool = parsePool('172.30.0.0/16');
  return {
    stores: createStores(database),
    network: { pool },
    now: () => new Date(Date.parse('2026-11-25T12:00:00Z') + 1000 * second++),
  };
}

const web = sampleVm({ restarts: { attempts: 3, nextAt: null }, phase: 'failed', failure: 'why' });

describe('the trash', () => {
  it('keeps a record as it was, but for what belongs to a run', (t) => {
    const host = setUp(t);
    host.stores.vms.insert(web);
    moveToTrash(host, web);
    assert.equal(host.stores.vms.find('web'), undefined);
    assert.equal(host.stores.trash.has(web.id), true);
    const { vm, lostAddress } = restoreVm(host, 'web', undefined);
    assert.equal(lostAddress, null);
    assert.deepEqual(host.stores.vms.get('web'), { ...web, phase: 'stopped', failure: null, restarts: null });
    assert.deepEqual(vm, host.stores.vms.get('web'));
    assert.deepEqual(host.stores.trash.list(), []);
  });

  it('gives back the one deleted last of those with one name, and any by its id', (t) => {
    const host = setUp(t);
    for (const [id, address] of [
      ['0000000a', '172.30.0.2'],
      ['0000000b', '172.30.0.3'],
    ] as const) {
      const vm = sampleVm({ id, address });
      host.stores.vms.insert(vm);
      moveToTrash(host, vm);
    }
    assert.deepEqual(
      host.stores.trash.list().map(({ vm }) => vm.id),
      ['0000000b', '0000000a'],
    );
    assert.equal(restoreVm(host, 'web', undefined).vm.id, '0000000b');
    assert.equal(restoreVm(host, '0000000a', 'older').vm.name, 'older');
  });

  it('has its address left to it by VMs of nobody, and loses it to one that has it nevertheless', (t) => {
    const host = setUp(t);
    const last = '172.30.255.254';
    const gone = sampleVm({ id: '0000000a', address: last });
    host.stores.vms.insert(gone);
    moveToTrash(host, gone);
    const pool = parsePool('172.30.255.0/24');
    const ids = Array.from({ length: 253 }, (_, index) => (256 + index).toString(16).padStart(8, '0'));
    const given = ids.map((id) => host.stores.buildVms.admit(pool, (address) => sampleVm({ id, address })).address);
    assert.deepEqual([given[0], given.at(-1)], ['172.30.255.253', last]);
    const { vm, lostAddress } = restoreVm(host, 'web', undefined);
    assert.equal(lostAddress, last);
    assert.notEqual(vm.address, last);
  });

  it('changes nothing when the name is taken or unknown', (t) => {
    const host = setUp(t);
    host.stores.vms.insert(web);
    moveToTrash(host, web);
    host.stores.vms.insert(sampleVm({ id: '0000000c', address: '172.30.0.9' }));
    assert.throws(() => restoreVm(host, 'web', undefined), { code: 'conflict', hint: /undelete web --as OTHER/ });
    assert.throws(() => restoreVm(host, 'db', undefined), { code: 'not_found', hint: /banger trash list/ });
    assert.equal(host.stores.trash.list().length, 1);
  });

  it('finds another address for a VM whose own was given away', (t) => {
    const host = setUp(t);
    host.stores.vms.insert(web);
    moveToTrash(host, web);
    host.stores.vms.insert(sampleVm({ id: '0000000d', name: 'other' }));
    const { vm, lostAddress } = restoreVm(host, 'web', undefined);
    assert.equal(lostAddress, web.address);
    assert.deepEqual([vm.address, vm.mac], ['172.30.0.3', '06:00:ac:1e:00:03']);
  });
});

/** A host with VMs `web` and `db` in its trash, `web` to be thrown away first; `meanwhile` is called while one is freed. */
async function withTrash(meanwhile: (id: string) => void) {
  const place = await mortalHost();
  const { host } = place.daemon();
  const directory = (id: string) => vmFiles(host.config.paths.store, id).directory;
  const [db, web] = (['db', 'web'] as const).map((name, index) => {
    const vm = sampleVm({ id: `0000000${index}`, name, address: `172.30.0.${index + 2}`, imageId: null });
    host.stores.vms.insert(vm);
    mkdirSync(directory(vm.id), { recursive: true });
    host.stores.ledger.record(vm.id, { kind: 'directory', name: directory(vm.id) });
    host.now = () => new Date(Date.parse('2026-11-25T12:00:00Z') + 1000 * index);
    moveToTrash(host, vm);
    return vm;
  });
  assert.ok(db && web);
  host.network.detach = async ({ id }) => meanwhile(id);
  return { place, host, web, db, directory };
}

/** What there is, by name. */
function look({ stores, config }: MortalHost) {
  const known = [...stores.vms.list(), ...stores.trash.list().map(({ vm }) => vm)];
  return {
    vms: stores.vms.list().map(({ name }) => name),
    trash: stores.trash.list().map(({ vm }) => vm.name),
    disks: known.flatMap(({ id, name }) => (existsSync(vmFiles(config.paths.store, id).directory) ? [name] : [])),
  };
}

describe('a trash that is emptied', () => {
  for (const [what, empty] of [
    ['when somebody asks', async (host) => (await emptyTrash(host, [], quietProgress())).map(({ vm }) => vm.name)],
    [
      'when their time is over',
      async (host) => {
        host.now = () => new Date('2026-12-25T12:00:00Z');
        return await purgeTrash(host);
      },
    ],
  ] as [string, (host: Awaited<ReturnType<typeof withTrash>>['host']) => Promise<string[]>][]) {
    it(`${what} leaves a VM that was had back while another was freed`, async () => {
      const freed: string[] = [];
      const { place, host, web, db } = await withTrash((id) => {
        freed.push(id);
        if (id === web.id) restoreVm(host, 'db', undefined);
      });
      await using _ = place;
      assert.deepEqual(await empty(host), ['web']);
      assert.deepEqual(freed, [web.id], 'nothing of it is ended: it may run');
      assert.deepEqual(look(place), { vms: ['db'], trash: [], disks: ['db'] });
      assert.equal(place.stores.vms.get('db').phase, db.phase);
    });
  }

  it('leaves one that was had back and deleted once more for as long as any', async () => {
    const { place, host, web } = await withTrash((id) => {
      if (id !== web.id) return;
      host.now = () => new Date('2026-11-25T13:00:00Z');
      moveToTrash(host, restoreVm(host, 'db', undefined).vm);
    });
    await using _ = place;
    const gone = await emptyTrash(host, [], quietProgress());
    assert.deepEqual(
      gone.map(({ vm }) => vm.name),
      ['web'],
    );
    assert.deepEqual(look(place), { vms: [], trash: ['db'], disks: ['db'] });
  });

  it('gives nothing back whose disks are being deleted, but an older one of that name', async () => {
    const refused: unknown[] = [];
    const { place, host, web, directory } = await withTrash((id) => {
      try {
        restoreVm(host, id, 'saved');
      } catch (error) {
        refused.push(error);
      }
      if (id === web.id) restoreVm(host, 'web', undefined);
    });
    await using _ = place;
    const older = sampleVm({ id: '0000000c', address: '172.30.0.9' });
    host.stores.vms.insert(older);
    host.now = () => new Date('2026-11-25T11:00:00Z');
    moveToTrash(host, older);
    await emptyTrash(host, [web.id], quietProgress());
    assert.match(String(refused[0]), /web is being deleted for good/);
    assert.equal(place.stores.vms.get('web').id, older.id);
    assert.deepEqual([place.stores.trash.has(web.id), existsSync(directory(web.id))], [false, false]);
  });

  it('goes on later with what it could not delete, which is not had back', async () => {
    let fails = true;
    const { place, host } = await withTrash(() => {
      if (fails) throw new Error('nft took too long');
    });
    await using _ = place;
    await assert.rejects(emptyTrash(host, ['web'], quietProgress()), /nft took too long/);
    assert.throws(() => restoreVm(host, 'web', undefined), { code: 'conflict', hint: /banger trash list/ });
    fails = false;
    // its own time is not over
    assert.deepEqual(await purgeTrash(host), ['web']);
    assert.deepEqual(look(place), { vms: [], trash: ['db'], disks: ['db'] });
  });
});
