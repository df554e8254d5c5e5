import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { INIT_SCRIPT } from '../../../src/bundle/boot/init-script.ts';
import { buildInitrd } from '../../../src/bundle/boot/initrd.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { elfKernel, lacking, moduleTree, runner, unpacking } from '../sample-bundle.ts';

const DEP = [
  'kernel/virtio_ring.ko:',
  'kernel/virtio.ko: kernel/virtio_ring.ko',
  'kernel/virtio_mmio.ko: kernel/virtio.ko kernel/virtio_ring.ko',
  'kernel/virtio_blk.ko: kernel/virtio.ko kernel/virtio_ring.ko',
  'kernel/virtio_net.ko: kernel/failover.ko kernel/virtio.ko kernel/virtio_ring.ko',
  'kernel/failover.ko:',
  'kernel/virtio-rng.ko: kernel/virtio.ko kernel/virtio_ring.ko',
  'kernel/overlay.ko:',
  'kernel/floppy.ko:',
  'kernel/vsock.ko:',
  'kernel/vmw_vsock_virtio_transport_common.ko: kernel/vsock.ko',
  'kernel/vmw_vsock_virtio_transport.ko: kernel/vmw_vsock_virtio_transport_common.ko kernel/virtio.ko kernel/virtio_ring.ko kernel/vsock.ko',
  'kernel/inet_diag.ko:',
  'kernel/tcp_diag.ko: kernel/inet_diag.ko',
].join('\n');

/** A tree of all the modules in DEP. */
async function tree(
  t: TestContext,
  dep = DEP,
): Promise<{ dir: string; modules: string; busybox: string; agent: Buffer }> {
  const dir = await tempDir(t);
  const modules = join(dir, 'modules');
  const paths = dep.split('\n').map((line) => line.slice(0, line.indexOf(':')));
  await moduleTree(
    modules,
    { dep, builtin: 'kernel/ext4.ko\nkernel/i8042.ko\n' },
    Object.fromEntries(paths.map((path) => [path, elfKernel()])),
  );
  await writeFile(join(dir, 'busybox'), 'a busybox');
  return { dir, modules, busybox: join(dir, 'busybox'), agent: Buffer.from('an agent') };
}

describe('the initrd', () => {
  it('holds the needed modules only, in an order that loads', async (t) => {
    const initrd = await buildInitrd(unpacking, await tree(t));
    assert.deepEqual(initrd.modules, [
      ...['virtio_ring', 'virtio', 'virtio_mmio', 'virtio_blk', 'failover', 'virtio_net', 'overlay', 'virtio_rng'],
    ]);
  });

  it('unpacks to /init, busybox, its links and the modules', { skip: lacking('busybox') }, async (t) => {
    const parts = await tree(t);
    const initrd = await buildInitrd(unpacking, parts);
    const out = join(parts.dir, 'out');
    await mkdir(out);
    await writeFile(join(parts.dir, 'initrd.img'), initrd.image);
    // device nodes need root, which unpacking as a test need not have
    await runner.run(['busybox', 'cpio', '-i', '-F', join(parts.dir, 'initrd.img')], { cwd: out, okExits: [0, 1] });
    assert.equal(await readFile(join(out, 'init'), 'utf8'), INIT_SCRIPT);
    assert.equal((await stat(join(out, 'init'))).mode & 0o777, 0o755);
    assert.equal(await readFile(join(out, 'bin/mount'), 'utf8'), 'a busybox');
    const order = (await readFile(join(out, 'modules.order'), 'utf8')).trim().split('\n');
    assert.deepEqual(
      order,
      initrd.modules.map((name) => `${name}.ko`),
    );
    const listed = async (name: string) => (await readFile(join(out, name), 'utf8')).trim().split('\n');
    const vsock = await listed('modules.vsock');
    assert.deepEqual(vsock, ['vsock.ko', 'vmw_vsock_virtio_transport_common.ko', 'vmw_vsock_virtio_transport.ko']);
    const diag = await listed('modules.agent');
    assert.deepEqual(diag, ['inet_diag.ko', 'tcp_diag.ko']);
    assert.deepEqual((await readdir(join(out, 'modules'))).sort(), [...order, ...vsock, ...diag].sort());
    assert.equal(await readFile(join(out, 'bin/banger-agent'), 'utf8'), 'an agent');
    assert.equal((await stat(join(out, 'bin/banger-agent'))).mode & 0o777, 0o755);
  });

  it('gives equal bytes for equal parts', async (t) => {
    const parts = await tree(t);
    assert.ok((await buildInitrd(unpacking, parts)).image.equals((await buildInitrd(unpacking, parts)).image));
  });

  it('is refused for a kernel that cannot reach its disks, naming the modules', async (t) => {
    const parts = await tree(
      t,
      DEP.split('\n')
        .filter((line) => !/virtio_(blk|mmio)/.test(line))
        .join('\n'),
    );
    await assert.rejects(buildInitrd(unpacking, parts), { code: 'corrupt', message: /virtio_mmio, virtio_blk/ });
  });
});

describe('/init', () => {
  it('is a script busybox can read', { skip: lacking('busybox') }, async () => {
    await runner.run(['busybox', 'sh', '-n'], { input: INIT_SCRIPT });
  });

  it('passes shellcheck', { skip: lacking('shellcheck') }, async () => {
    // SC1090/SC1091: the seed's config exists in the guest only; SC2093: the exec is meant to be the end
    const argv = ['shellcheck', '--shell=dash', '--exclude=SC1090,SC1091,SC2093', '-'] as const;
    const { stdout } = await runner.run(argv, { input: INIT_SCRIPT, okExits: [0, 1] });
    assert.equal(stdout, '');
  });

  it('begins every line it prints alike, so that the console can be searched', () => {
    const printed = INIT_SCRIPT.split('\n').filter((line) => /^\s*echo\b/.test(line) && !line.includes('>'));
    assert.deepEqual(
      printed.map((line) => line.trim()),
      ['echo "banger-init: $1"'],
    );
  });
});
