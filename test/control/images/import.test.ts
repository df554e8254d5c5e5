/** Root file systems and archives become images: what is kept of them, and what is refused. */
import assert from 'node:assert/strict';
import { mkdir, open, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { sumFile } from '../../../src/bundle/store/checksum.ts';
import { findBootFiles, findVmBootFiles } from '../../../src/control/bundles/boot-files.ts';
import { diffImages, leaveImage, renameImage, viewImageDetail } from '../../../src/control/images/catalogue.ts';
import { exportImage } from '../../../src/control/images/export.ts';
import { importImage } from '../../../src/control/images/import.ts';
import { sweepImages } from '../../../src/control/upkeep/image-sweep.ts';
import { imageFiles } from '../../../src/storage/layout.ts';
import { verityDigest } from '../../../src/system/verity.ts';
import { bzImage, elfKernel, lacking } from '../../bundle/sample-bundle.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { type ImagePlace, imagePlace } from './image-host.ts';

const skip =
  lacking('mke2fs', 'e2fsck', 'debugfs', 'tar', 'zstd') ||
  (process.arch !== 'x64' && 'the sample kernel is for x86-64');
const signal = new AbortController().signal;

/** Puts files into the user's own root file system. */
async function fill({ dir, rootfs, host }: ImagePlace, status: string): Promise<void> {
  const tree = join(dir, 'tree');
  await mkdir(join(tree, 'var/lib/dpkg'), { recursive: true });
  await writeFile(join(tree, 'var/lib/dpkg/status'), status);
  await host.system.runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, rootfs, '2M']);
}

const installed = (name: string, version: string) =>
  `Package: ${name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: ${version}\n\n`;

describe('a root file system of one’s own', { skip }, () => {
  it('becomes an image with the bundle’s kernel and the packages dpkg knows of', async (t) => {
    const place = await imagePlace(t);
    await fill(place, installed('jq', '1.6') + installed('apt', '2.6'));
    const image = await place.import({ name: 'mine' });
    assert.deepEqual(await place.inStore(), [image.id]);
    const files = imageFiles(place.host.config.paths.store, image.id);
    assert.equal(await readFile(files.packages, 'utf8'), 'apt 2.6 amd64\njq 1.6 amd64\n');
    assert.deepEqual(await readFile(files.kernel), await readFile(join(place.bundle, 'vmlinux')));
    assert.deepEqual([image.name, image.problem, image.usedBy], ['mine', null, []]);
    assert.equal(image.digest, await verityDigest(files.rootfs));
    const boot = await findBootFiles(place.host, 'mine');
    assert.equal(boot.imageId, image.id);
    // what the bundle says about VMs goes with its kernel
    assert.deepEqual(boot.defaults, (await findBootFiles(place.host)).defaults);
    assert.equal((await viewImageDetail(place.host, 'mine')).packageCount, 2);
  });

  it('without dpkg becomes one too, and says that there is no list of packages', async (t) => {
    const place = await imagePlace(t);
    await place.import({ name: 'bare' });
    assert.match(place.warnings.join(), /no list of packages/);
    assert.equal((await viewImageDetail(place.host, 'bare')).packages, null);
    await assert.rejects(diffImages(place.host, 'bare', place.bundle), {
      code: 'conflict',
      message: /bare has no list/,
    });
  });

  it('is called like its file, and takes a compressed kernel', async (t) => {
    const place = await imagePlace(t);
    const kernel = join(place.dir, 'vmlinuz');
    const elf = elfKernel();
    await writeFile(kernel, bzImage(gzipSync(elf)));
    const image = await place.import({ kernel, initrd: join(place.bundle, 'initrd.img') });
    assert.deepEqual([image.name, image.base], ['rootfs', 'import']);
    assert.deepEqual(await readFile(imageFiles(place.host.config.paths.store, image.id).kernel), elf);
    assert.deepEqual((await findBootFiles(place.host, 'rootfs')).defaults, {});
  });

  for (const [what, request, expected] of [
    ['a kernel without its initrd', { kernel: '/etc/passwd' }, { code: 'invalid_input', message: /belong together/ }],
    ['two kernels', { kernel: '/a', initrd: '/b', bundle: 'c' }, { code: 'invalid_input', message: /not from both/ }],
    [
      'a kernel that is none',
      { kernel: '/etc/passwd', initrd: '/etc/passwd' },
      { code: 'corrupt', message: /no kernel/ },
    ],
    ['a kernel that is not there', { kernel: '/no/k', initrd: '/no/i' }, { code: 'not_found', message: /\/no\/k/ }],
    ['a bundle that is not there', { bundle: 'nope' }, { code: 'not_found', message: /"nope"/ }],
    ['a file that is not there', { source: '/no/file' }, { code: 'not_found', message: /\/no\/file/ }],
    ['a directory', { source: '/etc' }, { code: 'invalid_input', hint: /mke2fs/ }],
    ['a name no host could have', { name: 'No Name' }, { code: 'invalid_input', hint: /--name/ }],
    [
      'a file that is nothing of the kind',
      { source: '/etc/passwd' },
      { code: 'corrupt', message: /cannot be unpacked/ },
    ],
    ['an archive’s name with a kernel', { source: '/etc/passwd', bundle: 'x' }, { code: 'invalid_input' }],
  ] as const) {
    it(`with ${what} is refused and leaves nothing`, async (t) => {
      const place = await imagePlace(t);
      await assert.rejects(place.import({ name: 'x', ...request }), expected);
      assert.deepEqual(await place.inStore(), []);
      assert.deepEqual(place.host.stores.images.list(), []);
    });
  }

  it('that is damaged is refused', async (t) => {
    const place = await imagePlace(t);
    // inode tables of nonsense, which e2fsck does not repair by itself
    const bytes = await readFile(place.rootfs);
    await writeFile(place.rootfs, bytes.fill(0xa5, 4096, 256 * 1024));
    await assert.rejects(place.import({ name: 'x' }), { code: 'corrupt', message: /damaged/ });
    assert.deepEqual(await place.inStore(), []);
  });

  it('whose import is called off leaves nothing', async (t) => {
    const place = await imagePlace(t);
    const stop = new AbortController();
    const progress = { ...place.progress, step: (step: string) => void (step === 'check' && stop.abort()) };
    const request = { source: place.rootfs, name: 'x' };
    await assert.rejects(importImage(place.host, request, progress, stop.signal), { code: 'cancelled' });
    assert.deepEqual(await place.inStore(), []);
  });
});

