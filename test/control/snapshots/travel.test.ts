import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { Host } from '../../../src/control/host.ts';
import { diffSnapshot } from '../../../src/control/snapshots/diff.ts';
import { exportSnapshot } from '../../../src/control/snapshots/export.ts';
import { importSnapshot } from '../../../src/control/snapshots/import.ts';
import { createSnapshot } from '../../../src/control/snapshots/take.ts';
import { viewSnapshots } from '../../../src/control/snapshots/view.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { MIB } from '../../../src/units.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { hostSystem } from '../../support/host-system.ts';
import { type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';
import { tempDir } from '../../support/temp-dir.ts';

const never = new AbortController().signal;
const skip = lacking('mke2fs', 'e2fsck', 'debugfs', 'tar', 'zstd', 'cp');

interface Travel extends AsyncDisposable {
  place: MortalHost;
  host: Host;
  dir: string;
  disks: ReturnType<typeof vmFiles>;
}

/** A stopped VM with real file systems, and the snapshot `first` of them. */
async function travel(t: TestContext): Promise<Travel> {
  const dir = await tempDir(t);
  const place = await mortalHost();
  const system = hostSystem({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
  const host = { ...place.daemon().host, system };
  const disks = vmFiles(place.config.paths.store, place.vm.id);
  mkdirSync(disks.directory, { recursive: true });
  const tree = join(dir, 'tree');
  mkdirSync(tree);
  writeFileSync(join(tree, 'kept'), 'kept\n');
  for (const disk of [disks.rootDisk, disks.workDisk]) {
    await system.runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, disk, '2M']);
  }
  place.stores.vms.insert({ ...place.vm, rootDiskBytes: 2 * MIB, workDiskBytes: 2 * MIB });
  await createSnapshot(host, 'web', { name: 'first', pauseOk: false }, quietProgress(), never);
  return { place, host, dir, disks, [Symbol.asyncDispose]: () => place[Symbol.asyncDispose]() };
}

describe('a snapshot of disks', { skip }, () => {
  it('is shown with its VM, and differs from the disks by what was written since', async (t) => {
    await using all = await travel(t);
    const { host, dir, disks } = all;
    const [shown, ...others] = await viewSnapshots(host, 'web');
    assert.deepEqual([shown?.vm, shown?.name, shown?.rootDiskBytes, others], ['web', 'first', 2 * MIB, []]);
    assert.ok((shown?.allocatedBytes ?? 0) > 0);
    await assert.rejects(viewSnapshots(host, 'db'), { code: 'not_found' });
    const diff = () => diffSnapshot(host, 'web', 'first', { pauseOk: false }, quietProgress(), never);
    assert.deepEqual((await diff()).changes, []);
    writeFileSync(join(dir, 'new'), 'new\n');
    await host.system.runner.run(['debugfs', '-w', '-R', `write ${join(dir, 'new')} new`, disks.workDisk]);
    await host.system.runner.run(['debugfs', '-w', '-R', 'rm kept', disks.rootDisk]);
    const { changes, to, omitted } = await diff();
    assert.deepEqual([to, omitted], [null, 0]);
    assert.deepEqual(changes.map(({ disk, path, change }) => `${disk} ${path} ${change}`).sort(), [
      'root /kept removed',
      'work /root/new added',
    ]);
  });

  it('goes into a file, and a VM is made of that; a damaged one makes none', async (t) => {
    await using all = await travel(t);
    const { place, host, dir, disks } = all;
    const file = join(dir, 'web.tar.zst');
    const written = await exportSnapshot(host, 'web', 'first', file, quietProgress(), never);
    assert.equal(written.sizeBytes, statSync(file).size);
    const again = exportSnapshot(host, 'web', 'first', file, quietProgress(), never);
    await assert.rejects(again, { code: 'conflict' });
    const made = await importSnapshot(host, { name: 'copy', file }, quietProgress(), never);
    const copy = vmFiles(place.config.paths.store, made.id);
    for (const disk of ['rootDisk', 'workDisk'] as const) {
      assert.ok(readFileSync(copy[disk]).equals(readFileSync(disks[disk])), disk);
    }
    assert.deepEqual([made.name, made.phase, made.workDiskMount], ['copy', 'stopped', '/root']);
    await assert.rejects(importSnapshot(host, { name: 'copy', file }, quietProgress(), never), { code: 'conflict' });
    truncateSync(file, written.sizeBytes - 100);
    await assert.rejects(importSnapshot(host, { name: 'half', file }, quietProgress(), never), { code: 'corrupt' });
    assert.deepEqual(
      place.stores.vms
        .list()
        .map(({ name }) => name)
        .sort(),
      ['copy', 'web'],
    );
  });
});
