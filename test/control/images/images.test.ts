import assert from 'node:assert/strict';
import { mkdir, open, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { ImagePrune } from '../../../src/api/image.ts';
import { sumFile } from '../../../src/bundle/store/checksum.ts';
import { cachedSteps } from '../../../src/control/builds/layers.ts';
import { findBootFiles, findVmBootFiles } from '../../../src/control/bundles/boot-files.ts';
import {
  deleteImage,
  diffImages,
  leaveImage,
  renameImage,
  viewImageDetail,
  viewImages,
} from '../../../src/control/images/catalogue.ts';
import { exportImage } from '../../../src/control/images/export.ts';
import { importImage } from '../../../src/control/images/import.ts';
import { pruneImages } from '../../../src/control/images/prune.ts';
import { contentsOf } from '../../../src/control/memory/manifest.ts';
import { pathsOf, wantedTemplate } from '../../../src/control/memory/templates.ts';
import { sweepImages } from '../../../src/control/upkeep/image-sweep.ts';
import { pruneTemplates } from '../../../src/control/warm/view.ts';
import { imageFiles, layerFile } from '../../../src/storage/layout.ts';
import { readBootId } from '../../../src/system/processes.ts';
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

describe('layers that nobody knows of', { skip }, () => {
  it('are removed when a daemon starts; others and strange files stay', async (t) => {
    const { host } = await imagePlace(t);
    const [known = '', unknown = ''] = ['a', 'b'].map((letter) => letter.repeat(64));
    const file = (key: string) => layerFile(host.config.paths.store, key);
    await mkdir(dirname(file(known)), { recursive: true });
    for (const key of [known, unknown, 'mine']) await writeFile(file(key), '');
    host.stores.layers.insert(layer(known, 'dev'));
    await sweepImages(host);
    assert.deepEqual((await readdir(dirname(file(known)))).sort(), [`${known}.ext4`, 'mine.ext4']);
  });
});

describe('a layer', { skip }, () => {
  it('is not begun from after a power cut that may have cut it short', async (t) => {
    const { host } = await imagePlace(t);
    const keys = ['a', 'b', 'c'].map((letter) => letter.repeat(64));
    const file = (key: string) => layerFile(host.config.paths.store, key);
    await mkdir(dirname(file('a')), { recursive: true });
    const boots = [null, await readBootId(), 'an earlier boot'];
    for (const [index, key] of keys.entries()) {
      await writeFile(file(key), '');
      host.stores.layers.insert({ ...layer(key, 'dev'), unsyncedBoot: boots[index] ?? null });
    }
    assert.equal(await cachedSteps(host, { keys }), 2);
    assert.equal(host.stores.layers.find(keys[2] ?? ''), undefined);
    assert.equal(await cachedSteps(host, { keys: keys.slice(0, 1) }), 1);
    host.stores.layers.insert({ ...layer(keys[2] ?? '', 'dev'), unsyncedBoot: 'an earlier boot' });
    host.stores.layers.synced(keys[2] ?? '');
    assert.equal(await cachedSteps(host, { keys }), 3);
  });
});

describe('the image catalogue', { skip }, () => {
  it('takes the VMs and layers of an image along to its new name', async (t) => {
    const place = await imagePlace(t);
    const { host } = place;
    const image = await place.import({ name: 'dev' });
    host.stores.vms.insert(sampleVm({ image: 'dev', imageId: image.id }));
    host.stores.vms.insert(sampleVm({ id: 'b', name: 'bundled', image: 'dev', imageId: null, address: '172.30.0.3' }));
    host.stores.layers.insert(layer('k', 'dev'));
    host.stores.images.insert({ ...host.stores.images.get('dev'), id: 'c', name: 'child', base: 'dev' });
    renameImage(host, 'dev', 'prod');
    assert.equal(host.stores.images.get('child').base, 'prod');
    assert.deepEqual(
      host.stores.vms.list().map(({ name, image }) => [name, image]),
      [
        ['bundled', 'dev'],
        ['web', 'prod'],
      ],
    );
    assert.equal(host.stores.layers.find('k')?.base, 'prod');
    await place.import({ name: 'other' });
    assert.throws(() => renameImage(host, 'prod', 'other'), { code: 'conflict' });
    assert.throws(() => renameImage(host, 'dev', 'x'), { code: 'not_found' });
    assert.equal((await findVmBootFiles(host, host.stores.vms.get('web'))).imageId, image.id);
  });

  it('deletes no image that is needed, and names who needs it', async (t) => {
    const place = await imagePlace(t);
    const { host } = place;
    const { id } = await place.import({ name: 'dev' });
    const vm = sampleVm({ image: 'dev', imageId: id });
    host.stores.vms.insert(vm);
    await assert.rejects(deleteImage(host, 'dev'), { code: 'conflict', message: /1 VM \(web\)/, hint: /rebase web/ });
    host.stores.vms.update(vm.id, { imageId: null });
    const before = { image: 'dev', imageId: id, rootDiskBytes: 1 };
    host.stores.ledger.record(vm.id, {
      kind: 'rebase',
      name: '/x',
      step: 'swapping',
      before,
      imageId: null,
      ran: false,
    });
    await assert.rejects(deleteImage(host, 'dev'), { code: 'conflict', message: /web/ });
    host.stores.ledger.strike('rebase', '/x');
    host.stores.layers.insert(layer('k', 'dev'));
    await assert.rejects(deleteImage(host, 'dev'), { code: 'conflict', message: /1 layer/, hint: /image prune/ });
    host.stores.layers.remove('k');
    const gone = sampleVm({ id: 'dddddddd', name: 'gone', imageId: id });
    host.stores.trash.put(gone, '2026-11-25T00:00:00.000Z');
    await assert.rejects(deleteImage(host, 'dev'), { code: 'conflict', message: /in the trash \(gone\)/ });
    host.stores.trash.remove(gone.id);
    await deleteImage(host, 'dev');
    assert.deepEqual([await viewImages(host), await place.inStore()], [[], []]);
  });

  it('removes at the start of the daemon what no record speaks of, and no work of others', async (t) => {
    const place = await imagePlace(t);
    const { id } = await place.import({ name: 'dev' });
    for (const name of ['0badc0de', '1badc0de.import.part', '2badc0de.export.part', '3badc0de.part', 'notes']) {
      await mkdir(join(place.store, name));
      await writeFile(join(place.store, name, 'rootfs.ext4'), 'x');
    }
    await sweepImages(place.host);
    assert.deepEqual(await place.inStore(), [id, '3badc0de.part', 'notes'].sort());
  });

  it('says what is missing of an image, and makes no VM from it', async (t) => {
    const place = await imagePlace(t);
    const { id } = await place.import({ name: 'dev' });
    const files = imageFiles(place.host.config.paths.store, id);
    await rm(files.kernel);
    assert.match((await viewImages(place.host))[0]?.problem ?? '', /missing: .*vmlinux/);
    await assert.rejects(findBootFiles(place.host, 'dev'), {
      code: 'corrupt',
      message: /kernel of the image dev is gone/,
    });
    await assert.rejects(findVmBootFiles(place.host, sampleVm({ imageId: id })), {
      code: 'corrupt',
      hint: /vm rebase web/,
    });
    await assert.rejects(findBootFiles(place.host, 'nope'), { code: 'not_found', message: /The images are: dev/ });
  });

  it('prunes layers with their files, or only says which', async (t) => {
    const place = await imagePlace(t);
    const { host } = place;
    const { store } = host.config.paths;
    await mkdir(join(store, 'layers'), { recursive: true });
    for (const key of ['a', 'b']) {
      host.stores.layers.insert(layer(key, 'dev'));
      await writeFile(layerFile(store, key), Buffer.alloc(8192, 1));
    }
    const dry = await pruneImages(host, { keepBytes: 10_000, dryRun: true }, place.progress, signal);
    assert.deepEqual([dry.removed.map(({ key }) => key), dry.kept, host.stores.layers.list().length], [['a'], 1, 2]);
    await pruneImages(host, { keepBytes: 10_000 }, place.progress, signal);
    assert.deepEqual(
      host.stores.layers.list().map(({ key }) => key),
      ['b'],
    );
    await assert.rejects(stat(layerFile(store, 'a')), { code: 'ENOENT' });
    const build = Promise.withResolvers<void>();
    const { id } = host.operations.start({ kind: 'image.build', target: 'image dev', run: () => build.promise });
    await assert.rejects(pruneImages(host, { all: true }, place.progress, signal), { code: 'conflict' });
    build.resolve();
    await host.operations.finished(id);
    assert.equal((await pruneImages(host, {}, place.progress, signal)).removed.length, 1);
  });

  it('prunes templates that nothing can start from, and what else is asked for', async (t) => {
    const { host } = await imagePlace(t);
    const boot = await findBootFiles(host, undefined);
    const vm = { vcpus: 1, memoryMib: 256, rootDiskBytes: 4096, workDiskBytes: 0, workDiskMount: '/root', nat: true };
    const wanted = await wantedTemplate(host, vm, boot);
    const keep = async (id: string, usedAt: string) => {
      const record = {
        id,
        image: boot.name,
        ...wanted,
        vmmVersion: '1',
        failedUnits: [],
        bytes: 10,
        createdAt: usedAt,
        usedAt,
      };
      const paths = pathsOf(host, record);
      await mkdir(dirname(paths[0] ?? ''), { recursive: true });
      for (const path of paths) await writeFile(path, 'x');
      host.stores.templates.insert({ ...record, files: await contentsOf(paths) });
      return paths;
    };
    const [memory = ''] = await keep('0000000a', '2026-04-01T00:00:00.000Z');
    await keep('0000000b', '2026-03-01T00:00:00.000Z');
    await keep('0000000c', '2026-04-30T00:00:00.000Z');
    const left = () => host.stores.templates.list().map(({ id }) => id.slice(-1));
    const prune = async (request: ImagePrune) => {
      const { templates, templateBytes } = await pruneTemplates(host, request);
      return [templates, templateBytes];
    };
    assert.deepEqual(await prune({}), [0, 0]);
    await writeFile(memory, 'written since');
    assert.deepEqual(
      [await prune({ dryRun: true }), left()],
      [
        [1, 10],
        ['b', 'a', 'c'],
      ],
    );
    assert.deepEqual(
      [await prune({}), left()],
      [
        [1, 10],
        ['b', 'c'],
      ],
    );
    await assert.rejects(stat(memory), { code: 'ENOENT' });
    assert.deepEqual([await prune({ unusedForMs: 7 * 86_400_000 }), left()], [[1, 10], ['c']]);
    assert.deepEqual([await prune({ all: true }), left()], [[1, 10], []]);
  });
});

function layer(key: string, base: string) {
  const at = '2026-04-01T00:00:00.000Z';
  return {
    key,
    parent: null,
    base,
    step: `step ${key}`,
    sizeBytes: 1,
    createdAt: at,
    usedAt: at,
    machine: null,
    unsyncedBoot: null,
  };
}
