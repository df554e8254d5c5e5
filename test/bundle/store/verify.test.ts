import assert from 'node:assert/strict';
import { open, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { inspectRootfs, rootfsProblem } from '../../../src/bundle/debian/rootfs-image.ts';
import { sumDisk, sumFile, sumTree } from '../../../src/bundle/store/checksum.ts';
import { readBundle, readManifest, writeManifest } from '../../../src/bundle/store/manifest.ts';
import { verifyBundle } from '../../../src/bundle/store/verify.ts';
import { MIB } from '../../../src/units.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { elfKernel, lacking, RELEASE, runner, sampleBundle } from '../sample-bundle.ts';

/** The fields a bundle fails in. */
async function failures(dir: string): Promise<string[]> {
  const verdict = await verifyBundle(dir, { arch: 'x86_64' });
  assert.equal(
    verdict.ok,
    verdict.checks.every((check) => check.ok),
  );
  return verdict.checks.filter((check) => !check.ok).map((check) => check.field);
}

/** Replaces a file of a bundle and its sum, so that only its content is wrong. */
async function replace(dir: string, path: string, content: Uint8Array): Promise<void> {
  const { manifest } = await readBundle(dir);
  await writeFile(join(dir, path), content);
  await writeManifest(dir, { ...manifest, files: { ...manifest.files, [path]: await sumFile(join(dir, path)) } });
}

async function flipByte(path: string, position: number): Promise<void> {
  await using file = await open(path, 'r+');
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, position);
  buffer[0] = (buffer[0] ?? 0) ^ 0xff;
  await file.write(buffer, 0, 1, position);
}

/** The first offset from here on where 8 KiB are zeros. */
async function holeIn(path: string, from: number): Promise<number> {
  await using file = await open(path);
  const zeros = Buffer.alloc(8192);
  for (let at = from; ; at += 8192) {
    const { buffer } = await file.read(Buffer.alloc(8192), 0, 8192, at);
    if (buffer.equals(zeros)) return at;
  }
}

describe('verifying a bundle', { skip: lacking('mke2fs') }, () => {
  const sample = async (t: TestContext) => {
    const dir = join(await tempDir(t), 'b');
    await sampleBundle(dir);
    return dir;
  };

  it('finds nothing wrong with a good one', async (t) => {
    assert.deepEqual(await failures(await sample(t)), []);
  });

  for (const path of ['vmlinux', 'initrd.img', 'rootfs.ext4', 'rootfs.packages']) {
    it(`finds a single changed byte at the end of ${path}`, async (t) => {
      const dir = await sample(t);
      await flipByte(join(dir, path), (await sumFile(join(dir, path))).size - 1);
      assert.deepEqual(await failures(dir), [`files.${path}`]);
    });
  }

  it('compares a bundle with the plain sums of older ones', async (t) => {
    const dir = await sample(t);
    const path = join(dir, 'rootfs.ext4');
    const { manifest } = await readBundle(dir);
    const files = { ...manifest.files, 'rootfs.ext4': await sumFile(path) };
    await writeManifest(dir, { ...manifest, schema: 1, files });
    assert.deepEqual(await failures(dir), []);
    await flipByte(path, 5000);
    assert.deepEqual(await failures(dir), ['files.rootfs.ext4']);
  });

  it('says which parts of a disk image differ, and takes a hole that was filled with zeros for the same', async (t) => {
    const dir = await sample(t);
    const path = join(dir, 'rootfs.ext4');
    await truncate(path, 0);
    await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', path, '420M']);
    const manifest = await readManifest(join(dir, 'bundle.json'));
    await writeManifest(dir, { ...manifest, files: { ...manifest.files, 'rootfs.ext4': await sumDisk(path) } });
    assert.deepEqual(await failures(dir), []);
    const hole = await holeIn(path, 70 * MIB);
    await using file = await open(path, 'r+');
    await file.write(Buffer.alloc(8192), 0, 8192, hole);
    assert.deepEqual(await failures(dir), [], 'zeros are what a hole is');
    for (const offset of [100, 200, 250]) await flipByte(path, offset * MIB + 17);
    await flipByte(path, 420 * MIB - 1);
    const { checks } = await verifyBundle(dir, { arch: 'x86_64' });
    const { detail } = checks.find(({ field }) => field === 'files.rootfs.ext4') ?? {};
    assert.match(
      detail ?? '',
      /^The checksum is \w{64}, bundle.json says \w{64}; it differs in 64 to 128 MiB, 192 to 256 MiB, 384 MiB to its end\.$/,
    );
  });

  it('finds what was changed, added, removed or linked out in the module tree', async (t) => {
    const dir = await sample(t);
    const tree = join(dir, 'modules', RELEASE);
    const field = `trees.modules/${RELEASE}`;
    await writeFile(join(tree, 'kernel/b.ko'), 'more');
    assert.deepEqual(await failures(dir), [field]);
    await rm(join(tree, 'kernel/b.ko'));
    assert.deepEqual(await failures(dir), []);
    await symlink('/usr/src/linux', join(tree, 'build'));
    assert.deepEqual(await failures(dir), [field]);
    await rm(join(tree, 'build'));
    await rm(join(tree, 'kernel/a.ko'));
    assert.deepEqual(await failures(dir), [field]);
  });

  it('says everything that is wrong, not only the first', async (t) => {
    const dir = await sample(t);
    await replace(dir, 'vmlinux', elfKernel({ pvh: false }));
    await replace(dir, 'initrd.img', Buffer.from('not an archive'));
    await replace(dir, 'rootfs.ext4', Buffer.alloc(4096));
    assert.deepEqual(await failures(dir), ['kernel', 'initrd', 'rootfs']);
  });

  it('names the architecture of a bundle for another machine once', async (t) => {
    const dir = await sample(t);
    const { manifest } = await readBundle(dir);
    await replace(dir, 'vmlinux', elfKernel({ machine: 183 }));
    await writeManifest(dir, { ...(await readBundle(dir)).manifest, arch: 'aarch64', name: manifest.name });
    assert.deepEqual(await failures(dir), ['arch']);
  });

  it('stops when asked to', async (t) => {
    const options = { arch: 'x86_64', signal: AbortSignal.abort() } as const;
    await assert.rejects(verifyBundle(await sample(t), options), { code: 'cancelled' });
  });
});

