import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { cloneThroughBase } from '../../src/storage/base-cache.ts';
import { cloneFile } from '../../src/storage/clone.ts';
import { allocatedBytes } from '../../src/storage/disk.ts';
import { growExt4, makeExt4 } from '../../src/storage/ext4.ts';
import { mountOf, sharesBlocks, spaceOf, usedBytes } from '../../src/storage/file-system.ts';
import {
  copyTree,
  growMountedImage,
  isMountPoint,
  loopDeviceOf,
  makeStoreImage,
  mountStoreImage,
  unmountStoreImage,
} from '../../src/storage/store-image.ts';
import { createPrivileged } from '../../src/system/privilege.ts';
import { createRunner } from '../../src/system/runner.ts';
import { MIB } from '../../src/units.ts';
import { lacking } from '../bundle/sample-bundle.ts';

process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const runner = createRunner(process.env);
const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
const programs = { mke2fs: 'mke2fs', e2fsck: 'e2fsck', resize2fs: 'resize2fs' };

function skip(): string | false {
  if (process.getuid?.() !== 0) return 'mounts need root';
  if (!existsSync('/dev/loop-control')) return 'there is no /dev/loop-control';
  return lacking('mkfs.xfs', 'xfs_growfs', 'losetup', 'mount', 'mke2fs');
}

describe('a store in an XFS image', { skip: skip() }, () => {
  let dir: string;
  let image: string;
  let point: string;

  before(async () => {
    dir = await mkdtemp('/tmp/banger-test-');
    image = join(dir, 'store.xfs');
    point = join(dir, 'store with a space');
    await mkdir(point);
    await makeStoreImage(runner, image, 400 * MIB, { uid: 1234, gid: 1235 });
    await mountStoreImage(privileged, image, point);
  });
  after(async () => {
    await unmountStoreImage(privileged, point);
    await rm(dir, { recursive: true });
  });

  it('belongs to its user alone', async () => {
    const { uid, gid, mode } = await stat(point);
    assert.deepEqual([uid, gid, mode & 0o777], [1234, 1235, 0o700]);
  });

  it('is sparse, mounted once however often that is asked for, and shares blocks', async () => {
    await mountStoreImage(privileged, image, point);
    assert.ok((await allocatedBytes(image)) < 100 * MIB);
    assert.equal((await mountOf(join(point, 'vms/x')))?.type, 'xfs');
    assert.equal(await sharesBlocks(point), true);
  });

  it('clones a disk of 100 MiB of data ten times, and all clones together take less than a hundredth of the room', async () => {
    const source = join(point, 'root.ext4');
    await writeFile(source, Buffer.alloc(100 * MIB, 'data'));
    await runner.run(['sync', '-f', point]);
    const { freeBytes } = await spaceOf(point);
    for (let number = 0; number < 10; number++) {
      assert.equal(await cloneFile(runner, 'cp', source, join(point, `clone-${number}`)), 'reflink');
    }
    assert.ok(freeBytes - (await spaceOf(point)).freeBytes < 5 * MIB);
    assert.ok((await usedBytes(point)) > 1000 * MIB, 'shared blocks count for each file');
    for (let number = 0; number < 10; number++) await rm(join(point, `clone-${number}`));
  });

  it('copies a bundle from elsewhere once, and again only when it was built again', async () => {
    const source = join(dir, 'rootfs.ext4');
    const clone = (name: string) =>
      cloneThroughBase(runner, 'cp', point, source, join(point, name), 20 * MIB, AbortSignal.timeout(60_000));
    await writeFile(source, Buffer.alloc(10 * MIB, 'first'));
    assert.deepEqual(await Promise.all(['one', 'two', 'three'].map(clone)), ['reflink', 'reflink', 'reflink']);
    const [first, ...others] = await readdir(join(point, 'bases'));
    assert.deepEqual(others, []);
    await writeFile(source, Buffer.alloc(11 * MIB, 'second'));
    await clone('four');
    const [second, ...more] = await readdir(join(point, 'bases'));
    assert.deepEqual([more, second === first], [[], false]);
    assert.equal((await readFile(join(point, 'four'))).subarray(0, 6).toString(), 'second');
    assert.equal((await stat(join(point, 'one'))).size, 20 * MIB);
    for (const name of ['one', 'two', 'three', 'four', 'bases']) await rm(join(point, name), { recursive: true });
  });

  it('says what is wrong when it is full, and a disk in it loses nothing', async () => {
    const work = join(point, 'work.ext4');
    await makeExt4(runner, programs, work, 64 * MIB, 'work');
    const { freeBytes } = await spaceOf(point);
    await writeFile(join(point, 'ballast'), Buffer.alloc(freeBytes - 12 * MIB, 1)).catch(() => {});
    await assert.rejects(cloneFile(runner, 'cp', image, join(point, 'copy')), {
      code: 'host_unprepared',
      message: /no room/,
    });
    assert.equal(existsSync(join(point, 'copy.part')), false);
    await rm(join(point, 'ballast'));
    assert.equal(await growExt4(runner, programs, work, 128 * MIB), true);
    await runner.run(['e2fsck', '-f', '-n', work]);
  });

  it('grows while it is mounted', async () => {
    const before = (await spaceOf(point)).sizeBytes;
    await runner.run(['truncate', '-s', '600M', image]);
    await growMountedImage(privileged, image, point);
    assert.ok((await spaceOf(point)).sizeBytes > before + 150 * MIB);
  });

  it('copies a tree with its holes', async () => {
    const to = join(dir, 'plain');
    await mkdir(to);
    await writeFile(join(point, 'sparse'), 'x');
    await runner.run(['truncate', '-s', '1G', join(point, 'sparse')]);
    await copyTree(runner, 'cp', point, to, AbortSignal.timeout(60_000));
    assert.equal((await stat(join(to, 'sparse'))).size, 1024 * MIB);
    assert.ok((await allocatedBytes(join(to, 'sparse'))) < MIB);
  });

  it('is not unmounted under somebody who uses it, and says how to find out who', async () => {
    const user = await import('node:fs/promises').then(({ open }) => open(join(point, 'sparse')));
    await assert.rejects(unmountStoreImage(privileged, point), { code: 'conflict', hint: /fuser/ });
    await user.close();
  });

  it('leaves no loop device when it is unmounted', async () => {
    assert.match((await loopDeviceOf(image)) ?? '', /^\/dev\/loop\d+$/);
    await unmountStoreImage(privileged, point);
    await unmountStoreImage(privileged, point);
    assert.equal(await isMountPoint(point), false);
    assert.equal(await loopDeviceOf(image), undefined);
  });
});

describe('the file system of a plain directory', () => {
  it('is described without root', async (t) => {
    const dir = await mkdtemp('/tmp/banger-test-');
    t.after(() => rm(dir, { recursive: true }));
    await mkdir(join(dir, 'a'));
    await writeFile(join(dir, 'a/b'), Buffer.alloc(MIB, 1));
    assert.ok((await usedBytes(dir)) >= MIB);
    assert.equal(await usedBytes(join(dir, 'absent')), 0);
    assert.equal(typeof (await sharesBlocks(dir)), 'boolean');
    assert.equal((await spaceOf(join(dir, 'absent/below'))).sizeBytes, (await spaceOf(dir)).sizeBytes);
    assert.ok((await mountOf(dir))?.type);
  });
});
