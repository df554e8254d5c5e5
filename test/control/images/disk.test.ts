/** Images of whole disks, as clouds have them: which part becomes the root, and what boots it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { BangerError } from '../../../src/errors.ts';
import { imageFiles } from '../../../src/storage/layout.ts';
import { bzImage, elfKernel, lacking, moduleTree } from '../../bundle/sample-bundle.ts';
import { makeExt4File, toQcow2, writeDisk } from '../../support/disk-images.ts';
import { imagePlace } from './image-host.ts';

const hasAgent = existsSync(join(import.meta.dirname, '../../../dist/banger-agent'));
const skip =
  lacking('mke2fs', 'sfdisk', 'qemu-img', 'debugfs', 'mkfs.xfs', 'cpio') ||
  (!hasAgent && 'dist/banger-agent is not compiled (make build)');

const MIB = 1024 * 1024;
const MODULES = ['virtio_mmio', 'virtio_blk', 'virtio_net', 'ext4'];

/** A root file system of Debian's shape, with a kernel if it is said which modules that has. */
async function rootTree(dir: string, release?: string, modules: readonly string[] = MODULES): Promise<string> {
  const root = join(dir, `root-${release ?? 'none'}`);
  for (const path of ['etc', 'boot', 'usr/lib/modules', 'var/lib/dpkg'])
    await mkdir(join(root, path), { recursive: true });
  await writeFile(
    join(root, 'var/lib/dpkg/status'),
    'Package: jq\nStatus: install ok installed\nVersion: 1.6\nArchitecture: amd64\n',
  );
  if (release === undefined) return root;
  await writeFile(join(root, 'boot', `vmlinuz-${release}`), bzImage(elfKernel()));
  const files = Object.fromEntries(modules.map((name) => [`kernel/${name}.ko`, `\x7fELF ${name} of ${release}`]));
  const dep = Object.keys(files).map((path) => `${path}:\n`);
  await moduleTree(join(root, 'usr/lib/modules', release), { dep: dep.join('') }, files);
  return root;
}

async function diskPlace(t: TestContext) {
  const here = await imagePlace(t);
  const small = join(here.dir, 'esp');
  await writeFile(small, Buffer.concat([Buffer.alloc(54), Buffer.from('FAT16   '), Buffer.alloc(MIB - 62)]));
  const lines: string[] = [];
  here.progress.line = (text) => void lines.push(text);
  return { ...here, small, lines };
}

