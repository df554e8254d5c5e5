import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { collectGarbage } from '../../../src/control/upkeep/collect-garbage.ts';
import { valuesOf } from '../../../src/core/snapshots.ts';
import { suspended } from '../../../src/core/vm-changes.ts';
import { memoryFiles, snapshotFiles, vmFiles } from '../../../src/storage/layout.ts';
import { mortalHost } from '../../support/mortal-host.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const silent = { step: () => {}, report: () => {}, warn: () => {}, line: () => {} };

describe('garbage', () => {
  it('is shown first, and freed with its reason; disks without a VM only when that is asked for', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    const { host } = place.daemon();
    const { store, run } = host.config.paths;
    const [nobodys, withDisk] = ['0badcafe', '0badd15c'].map((id) => vmFiles(store, id));
    assert.ok(nobodys && withDisk);
    for (const { directory } of [nobodys, withDisk, vmFiles(store, place.vm.id)])
      mkdirSync(directory, { recursive: true });
    writeFileSync(withDisk.rootDisk, 'a disk somebody may want');
    mkdirSync(join(run, 'vmm'), { recursive: true });
    const socket = join(run, 'vmm', '0badcafe.sock');
    writeFileSync(socket, '');

    const shown = await collectGarbage(host, { dryRun: true, disks: true }, silent);
    assert.ok(shown.length >= 3, JSON.stringify(shown));
    assert.ok(shown.every(({ freed }) => !freed));
    assert.ok(existsSync(socket) && existsSync(nobodys.directory));

    await collectGarbage(host, { dryRun: false, disks: false }, silent);
    assert.deepEqual(
      [existsSync(socket), existsSync(nobodys.directory), existsSync(withDisk.rootDisk)],
      [false, false, true],
    );
    await collectGarbage(host, { dryRun: false, disks: true }, silent);
    assert.equal(existsSync(withDisk.directory), false);
    assert.ok(existsSync(vmFiles(store, place.vm.id).directory), 'what a VM owns stays');
  });

  it('is none any more when it has become somebody’s while others were freed', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const { stores } = host;
    const { store, run } = host.config.paths;
    const [web, db, mail] = (['web', 'db', 'mail'] as const).map((name, index) => {
      const vm = sampleVm({ id: `0000000${index}`, name, address: `172.30.0.${index + 2}` });
      stores.vms.insert(vm);
      stores.ledger.record(vm.id, { kind: 'directory', name: vmFiles(store, vm.id).directory });
      return vm;
    });
    assert.ok(web && db && mail);
    stores.ledger.record('0badcafe', { kind: 'tap', name: 'bgr-0badcafe' });
    stores.ledger.record(web.id, { kind: 'tap', name: 'bgr-00000000' });
    const memory = memoryFiles(store, db.id).directory;
    const snapshot = snapshotFiles(store, mail.id, '0a0a0a0a').directory;
    const socket = join(run, 'vmm', `${mail.id}.sock`);
    for (const path of [memory, snapshot]) mkdirSync(path, { recursive: true });
    writeFileSync(socket, '');

    const detached: string[] = [];
    host.network.detach = async ({ id }) => {
      detached.push(id);
      for (const vm of [web, mail]) stores.vms.update(vm.id, { phase: 'running' });
      stores.vms.update(db.id, suspended({ id: 'it', at: '2026-11-29T00:00:00.000Z', bytes: 1, spentOn: null }));
      if (stores.snapshots.findById('0a0a0a0a')) return;
      stores.snapshots.insert({
        ...{ id: '0a0a0a0a', vmId: mail.id, name: 'first', createdAt: '2026-11-29T00:00:00.000Z', automatic: false },
        ...{ memory: false, taken: 'at-rest', pauseMs: null, hasWorkDisk: false, values: valuesOf(mail) },
      });
    };
    const found = await collectGarbage(host, { dryRun: false, disks: true }, silent);
    const ours = found.filter(({ verdict }) => verdict !== 'leave');
    assert.deepEqual(
      ours.map(({ kind, freed }) => `${kind} ${freed}`),
      ['ledger true', 'ledger false', 'directory false', 'memory false', 'socket false'],
    );
    assert.deepEqual(detached, ['0badcafe']);
    assert.ok([memory, snapshot, socket].every((path) => existsSync(path)));
  });
});
