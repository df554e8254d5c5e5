import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { moveToTrash, restoreVm } from '../../../src/control/vm/trash.ts';
import { parsePool } from '../../../src/core/addresses.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createStores } from '../../../src/state/stores.ts';
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