/** Paths in an initrd, which may be of several archives one behind the other. */
function listInitrd(path: string): string[] {
  const out: string[] = [];
  const bytes = execFileSync('cat', [path], { maxBuffer: 256 * MIB });
  for (let at = 0; at < bytes.length; ) {
    if (bytes.toString('latin1', at, at + 6) !== '070701') {
      at += 4;
      continue;
    }
    const field = (index: number) =>
      Number.parseInt(bytes.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const [size, nameBytes] = [field(6), field(11)];
    const name = bytes.toString('latin1', at + 110, at + 110 + nameBytes - 1);
    if (name !== 'TRAILER!!!') out.push(name);
    at = Math.ceil((at + 110 + nameBytes) / 4) * 4;
    at = Math.ceil((at + size) / 4) * 4;
  }
  return out;
}

describe('importing a disk', { skip }, () => {
  it('takes the root of a compressed qcow2 with a GPT, its kernel and its packages', async (t) => {
    const here = await diskPlace(t);
    const rootfs = join(here.dir, 'root.ext4');
    makeExt4File(rootfs, 16, { from: await rootTree(here.dir, '6.9.0-cloud') });
    const [raw, disk] = [join(here.dir, 'disk.raw'), join(here.dir, 'debian-12.qcow2')];
    await writeDisk(raw, 'gpt', [
      { content: here.small, type: 'U' },
      { content: rootfs, mib: 20 },
    ]);
    toQcow2(raw, disk, '-c');
    const image = await here.import({ source: disk });
    assert.deepEqual([image.name, image.problem, image.sizeBytes], ['debian-12', null, 20 * MIB]);
    const files = imageFiles(here.host.config.paths.store, image.id);
    assert.deepEqual(await readFile(files.kernel), elfKernel());
    assert.equal(await readFile(files.packages, 'utf8'), 'jq 1.6 amd64\n');
    const initrd = listInitrd(files.initrd);
    for (const name of MODULES) assert.ok(initrd.includes(`modules/${name}.ko`), name);
    for (const name of ['init', 'bin/banger-agent', 'disk', 'modules.order']) assert.ok(initrd.includes(name), name);
    assert.match(
      here.lines.join('\n'),
      /root: partition 2, an ext4 file system of 20 MiB[\s\S]*kernel: its own, 6\.9\.0-cloud/,
    );
    assert.deepEqual(await here.inStore(), [image.id]);
  });

  it('takes the kernel from a boot partition, and the newest that fits', async (t) => {
    const here = await diskPlace(t);
    const [rootfs, boot, disk] = [join(here.dir, 'root.ext4'), join(here.dir, 'boot.ext4'), join(here.dir, 'disk.img')];
    const root = await rootTree(here.dir, '6.10.0-generic', ['virtio_blk', 'virtio_net', 'ext4']);
    await moduleTree(
      join(root, 'usr/lib/modules/6.9.0-cloud'),
      { dep: MODULES.map((name) => `kernel/${name}.ko:\n`).join('') },
      Object.fromEntries(MODULES.map((name) => [`kernel/${name}.ko`, `\x7fELF ${name}`])),
    );
    makeExt4File(rootfs, 16, { from: root });
    const kernels = join(here.dir, 'kernels');
    await mkdir(kernels);
    await writeFile(join(kernels, 'vmlinuz-6.9.0-cloud'), bzImage(elfKernel()));
    makeExt4File(boot, 8, { label: 'BOOT', from: kernels });
    await writeDisk(disk, 'dos', [{ content: boot }, { content: rootfs }]);
    await here.import({ source: disk });
    assert.ok(!here.warnings.some((text) => text.includes('kernel')));
    assert.match(here.lines.join('\n'), /kernel: its own, 6\.9\.0-cloud/);
  });

  it('boots with the kernel of the bundle where its own does not fit, and says why', async (t) => {
    const here = await diskPlace(t);
    const [rootfs, disk] = [join(here.dir, 'root.ext4'), join(here.dir, 'disk.img')];
    makeExt4File(rootfs, 16, { from: await rootTree(here.dir, '6.9.0-rhel', ['virtio_blk', 'virtio_net', 'ext4']) });
    await writeDisk(disk, 'dos', [{ content: rootfs }]);
    const image = await here.import({ source: disk });
    assert.match(
      here.warnings.join('\n'),
      /kernel of the bundle .* its own: 6\.9\.0-rhel.*lacks the modules virtio_mmio/,
    );
    const files = imageFiles(here.host.config.paths.store, image.id);
    assert.deepEqual(await readFile(files.kernel), await readFile(join(here.bundle, 'vmlinux')));
  });

  it('takes XFS as it is, with the modules for it', async (t) => {
    const here = await diskPlace(t);
    await moduleTree(
      join(here.bundle, 'modules/6.1.0-test'),
      {
        dep: 'kernel/xfs.ko: kernel/libcrc32c.ko\nkernel/libcrc32c.ko:\n',
        builtin: MODULES.map((name) => `kernel/${name}.ko\n`).join(''),
      },
      { 'kernel/xfs.ko': '\x7fELF xfs', 'kernel/libcrc32c.ko': '\x7fELF crc' },
    );
    const source = join(here.dir, 'rocky.raw');
    await using file = await open(source, 'w');
    await file.truncate(300 * MIB);
    execFileSync('mkfs.xfs', ['-q', source]);
    const image = await here.import({ source });
    assert.deepEqual([image.name, image.problem], ['rocky', null]);
    const files = imageFiles(here.host.config.paths.store, image.id);
    const initrd = listInitrd(files.initrd);
    assert.ok(initrd.includes('modules/xfs.ko') && initrd.includes('modules/libcrc32c.ko'));
    assert.match(await readFile(files.initrd, 'latin1'), /ROOT_KIND='xfs'/);
    assert.match(here.warnings.join('\n'), /no list of packages: they are read from ext4 only/);
  });

  it('asks which partition it is where several may be, and takes the one that is named', async (t) => {
    const here = await diskPlace(t);
    const [one, disk] = [join(here.dir, 'one'), join(here.dir, 'disk.img')];
    makeExt4File(one, 8, { label: 'a' });
    await writeDisk(disk, 'gpt', [{ content: one }, { content: one }, { content: here.small }]);
    await assert.rejects(here.import({ source: disk }), (error) => {
      assert.ok(error instanceof BangerError);
      assert.match(
        error.message,
        /several partitions that may be its root: 1 \(an ext4 file system "a" of 8 MiB\), 2 \(/,
      );
      assert.match(error.hint ?? '', /--partition NUMBER/);
      return true;
    });
    await assert.rejects(here.import({ source: disk, partition: 3 }), /partition 3 of .* is a FAT file system/);
    await assert.rejects(here.import({ source: disk, partition: 9 }), /has no partition 9, only: 1 \(/);
    await here.import({ source: disk, partition: 2 });
    assert.match(here.lines.join('\n'), /root: partition 2/);
    await assert.rejects(here.import({ source: one, partition: 1 }), /has no partitions/);
  });

  it('says what is there instead of a root, and leaves nothing', async (t) => {
    const here = await diskPlace(t);
    const kinds: [string, string, RegExp][] = [
      ['luks', 'LUKS\xba\xbe', /only: 1 \(an encrypted volume \(LUKS\) of 2 MiB\)/],
      ['lvm', '', /only: 1 \(a physical volume of LVM/],
    ];
    for (const [name, text, expected] of kinds) {
      const [content, disk] = [join(here.dir, name), join(here.dir, `${name}.img`)];
      const bytes = Buffer.alloc(2 * MIB);
      bytes.write(text || 'LABELONE', text ? 0 : 512, 'latin1');
      await writeFile(content, bytes);
      await writeDisk(disk, 'gpt', [{ content }]);
      await assert.rejects(here.import({ source: disk }), expected);
      await assert.rejects(here.import({ source: content }), /is (an encrypted volume|a physical volume)/);
    }
    const rootfs = join(here.dir, 'root.ext4');
    makeExt4File(rootfs, 8);
    const broken = await readFile(rootfs);
    broken.fill(0xff, 4096, 200_000);
    await writeFile(rootfs, broken);
    await writeDisk(join(here.dir, 'broken.img'), 'gpt', [{ content: rootfs }]);
    await assert.rejects(here.import({ source: join(here.dir, 'broken.img') }), /is damaged/);
    assert.deepEqual(await here.inStore(), []);
  });
});
