import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { collectGarbage } from '../../../src/control/upkeep/collect-garbage.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { mortalHost } from '../../support/mortal-host.ts';

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
});
