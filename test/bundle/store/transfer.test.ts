import assert from 'node:assert/strict';
import { mkdir, readdir, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { sumDisk, sumFile } from '../../../src/bundle/store/checksum.ts';
import { type BundleManifest, readBundle, writeManifest } from '../../../src/bundle/store/manifest.ts';
import { exportBundle, type ImportRequest, importBundle } from '../../../src/bundle/store/transfer.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { elfKernel, lacking, RELEASE, runner, sampleBundle } from '../sample-bundle.ts';

const deps = { runner, programs: { tar: 'tar', zstd: 'zstd', cp: 'cp' } };

interface Place {
  dir: string;
  bundle: string;
  file: string;
  catalog: string;
  import(request?: Partial<ImportRequest>): ReturnType<typeof importBundle>;
}

async function place(t: TestContext, change?: (manifest: BundleManifest) => BundleManifest): Promise<Place> {
  const dir = await tempDir(t);
  const bundle = join(dir, 'made');
  await sampleBundle(bundle, change);
  const file = join(dir, 'sample.tar.zst');
  const catalog = join(dir, 'bundles');
  return {
    dir,
    bundle,
    file,
    catalog,
    import: (request = {}) => importBundle(deps, { source: file, catalog, arch: 'x86_64', ...request }),
  };
}

/** Nothing of a refused import may be seen, nor be left lying about. */
async function assertNothingImported({ catalog }: Place): Promise<void> {
  assert.deepEqual(await readdir(catalog), []);
}

async function tarOf(p: Place, paths: string[], options: string[] = []): Promise<void> {
  await runner.run([
    'tar',
    '--create',
    '--zstd',
    '-P',
    ...options,
    '--file',
    p.file,
    '--directory',
    p.bundle,
    ...paths,
  ]);
}

describe('a bundle as one file', { skip: lacking('mke2fs', 'tar', 'zstd') }, () => {
  it('comes back as it was, without files bundle.json does not name', async (t) => {
    const p = await place(t);
    await writeFile(join(p.bundle, 'notes.txt'), 'mine');
    await exportBundle(deps, p.bundle, p.file);
    const bundle = await p.import();
    assert.equal(bundle.dir, join(p.catalog, 'sample'));
    assert.deepEqual(bundle.manifest, (await readBundle(p.bundle)).manifest);
    assert.deepEqual((await readdir(bundle.dir)).sort(), [
      ...['bundle.json', 'initrd.img', 'modules', 'rootfs.ext4', 'rootfs.packages', 'vmlinux'],
    ]);
    assert.deepEqual(await readdir(p.catalog), ['sample']);
  });

  it('of an older banger, with plain sums alone, is taken too', async (t) => {
    const p = await place(t);
    const files = { ...(await readBundle(p.bundle)).manifest.files };
    files['rootfs.ext4'] = await sumFile(join(p.bundle, 'rootfs.ext4'));
    await writeManifest(p.bundle, { ...(await readBundle(p.bundle)).manifest, schema: 1, files });
    await exportBundle(deps, p.bundle, p.file);
    assert.equal((await p.import()).manifest.schema, 1);
  });

  it('keeps sparse files sparse, in the archive and after it', async (t) => {
    const p = await place(t);
    await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', join(p.bundle, 'rootfs.ext4'), '256M']);
    const { manifest } = await readBundle(p.bundle).catch(async () => ({ manifest: undefined }));
    assert.equal(manifest, undefined, 'the old size no longer fits');
    const before = await sampleManifest(p);
    await writeManifest(p.bundle, before);
    await exportBundle(deps, p.bundle, p.file);
    assert.ok((await stat(p.file)).size < 1024 * 1024);
    const bundle = await p.import();
    const { size, blocks } = await stat(bundle.rootfs);
    assert.equal(size, 256 * 1024 * 1024);
    assert.ok(blocks * 512 < 32 * 1024 * 1024, `${blocks * 512} bytes on disk`);
  });

  it('is also taken from a plain tar, from one without a directory at its top, and from a directory', async (t) => {
    const p = await place(t);
    await runner.run(['tar', '--create', '--file', p.file, '--directory', p.dir, 'made']);
    await p.import({ name: 'plain' });
    await tarOf(p, ['.']);
    await p.import({ name: 'flat' });
    await p.import({ source: p.bundle, name: 'copied' });
    assert.deepEqual(await readdir(p.catalog), ['copied', 'flat', 'plain']);
  });

  it('brings along what a link inside the bundle leads to', async (t) => {
    const p = await place(t);
    await runner.run(['mv', join(p.bundle, 'vmlinux'), join(p.bundle, 'vmlinux-6.1')]);
    await symlink('vmlinux-6.1', join(p.bundle, 'vmlinux'));
    await exportBundle(deps, p.bundle, p.file);
    assert.equal((await p.import()).kernel, join(p.catalog, 'sample/vmlinux-6.1'));
    assert.equal((await p.import({ source: p.bundle, name: 'copy' })).kernel, join(p.catalog, 'copy/vmlinux-6.1'));
  });

  it('does not replace a bundle or a file unless told to', async (t) => {
    const p = await place(t);
    await exportBundle(deps, p.bundle, p.file);
    await assert.rejects(exportBundle(deps, p.bundle, p.file), { code: 'conflict' });
    await p.import();
    await assert.rejects(p.import(), { code: 'conflict', hint: /--name/ });
    await p.import({ replace: true });
    assert.deepEqual(await readdir(p.catalog), ['sample']);
  });

  it('leaves no file behind when the export fails', async (t) => {
    const p = await place(t);
    await rm(join(p.bundle, 'modules', RELEASE, 'kernel'), { recursive: true });
    await assert.rejects(exportBundle(deps, p.bundle, join(p.dir, 'gone/x.tar.zst')), { code: 'command_failed' });
    await assert.rejects(
      exportBundle({ ...deps, programs: { ...deps.programs, zstd: 'no-such-zstd' } }, p.bundle, p.file),
      { code: 'host_unprepared' },
    );
    assert.deepEqual((await readdir(p.dir)).sort(), ['made']);
  });
});

async function sampleManifest(p: Place): Promise<BundleManifest> {
  const path = join(p.bundle, 'rootfs.ext4');
  const { readManifest } = await import('../../../src/bundle/store/manifest.ts');
  const manifest = await readManifest(join(p.bundle, 'bundle.json'));
  return { ...manifest, files: { ...manifest.files, 'rootfs.ext4': await sumDisk(path) } };
}

describe('an import is refused, and leaves nothing,', { skip: lacking('mke2fs', 'tar', 'zstd') }, () => {
  it('when a sum is wrong, naming the field', async (t) => {
    const p = await place(t);
    await writeFile(join(p.bundle, 'rootfs.packages'), 'apt 2.6.2 amd64\n');
    await exportBundle(deps, p.bundle, p.file);
    await assert.rejects(p.import(), { code: 'corrupt', message: /field "files.rootfs.packages"/ });
    await assertNothingImported(p);
  });

  it('when it is for another architecture', async (t) => {
    const p = await place(t);
    await writeFile(join(p.bundle, 'vmlinux'), elfKernel({ machine: 183 }));
    const manifest = await readBundle(p.bundle).then((bundle) => bundle.manifest);
    const vmlinux = await sumFile(join(p.bundle, 'vmlinux'));
    await writeManifest(p.bundle, { ...manifest, arch: 'aarch64', files: { ...manifest.files, vmlinux } });
    await exportBundle(deps, p.bundle, p.file);
    await assert.rejects(p.import(), { code: 'corrupt', message: /field "arch": For aarch64; this machine is x86_64/ });
    await assertNothingImported(p);
  });

  it('when the archive climbs out', async (t) => {
    const p = await place(t);
    await writeFile(join(p.dir, 'evil'), 'x');
    await tarOf(p, ['bundle.json', '../evil']);
    await assert.rejects(p.import(), { code: 'corrupt', message: /"..\/evil" leads out/ });
    await assertNothingImported(p);
  });

  it('when the archive holds a device node', {
    skip: process.getuid?.() !== 0 && 'making a device needs root',
  }, async (t) => {
    const p = await place(t);
    await runner.run(['mknod', join(p.bundle, 'null'), 'c', '1', '3']);
    await tarOf(p, ['.']);
    await assert.rejects(p.import(), { code: 'corrupt', message: /"null" is a device/ });
    await assertNothingImported(p);
  });

  it('when the archive holds a link out, and nothing was written through it', async (t) => {
    const p = await place(t);
    await mkdir(join(p.dir, 'victim'));
    await symlink(join(p.dir, 'victim'), join(p.bundle, 'modules/out'));
    await tarOf(p, ['.']);
    await assert.rejects(p.import(), { code: 'corrupt', message: /outside the bundle/ });
    assert.deepEqual(await readdir(join(p.dir, 'victim')), []);
    await assertNothingImported(p);
  });

  it('when it unpacks to more than fits', {
    skip: process.getuid?.() !== 0 && 'a small file system needs root',
  }, async (t) => {
    const p = await place(t);
    const small = join(p.dir, 'small');
    await mkdir(small);
    // written as zeros, so that the archive is small and what it unpacks to is not
    await runner.run(['dd', 'if=/dev/zero', `of=${join(p.bundle, 'zeros')}`, 'bs=1M', 'count=300', 'status=none']);
    await tarOf(p, ['.']);
    assert.ok((await stat(p.file)).size < 1024 * 1024);
    await runner.run(['mount', '-t', 'tmpfs', '-o', 'size=96m', 'tmpfs', small]);
    try {
      const refused = { code: 'host_unprepared', message: /does not fit/ };
      await assert.rejects(p.import({ catalog: join(small, 'bundles') }), refused);
      assert.deepEqual(await readdir(join(small, 'bundles')), []);
    } finally {
      await runner.run(['umount', small]);
    }
  });

  for (const [what, spoil] of [
    ['cut short', async (file: string) => truncate(file, (await stat(file)).size >> 1)],
    ['something else', (file: string) => writeFile(file, 'this is no archive'.repeat(100))],
    ['empty', (file: string) => writeFile(file, '')],
  ] as const) {
    it(`when the file is ${what}`, async (t) => {
      const p = await place(t);
      await exportBundle(deps, p.bundle, p.file);
      await spoil(p.file);
      await assert.rejects(p.import(), { code: 'corrupt' });
      await assertNothingImported(p);
    });
  }

  it("and told in tar's own words when it is none", async (t) => {
    const p = await place(t);
    const refused = {
      code: 'corrupt',
      message: '/etc/passwd cannot be unpacked: This does not look like a tar archive',
    };
    await assert.rejects(p.import({ source: '/etc/passwd' }), refused);
  });

  it('when there is no such file, or its name cannot be one of a bundle', async (t) => {
    const p = await place(t);
    await assert.rejects(p.import(), { code: 'not_found' });
    await exportBundle(deps, p.bundle, p.file);
    for (const name of ['default', '../x', 'Upper', '.hidden']) {
      await assert.rejects(p.import({ name }), { code: 'invalid_input' }, name);
    }
    await assertNothingImported(p);
  });

  it('when it is cancelled', async (t) => {
    const p = await place(t);
    await exportBundle(deps, p.bundle, p.file);
    const controller = new AbortController();
    const request: ImportRequest = {
      source: p.file,
      catalog: p.catalog,
      arch: 'x86_64',
      onBytes: () => controller.abort(),
    };
    await assert.rejects(importBundle({ ...deps, signal: controller.signal }, request), { code: 'cancelled' });
    await assertNothingImported(p);
  });
});