describe('an image as one file', { skip }, () => {
  const exported = async (place: ImagePlace) => {
    await fill(place, installed('jq', '1.6'));
    const image = await place.import({ name: 'dev' });
    const file = join(place.dir, 'dev.tar.zst');
    await exportImage(place.host, 'dev', file, place.progress, signal);
    return { image, file };
  };
  const repack = async ({ dir, host }: ImagePlace, file: string, change: (top: string) => Promise<unknown>) => {
    await host.system.runner.run(['tar', '--extract', '--file', file, '--directory', dir]);
    await change(join(dir, 'dev'));
    await rm(file);
    await host.system.runner.run(['tar', '--create', '--zstd', '--file', file, '--directory', dir, 'dev']);
  };

  it('comes back as it was under another name, and only once', async (t) => {
    const place = await imagePlace(t);
    const { image, file } = await exported(place);
    await assert.rejects(place.import({ source: file }), { code: 'conflict', message: /"dev" already/ });
    const copy = await place.import({ source: file, name: 'copy' });
    assert.deepEqual(
      { ...copy, id: image.id, name: 'dev', allocatedBytes: 0 },
      { ...image, allocatedBytes: 0 },
      'all but the name and the id',
    );
    assert.deepEqual(await place.inStore(), [image.id, copy.id].sort());
    assert.equal((await diffImages(place.host, 'dev', 'copy')).unchanged, 1);
    assert.ok((await stat(file)).size < 100_000);
    await assert.rejects(exportImage(place.host, 'dev', file, place.progress, signal), { code: 'conflict' });
  });

  it('may bring a recipe along that this banger cannot read', async (t) => {
    const place = await imagePlace(t);
    const { file } = await exported(place);
    await repack(place, file, async (top) => {
      const path = join(top, 'image.json');
      const manifest = JSON.parse(await readFile(path, 'utf8'));
      await writeFile(path, JSON.stringify({ ...manifest, recipe: '{', later: true }));
    });
    await place.import({ source: file, name: 'x' });
    assert.equal((await viewImageDetail(place.host, 'x')).recipe, '{');
  });

  it('has no value of its recipe’s environment, nor is one shown or taken from an older archive', async (t) => {
    const place = await imagePlace(t);
    await place.import({ name: 'dev' });
    const recipe = JSON.stringify({ env: { TOKEN: 's3cret' } });
    const kept = { env: { TOKEN: null } };
    // as an older banger kept it
    place.database.prepare('UPDATE images SET recipe = ?').run(recipe);
    assert.deepEqual((await viewImageDetail(place.host, 'dev')).recipe, kept);
    const file = join(place.dir, 'dev.tar.zst');
    await exportImage(place.host, 'dev', file, place.progress, signal);
    await repack(place, file, async (top) => {
      const path = join(top, 'image.json');
      const text = await readFile(path, 'utf8');
      assert.ok(text.includes('TOKEN') && !text.includes('s3cret'), text);
      await writeFile(path, JSON.stringify({ ...JSON.parse(text), recipe }));
    });
    await place.import({ source: file, name: 'x' });
    const row = place.database.prepare(`SELECT recipe FROM images WHERE name = 'x'`).get();
    assert.deepEqual(JSON.parse(String(row?.recipe)), kept);
  });

  it('with the plain sums of an older banger comes back with the digest that it has today', async (t) => {
    const place = await imagePlace(t);
    const { image, file } = await exported(place);
    await repack(place, file, async (top) => {
      const path = join(top, 'image.json');
      const manifest = JSON.parse(await readFile(path, 'utf8'));
      assert.deepEqual(Object.keys(manifest.files['rootfs.ext4']), ['fsverity', 'size', 'parts']);
      manifest.files['rootfs.ext4'] = await sumFile(join(top, 'rootfs.ext4'));
      await writeFile(path, JSON.stringify({ ...manifest, version: 1 }));
    });
    assert.equal((await place.import({ source: file, name: 'old' })).digest, image.digest);
  });

  it('whose root file system was changed on the way is refused', async (t) => {
    const place = await imagePlace(t);
    const { file } = await exported(place);
    await repack(place, file, async (top) => {
      await using rootfs = await open(join(top, 'rootfs.ext4'), 'r+');
      await rootfs.write('x', 1_000_000);
    });
    const refused = { code: 'corrupt', message: /rootfs.ext4: its checksum is \w{64}, image.json says \w{64}/ };
    await assert.rejects(place.import({ source: file, name: 'x' }), refused);
  });

  it('is not written when the image changed since it was made', async (t) => {
    const place = await imagePlace(t);
    const image = await place.import({ name: 'dev' });
    const { rootfs } = imageFiles(place.host.config.paths.store, image.id);
    const file = join(place.dir, 'x.tar.zst');
    // one more block of zeros: every other byte is as it was
    await truncate(rootfs, image.sizeBytes + 4096);
    const refused = { code: 'corrupt', message: /the digest of rootfs.ext4 is another one/ };
    await assert.rejects(exportImage(place.host, 'dev', file, place.progress, signal), refused);
    await assert.rejects(stat(file), { code: 'ENOENT' });
    assert.deepEqual(await place.inStore(), [image.id]);
  });

  it('of a record with the plain sum of an older banger is written, unless it changed', async (t) => {
    const place = await imagePlace(t);
    const image = await place.import({ name: 'dev' });
    const { rootfs } = imageFiles(place.host.config.paths.store, image.id);
    const { sha256 } = await sumFile(rootfs);
    place.database.prepare('UPDATE images SET digest = ?').run(`sha256:${sha256}`);
    const file = join(place.dir, 'x.tar.zst');
    await exportImage(place.host, 'dev', file, place.progress, signal);
    const { digest } = await place.import({ source: file, name: 'again' });
    assert.equal(digest, image.digest);
    await truncate(rootfs, image.sizeBytes + 4096);
    const other = join(place.dir, 'y.tar.zst');
    await assert.rejects(exportImage(place.host, 'dev', other, place.progress, signal), { code: 'corrupt' });
  });

  for (const [what, change, message] of [
    ['another content', (top: string) => writeFile(join(top, 'rootfs.packages'), 'apt 1 amd64\n'), /rootfs.packages: /],
    ['a missing file', (top: string) => rm(join(top, 'initrd.img')), /initrd.img is missing/],
    [
      'a link in a file’s place',
      async (top: string) => {
        await rm(join(top, 'initrd.img'));
        await symlink('vmlinux', join(top, 'initrd.img'));
      },
      /initrd.img is no regular file/,
    ],
    ['a link out', (top: string) => symlink('/etc', join(top, 'etc')), /outside the image/],
    ['a description that is none', (top: string) => writeFile(join(top, 'image.json'), '{"version": 1}'), /"files"/],
    ['a description of rubbish', (top: string) => writeFile(join(top, 'image.json'), '{'), /no JSON/],
    ['a later format', (top: string) => writeFile(join(top, 'image.json'), '{"version": 3}'), /newer banger/],
    ['no description', (top: string) => rm(join(top, 'image.json')), /holds no image.json/],
  ] as const) {
    it(`with ${what} is refused and leaves nothing`, async (t) => {
      const place = await imagePlace(t);
      const { image, file } = await exported(place);
      await repack(place, file, change);
      await assert.rejects(place.import({ source: file, name: 'x' }), message);
      assert.deepEqual(await place.inStore(), [image.id]);
    });
  }

  it('that climbs out is refused before anything is written', async (t) => {
    const place = await imagePlace(t);
    const { file } = await exported(place);
    await writeFile(join(place.dir, 'evil'), 'x');
    await mkdir(join(place.dir, 'dev'));
    await writeFile(join(place.dir, 'dev/image.json'), '{}');
    await rm(file);
    const argv = ['tar', '--create', '--zstd', '-P', '--file', file, 'dev/image.json', 'dev/../evil'] as const;
    await place.host.system.runner.run(argv, { cwd: place.dir });
    await assert.rejects(place.import({ source: file, name: 'x' }), {
      code: 'corrupt',
      message: /leads out of the image/,
    });
  });

  for (const force of [true, false]) {
    it(`does not replace one that got its name meanwhile, with ${force ? '' : 'no '}--force`, async (t) => {
      const place = await imagePlace(t);
      const { host } = place;
      const old = force ? await place.import({ name: 'dev' }) : undefined;
      const golden = await place.import({ name: 'golden' });
      const progress = {
        ...place.progress,
        step(step: string) {
          if (step !== 'check') return;
          if (old) renameImage(host, 'dev', 'before');
          renameImage(host, 'golden', 'dev');
        },
      };
      const request = { source: place.rootfs, name: 'dev', force };
      await assert.rejects(importImage(host, request, progress, signal), {
        code: 'conflict',
        message: /"dev" meanwhile/,
        hint: /--force .*--name/,
      });
      assert.equal(host.stores.images.get('dev').id, golden.id);
      assert.deepEqual(await place.inStore(), [...(old ? [old.id] : []), golden.id].sort());
      await stat(imageFiles(host.config.paths.store, golden.id).rootfs);
    });
  }

  it('that replaces an image leaves its kernel to the VMs that need it', async (t) => {
    const place = await imagePlace(t);
    const { image, file } = await exported(place);
    const vm = sampleVm({ image: 'dev', imageId: image.id });
    place.host.stores.vms.insert(vm);
    const fresh = await place.import({ source: file, force: true });
    assert.notEqual(fresh.id, image.id);
    assert.deepEqual(await place.inStore(), [image.id, fresh.id].sort());
    const old = imageFiles(place.host.config.paths.store, image.id);
    const boot = await findVmBootFiles(place.host, vm);
    assert.equal(boot.kernel, old.kernel);
    await assert.rejects(stat(old.rootfs), { code: 'ENOENT' });
    await sweepImages(place.host);
    await leaveImage(place.host, image.id);
    assert.deepEqual(await place.inStore(), [image.id, fresh.id].sort(), 'still needed');
    place.host.stores.vms.remove(vm.id);
    await leaveImage(place.host, image.id);
    await leaveImage(place.host, fresh.id); // not replaced: it stays without VMs
    assert.deepEqual(await place.inStore(), [fresh.id]);
  });
});