describe('a root file system image', { skip: lacking('mke2fs') }, () => {
  it('is told from one that was cut short and from other data', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'rootfs.ext4');
    await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', path, '8M']);
    assert.equal(rootfsProblem(await inspectRootfs(path)), undefined);
    await runner.run(['truncate', '--size=5M', path]);
    const MiB = 1024 * 1024;
    assert.deepEqual(await inspectRootfs(path), { kind: 'truncated', fileSystemBytes: 8 * MiB, sizeBytes: 5 * MiB });
    await writeFile(path, 'x'.repeat(5000));
    assert.equal(rootfsProblem(await inspectRootfs(path)), 'is no file system banger can use: it is not ext4');
    await writeFile(path, '');
    assert.equal(rootfsProblem(await inspectRootfs(path)), 'is no file system banger can use: it is empty');
    await assert.rejects(inspectRootfs(join(dir, 'gone')), { code: 'not_found' });
  });
});

describe('the checksum of a tree', () => {
  it('is the same for a copy, whatever its owners and times, and differs by content, name and kind', async (t) => {
    const dir = await tempDir(t);
    const make = async (name: string, change?: (tree: string) => Promise<void>) => {
      const tree = join(dir, name);
      await runner.run(['mkdir', '-p', join(tree, 'a'), join(tree, 'b')]);
      await writeFile(join(tree, 'a/file'), 'content');
      await symlink('file', join(tree, 'a/link'));
      await change?.(tree);
      return (await sumTree(tree)).sha256;
    };
    const original = await make('original');
    assert.equal(
      await make(
        'touched',
        async (tree) => void (await runner.run(['touch', '-d', '2001-01-01', join(tree, 'a/file')])),
      ),
      original,
    );
    const different = [
      await make('content', (tree) => writeFile(join(tree, 'a/file'), 'Content')),
      await make('name', async (tree) => void (await runner.run(['mv', join(tree, 'b'), join(tree, 'c')]))),
      await make('kind', async (tree) => {
        await rm(join(tree, 'a/link'));
        await writeFile(join(tree, 'a/link'), 'file');
      }),
    ];
    assert.equal(new Set([original, ...different]).size, 4);
  });
});
