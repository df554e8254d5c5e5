import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { Host } from '../../../src/control/host.ts';
import { createSnapshot } from '../../../src/control/snapshots/create.ts';
import { diffSnapshot } from '../../../src/control/snapshots/diff.ts';
import { exportSnapshot } from '../../../src/control/snapshots/export.ts';
import { importSnapshot } from '../../../src/control/snapshots/import.ts';
import { viewSnapshots } from '../../../src/control/snapshots/view.ts';
import { BangerError } from '../../../src/errors.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { MIB } from '../../../src/units.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { hostSystem } from '../../support/host-system.ts';
import { type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';
import { tempDir } from '../../support/temp-dir.ts';

const never = new AbortController().signal;
const skip = lacking('mke2fs', 'e2fsck', 'debugfs', 'tar', 'zstd', 'cp');

const PROCESS = { env: ['GREETING=hello'], user: 'nobody' };

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
  const sizes = { rootDiskBytes: 2 * MIB, workDiskBytes: 2 * MIB };
  place.stores.vms.insert({ ...place.vm, ...sizes, nat: false, restartPolicy: 'always', process: PROCESS });
  await createSnapshot(host, 'web', { name: 'first', pauseOk: false, diskOnly: true }, quietProgress(), never);
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
    // what it is goes along; what becomes of it by itself is for the host to say
    assert.deepEqual([made.nat, made.process, made.restartPolicy], [false, PROCESS, 'never']);
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

  it('is not made a VM of when a stranger has made the file, and nothing is left of it', async (t) => {
    await using all = await travel(t);
    const { place, host, dir } = all;
    const { runner } = host.system;
    const file = join(dir, 'web.tar.zst');
    await exportSnapshot(host, 'web', 'first', file, quietProgress(), never);
    const honest = join(dir, 'honest');
    mkdirSync(honest);
    await runner.run(['tar', '--extract', '--file', file, '--directory', honest]);
    const [top = ''] = readdirSync(honest);
    const strangers: [string, string, RegExp][] = [
      [
        'a link to a file of the host',
        'rm root.ext4; ln -s /etc/passwd root.ext4',
        /is a link to \/etc\/passwd, outside/,
      ],
      ['a link to another member', 'mv root.ext4 x; ln -s x root.ext4', /lacks root\.ext4/],
      ['a directory', 'rm root.ext4; mkdir root.ext4', /lacks root\.ext4/],
      ['a pipe', 'rm root.ext4; mkfifo root.ext4', /is a device or another special file/],
      ['a second name', 'ln root.ext4 y; ln root.ext4 z', /is a hard link/],
      ['another disk', 'truncate -s 3M root.ext4', /has 3145728 bytes, snapshot\.json says/],
      ['a manifest that is a link', 'mv snapshot.json x; ln -s x snapshot.json', /holds no snapshot\.json/],
      ['a manifest that is no file of words', 'head -c 9000000 /dev/zero > snapshot.json', /longer than any/],
      ['no manifest', 'rm snapshot.json', /holds no snapshot\.json/],
      [
        'a bundle of the host by its path',
        'sed -i "s|\\"image\\": .*|\\"image\\": \\"/etc\\",|" snapshot.json',
        /in no catalogue: \/etc/,
      ],
      [
        'a bundle beside the catalogue',
        'sed -i "s|\\"image\\": .*|\\"image\\": \\"../x\\",|" snapshot.json',
        /in no catalogue/,
      ],
      [
        'memory that no host has',
        'sed -i "s|\\"memoryMib\\": .*|\\"memoryMib\\": 900719925474,|" snapshot.json',
        /memory/,
      ],
      [
        'a work disk in the way',
        'sed -i "s|\\"workDiskMount\\": .*|\\"workDiskMount\\": \\"/../etc\\",|" snapshot.json',
        /workDiskMount/,
      ],
      [
        'a process that no VM can have',
        'sed -i "s|GREETING=hello|hello|" snapshot.json',
        /"vm\.process\.env\.0": must be NAME=VALUE/,
      ],
    ];
    for (const [what, script, says] of strangers) {
      const place = join(dir, what);
      await runner.run(['cp', '-a', honest, place]);
      await runner.run(['sh', '-c', script], { cwd: join(place, top) });
      const made = join(dir, `${what}.tar`);
      await runner.run(['tar', '--create', '--file', made, '--directory', place, top]);
      const error = await importSnapshot(host, { name: 'stranger', file: made }, quietProgress(), never).then(
        () => assert.fail(`${what} was imported`),
        (reason: unknown) => reason,
      );
      assert.ok(error instanceof BangerError && error.code !== 'internal', `${what}: ${error}`);
      assert.match(error.message, says, what);
    }
    assert.deepEqual(
      place.stores.vms.list().map(({ name }) => name),
      ['web'],
    );
    const vms = join(place.config.paths.store, 'vms');
    assert.deepEqual(readdirSync(vms), [place.vm.id]);
    assert.deepEqual(
      place.stores.ledger.all().filter(({ owner }) => owner !== place.vm.id),
      [],
    );
  });
});
