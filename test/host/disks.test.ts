/** Disks grow with their data whatever is killed, a store that is full costs nothing but an error, and disks outlive VMs. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Disk } from '../../src/api/disk.ts';
import type { Storage } from '../../src/api/storage.ts';
import { createRunner } from '../../src/system/runner.ts';
import { GIB, MIB } from '../../src/units.ts';
import { crash, hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(180_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('disks of VMs', { skip: hostSkip('mkfs.xfs', 'debugfs') }, () => {
  let host: TestHost;
  let data: string;

  before(async () => {
    host = await TestHost.create({ lean: true, warm: true });
    await host.daemon();
    await host.ok('run', 'web', '--memory', '256M', '--work-disk', '200M');
    data = await host.guest('web', 'head -c 8M /dev/urandom > /root/data; sync; sha256sum /root/data');
  });
  after(() => host?.[Symbol.asyncDispose]());

  async function disk(role: Disk['role']): Promise<Disk> {
    const found = (JSON.parse(await host.ok('disk', 'list', '--json')) as Disk[]).find((each) => each.role === role);
    assert.ok(found);
    return found;
  }

  it('are not touched while they are in use, nor made smaller', LIMIT, async () => {
    await host.fails(5, ['disk', 'resize', 'web', '--work', '1G'], [/web is running/, /--online/]);
    await host.fails(
      2,
      ['disk', 'resize', 'web', '--work', '100M', '--online'],
      [/200 MiB and cannot shrink to 100 MiB/],
    );
    await host.fails(2, ['disk', 'resize', 'web', '--work', '900T'], [/the most a disk can have/]);
    await host.fails(2, ['disk', 'resize', 'web', '--work', 'much'], [/not a size/]);
    await host.fails(2, ['disk', 'resize', 'web'], [/Which disk/]);
    await host.fails(4, ['disk', 'resize', 'nobody', '--work', '1G'], [/no VM named "nobody"/]);
    assert.equal((await disk('work')).apparentBytes, 200 * MIB);
  });

  it('grow while the VM runs', LIMIT, async () => {
    await host.guest('web', 'sync');
    const [root, before] = [await disk('root'), await disk('work')];
    await host.ok('disk', 'resize', 'web', '--work', '1G', '--root', `${root.apparentBytes + GIB}`, '--online');
    await host.guest('web', 'sync');
    const wrote = (await disk('work')).allocatedBytes - before.allocatedBytes;
    assert.ok(wrote < 8 * MIB, `${wrote} bytes were written: its inode tables are zero without that`);
    const [, work = 0, rootMib = 0] = (await host.guest('web', 'df -m --output=size /root / | xargs'))
      .split(' ')
      .map(Number);
    assert.ok(work > 900 && work <= 1024, `${work} MiB`);
    assert.ok(rootMib > (root.apparentBytes / MIB) * 0.97 + 900, `${rootMib} MiB`);
    assert.equal(await host.guest('web', 'sha256sum /root/data'), data);
    // asked again it finishes what may be missing, and changes nothing here
    await host.ok('disk', 'resize', 'web', '--work', '1G', '--online');
  });

  it('give back to the host what the guest deleted, when the VM stops', LIMIT, async () => {
    await host.guest('web', 'head -c 250M /dev/zero > /root/waste; sync; rm /root/waste; sync');
    const before = (await disk('work')).allocatedBytes;
    assert.ok(before > 240 * MIB);
    await host.ok('stop', 'web', '--timeout', '60s');
    assert.ok((await disk('work')).allocatedBytes < before - 150 * MIB);
  });

  it('grow to the size that was asked for when the daemon dies meanwhile', LIMIT, async () => {
    for (const [gib, delayMs] of [20, 60, 90, 120, 180, 250].map((delay, index) => [2 + index * 10, delay] as const)) {
      const { pid } = await host.daemon();
      await host.client.call('resizeDisks', {
        params: { name: 'web' },
        body: { workBytes: gib * GIB },
      });
      await sleep(delayMs);
      crash(pid);
      await until('the daemon is gone', async () => (await host.run(['daemon', 'status'])).status === 3, 10_000);
    }
    await host.daemon();
    await host.assertQuiet('of growths that were cut off');
    const { workDiskBytes } = await host.vm('web');
    await host.ok('start', 'web');
    const size = Number(await host.guest('web', 'df -m --output=size /root | tail -n 1'));
    // a disk made small has small blocks, and their tables take 6 %
    assert.ok(size > (workDiskBytes / MIB) * 0.9, `${size} MiB of ${workDiskBytes / MIB}`);
    assert.equal((await disk('work')).apparentBytes, workDiskBytes);
    assert.equal(await host.guest('web', 'sha256sum /root/data'), data);
  });

  it('outlive their VM, and serve another one at another place', LIMIT, async () => {
    const [removed] = JSON.parse(await host.ok('rm', '--force', 'web', '--keep-work-disk', '--json'));
    assert.equal(removed.keptWorkDisk.name, 'web');
    assert.equal((await disk('kept')).path, removed.keptWorkDisk.path);
    await host.fails(2, ['create', 'new', '--work-disk-from', 'web', '--work-disk', '1G'], [/cannot shrink/]);
    await host.fails(4, ['create', 'new', '--work-disk-from', 'nothing'], [/no kept work disk named "nothing"/]);
    await host.fails(2, ['create', 'new', '--work-mount', '/proc/x'], [/\/proc belongs to the guest's system/]);
    await host.ok('create', 'new', '--work-disk-from', 'web', '--work-mount', '/srv/work', '--memory', '256M');
    assert.deepEqual(
      (JSON.parse(await host.ok('disk', 'list', '--json')) as Disk[]).map(({ role }) => role),
      ['root', 'work'],
    );
    // as if the power had failed while the first boot copied the image's files
    await runner.run(['debugfs', '-w', '-R', 'rm lost+found/.banger-seeded', (await disk('work')).path]);
    await host.ok('start', 'new');
    assert.equal((await host.guest('new', 'sha256sum /srv/work/data')).split(' ')[0], data.split(' ')[0]);
    await host.ok('rm', '--force', 'new');
    await host.fails(4, ['disk', 'delete', 'web'], [/no kept work disk/]);
  });
});

describe('a store in an image', {
  skip: hostSkip('debugfs', 'mkfs.xfs', 'xfs_growfs', 'losetup', 'mount', 'umount', 'fallocate'),
}, () => {
  let host: TestHost;
  let place: string;

  before(async () => {
    place = await mkdtemp('/tmp/bts-');
    host = await TestHost.create({ lean: true, warm: true });
    await host.daemon();
    await host.ok('create', 'web', '--memory', '256M');
  });
  after(async () => {
    // after a test that failed the store is still mounted, and nothing could be removed
    await host.run(['rm', '--force', 'web']);
    await host.run(['storage', 'init', '--undo']);
    await host[Symbol.asyncDispose]();
    await rm(place, { recursive: true, force: true });
  });

  const show = async () => JSON.parse(await host.ok('storage', 'show', '--json')) as Storage;

  /** Has a file take that many bytes of the store. */
  const take = (path: string, bytes: number) => runner.run(['fallocate', '--length', String(bytes), path]);

  it('takes the disks that are there, and clones them at once', LIMIT, async () => {
    assert.equal((await show()).image, null);
    await host.fails(2, ['storage', 'init', '--size', '200M'], [/too small/]);
    await host.fails(5, ['storage', 'resize', '9G'], [/plain directory/, /banger storage init/]);
    await host.ok('storage', 'init', '--size', '1500M', '--path', join(place, 'store.xfs'));
    const storage = await show();
    assert.deepEqual([storage.fileSystem, storage.sharesBlocks], ['xfs', true]);
    await host.ok('create', 'first'); // brings the bundle's root file system into the store
    const free = (await show()).freeBytes;
    for (const name of ['a', 'b', 'c', 'd', 'e']) await host.ok('create', name);
    assert.ok(free - (await show()).freeBytes < 20 * MIB);
    await host.ok('rm', 'first', 'a', 'b', 'c', 'd', 'e');
  });

  it('is mounted again after the host was restarted', LIMIT, async () => {
    await host.ok('daemon', 'stop');
    await runner.run(['umount', join(host.home, 'state/store')]);
    await host.daemon();
    assert.deepEqual(
      (await host.vms()).map(({ name }) => name),
      ['web'],
    );
    assert.equal((await show()).fileSystem, 'xfs');
  });

  it('refuses a start when it is full, says where to look, and loses nothing', LIMIT, async () => {
    const ballast = join(host.home, 'state/store/ballast');
    const { freeBytes } = await show();
    await take(ballast, freeBytes - 200 * MIB);
    await host.fails(6, ['start', 'web'], [/storage show/]);
    assert.equal((await show()).state, 'full');
    assert.match(await host.ok('daemon', 'status'), /too full to start a VM/);
    await rm(ballast);
    await host.ok('start', 'web');
    await take(ballast, (await show()).freeBytes - 30 * MIB);
    const file = join(host.bundle, 'rootfs.ext4');
    const says = [/missing to create a VM; nothing was touched/, /disk space: Only .* are free/, /banger storage show/];
    await host.fails(6, ['create', 'more', '--work-disk-from', file], says);
    assert.deepEqual(
      (await host.vms()).map(({ name }) => name),
      ['web'],
    );
    await host.ok('storage', 'resize', '4G');
    // whoever filled it may have been held meanwhile
    await until('it goes on', async () => (await host.vm('web')).state === 'running');
    assert.equal(await host.guest('web', 'head -c 50M /dev/zero > /root/x && sync && echo written'), 'written');
    await rm(ballast);
  });

  it('goes back into a plain directory, also when the daemon dies on the way', LIMIT, async () => {
    await host.fails(5, ['storage', 'init', '--undo'], [/while VMs run: web/, /banger stop web/]);
    await host.ok('stop', 'web', '--timeout', '60s');
    const { pid } = await host.daemon();
    await host.client.call('undoStorage', {});
    await sleep(150);
    crash(pid);
    await until('the daemon is gone', async () => (await host.run(['daemon', 'status'])).status === 3, 10_000);
    await host.daemon();
    if ((await show()).image) await host.ok('storage', 'init', '--undo');
    assert.equal((await show()).image, null);
    assert.equal((await host.vm('web')).disks.length, 3);
  });
});
