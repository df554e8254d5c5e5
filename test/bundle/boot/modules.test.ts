import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { loadOrder, readModule, readModuleIndex } from '../../../src/bundle/boot/modules.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { elfKernel, lacking, moduleTree, runner, unpacking } from '../sample-bundle.ts';

const DEP = [
  'kernel/drivers/virtio/virtio_ring.ko:',
  'kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko',
  'kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko',
  'kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz',
  'kernel/net/core/failover.ko.xz:',
  'kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko',
  'kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko',
  'kernel/fs/jbd2/jbd2.ko:',
  'kernel/arch/x86/crypto/crc32c-intel.ko:',
  '',
].join('\n');

describe('the order kernel modules load in', () => {
  const index = async (dir: string, more: { builtin?: string; softdep?: string } = {}) => {
    await moduleTree(dir, { dep: DEP, ...more });
    return await readModuleIndex(dir);
  };
  const names = (found: ReturnType<typeof loadOrder>) => found.order.map((module) => module.name);

  it('puts what a module needs before it, each once', async (t) => {
    const found = loadOrder(await index(await tempDir(t)), ['virtio_net', 'virtio_rng']);
    assert.deepEqual(names(found), ['virtio_ring', 'virtio', 'failover', 'net_failover', 'virtio_net', 'virtio_rng']);
    assert.deepEqual(found.missing, []);
  });

  it('leaves out what is built in, and names what is nowhere', async (t) => {
    const builtin = 'kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_ring.ko\n';
    const found = loadOrder(await index(await tempDir(t), { builtin }), ['ext4', 'virtio', 'floppy']);
    assert.deepEqual(names(found), ['virtio']);
    assert.deepEqual(found.missing, ['floppy']);
  });

  it('loads soft dependencies first where they exist', async (t) => {
    const softdep = '# from depmod\nsoftdep jbd2 pre: crc32c-intel crypto-crc32c post: late\n';
    const found = loadOrder(await index(await tempDir(t), { softdep }), ['ext4']);
    assert.deepEqual(names(found), ['crc32c_intel', 'jbd2', 'ext4']);
    assert.deepEqual(found.missing, []);
  });

  it('ends although soft dependencies form a ring', async (t) => {
    const softdep = 'softdep jbd2 pre: ext4\nsoftdep ext4 pre: jbd2\n';
    assert.deepEqual(names(loadOrder(await index(await tempDir(t), { softdep }), ['ext4'])), ['jbd2', 'ext4']);
  });

  it('is refused for a tree that depmod never saw', async (t) => {
    await assert.rejects(readModuleIndex(await tempDir(t)), { code: 'corrupt', hint: /depmod/ });
  });
});

describe('a module of a tree', { skip: lacking('xz', 'zstd', 'gzip') }, () => {
  it('is the same whether stored plain, as .gz, .xz or .zst', async (t) => {
    const tree = await tempDir(t);
    const plain = elfKernel({ loadBytes: 50_000 });
    await writeFile(join(tree, 'a.ko'), plain);
    await runner.run(['gzip', '-k', join(tree, 'a.ko')]);
    await runner.run(['xz', '-k', '--check=crc32', join(tree, 'a.ko')]);
    await runner.run(['zstd', '-q', '-k', join(tree, 'a.ko')]);
    for (const path of ['a.ko', 'a.ko.gz', 'a.ko.xz', 'a.ko.zst']) {
      assert.ok((await readModule(unpacking, tree, { name: 'a', path })).equals(plain), path);
    }
  });

  it('is refused when it is damaged', async (t) => {
    const tree = await tempDir(t);
    await writeFile(join(tree, 'a.ko'), elfKernel());
    await runner.run(['xz', '-k', '--check=crc32', join(tree, 'a.ko')]);
    await writeFile(join(tree, 'a.ko.xz'), (await readFile(join(tree, 'a.ko.xz'))).subarray(0, 60));
    await assert.rejects(readModule(unpacking, tree, { name: 'a', path: 'a.ko.xz' }), { code: 'corrupt' });
    await writeFile(join(tree, 'b.ko'), 'text');
    await assert.rejects(readModule(unpacking, tree, { name: 'b', path: 'b.ko' }), {
      code: 'corrupt',
      message: /no ELF file/,
    });
  });
});
