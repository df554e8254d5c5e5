/** Images brought in, carried away and booted for real, and VMs moved from one to another. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ImageDiff } from '../../src/api/image.ts';
import type { OperationEvent } from '../../src/api/operation.ts';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const skip = hostSkip('debugfs', 'tar', 'zstd');

describe('images', { skip }, () => {
  let host: TestHost;
  let dir = '';

  before(async () => {
    host = await TestHost.create({ lean: true });
    dir = await mkdtemp('/tmp/bt-images-');
    await host.daemon();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  });

  const vmDisks = async () =>
    (await readdir((await host.vm('web')).directory)).filter((name) => name.startsWith('root'));
  /** What must outlive every change of image, in the words of the guest. */
  const kept = async () => await host.guest('web', 'cat /root/mine /etc/hostname /etc/ssh/ssh_host_ed25519_key.pub');

  it('come from a root file system, and from the file they were exported to', async () => {
    // of the packages of a whole Debian nothing but their list: what they are is of no matter here
    const bundle = process.env.BANGER_TEST_BUNDLE ?? '';
    const [tree, root] = [join(dir, 'tree'), join(dir, 'whole.ext4')];
    const status = join(tree, 'var/lib/dpkg/status');
    await mkdir(dirname(status), { recursive: true });
    await runner.run(['debugfs', '-R', `dump /var/lib/dpkg/status ${status}`, join(bundle, 'rootfs.ext4')]);
    await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, root, '64M']);
    await host.ok('image', 'import', root, '--name', 'whole');
    const file = join(dir, 'whole.tar.zst');
    await host.ok('image', 'export', 'whole', file);
    await host.ok('image', 'import', file, '--name', 'again');
    const diff = JSON.parse(await host.ok('image', 'diff', bundle, 'again', '--json')) as ImageDiff;
    assert.deepEqual([diff.added, diff.removed, diff.changed], [[], [], []]);
    assert.ok(diff.unchanged > 50, `${diff.unchanged} packages`);
    await host.fails(5, ['image', 'import', file], [/"whole" already/, /--force/]);
    assert.equal((await readdir(join(host.home, 'state/store/images'))).length, 2);
    await host.ok('image', 'rm', 'whole', 'again');
  });

  it('boot VMs, which keep their work disk, address and host keys with another one', async () => {
    for (const name of ['base', 'other']) {
      await host.ok('image', 'import', join(host.bundle, 'rootfs.ext4'), '--name', name);
    }
    await host.ok('run', 'web', '--image', 'base', '--work-disk', '64M');
    await host.guest('web', 'echo mine > /root/mine; echo gone > /etc/on-the-root; sync');
    const before = { guest: await kept(), address: (await host.vm('web')).address };
    await host.fails(5, ['image', 'rm', 'base'], [/needed by 1 VM \(web\)/, /vm rebase web/]);
    await host.ok('image', 'rename', 'base', 'first');
    assert.equal((await host.vm('web')).image, 'first');

    await host.fails(5, ['vm', 'rebase', 'web', '--image', 'other'], [/web is running/, /--force/]);
    await host.fails(4, ['vm', 'rebase', 'web', '--image', 'nope', '--force'], [/no image and no bundle named "nope"/]);
    await host.ok('vm', 'rebase', 'web', '--image', 'other', '--force');
    assert.deepEqual({ guest: await kept(), address: (await host.vm('web')).address }, before);
    assert.equal(await host.guest('web', 'ls /etc/on-the-root 2>/dev/null || echo fresh'), 'fresh');
    assert.deepEqual(await vmDisks(), ['root.ext4']);
    await host.ok('image', 'rm', 'first');
    await host.fails(5, ['image', 'rm', 'other'], [/web/]);
  });

  it('that do not come up are undone, and what ran before runs again', async () => {
    const empty = join(dir, 'empty.ext4');
    await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', empty, '64M']);
    await host.ok('image', 'import', empty);
    await host.guest('web', 'echo here > /etc/on-the-root; sync');
    await host.fails(
      1,
      ['vm', 'rebase', 'web', '--image', 'empty', '--force', '--timeout', '60s'],
      [/web has its old root disk again and runs/],
    );
    const { state, image } = await host.vm('web');
    assert.deepEqual([state, image], ['running', 'other']);
    assert.equal(await host.guest('web', 'cat /etc/on-the-root /root/mine'), 'here\nmine');
    assert.deepEqual(await vmDisks(), ['root.ext4']);
    await host.ok('image', 'rm', 'empty');
  });

  it('are given back after a daemon that died while the VM booted with another', async () => {
    const body = { image: host.bundle, force: true };
    const { id } = await host.client.call('rebaseVm', { params: { name: 'web' }, body });
    const booting = Promise.withResolvers<void>();
    const gone = host.follow(id, (event: OperationEvent) => {
      if (event.type === 'step' && event.step === 'wait-for-ssh') booting.resolve();
    });
    await booting.promise;
    assert.deepEqual((await vmDisks()).sort(), ['root.ext4', 'root.last.ext4']);
    await host.killDaemon();
    await gone;
    await host.daemon();
    assert.deepEqual(await vmDisks(), ['root.ext4']);
    await until('the VM runs again', async () => (await host.vm('web')).state === 'running');
    assert.equal((await host.vm('web')).image, 'other');
    assert.equal(await host.guest('web', 'cat /etc/on-the-root /root/mine'), 'here\nmine');
  });
});
