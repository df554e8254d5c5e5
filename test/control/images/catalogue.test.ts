/** Images and layers that are there: what needs them, what they are called, what is removed. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { ImagePrune } from '../../../src/api/image.ts';
import { cachedSteps } from '../../../src/control/builds/layers.ts';
import { findBootFiles, findVmBootFiles } from '../../../src/control/bundles/boot-files.ts';
import { deleteImage, renameImage, viewImages } from '../../../src/control/images/catalogue.ts';
import { holdImage } from '../../../src/control/images/hold.ts';
import { pruneImages } from '../../../src/control/images/prune.ts';
import { contentsOf } from '../../../src/control/memory/manifest.ts';
import { pathsOf, wantedTemplate } from '../../../src/control/memory/templates.ts';
import { sweepImages } from '../../../src/control/upkeep/image-sweep.ts';
import { pruneTemplates } from '../../../src/control/warm/view.ts';
import { imageFiles, layerFile, ociFiles } from '../../../src/storage/layout.ts';
import { readBootId } from '../../../src/system/processes.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { imagePlace } from './image-host.ts';

const skip =
  lacking('mke2fs', 'e2fsck', 'debugfs', 'tar', 'zstd') ||
  (process.arch !== 'x64' && 'the sample kernel is for x86-64');
const signal = new AbortController().signal;

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

  it('leaves an image whole while something is made from it, also one that is replaced', async (t) => {
    const place = await imagePlace(t);
    const { host } = place;
    const old = await place.import({ name: 'dev' });
    const files = imageFiles(host.config.paths.store, old.id);
    const source = await findBootFiles(host, 'dev');
    const [build, creation] = ['the build of app', 'the creation of web'].map((who) => holdImage(host, source, who));
    await assert.rejects(deleteImage(host, 'dev'), {
      code: 'conflict',
      message: /needed by the build of app and the creation of web/,
      hint: /banger operation list/,
    });
    const fresh = await place.import({ name: 'dev', force: true });
    assert.throws(() => holdImage(host, source, 'another build'), { code: 'not_found', message: /replaced meanwhile/ });
    host.stores.vms.insert(sampleVm({ image: 'dev', imageId: old.id }));
    await build?.[Symbol.asyncDispose]();
    for (const path of [files.rootfs, files.kernel]) await stat(path);
    await creation?.[Symbol.asyncDispose]();
    await assert.rejects(stat(files.rootfs), { code: 'ENOENT' });
    await stat(files.kernel);
    await holdImage(host, await findBootFiles(host, 'dev'), 'the build of app')[Symbol.asyncDispose]();
    assert.equal((await viewImages(host))[0]?.problem, null, 'one that has a record stays');
    assert.deepEqual(await place.inStore(), [old.id, fresh.id].sort());
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

  it('leaves layers that builds want while others are pruned', async (t) => {
    const { host, progress } = await imagePlace(t);
    const { store } = host.config.paths;
    await mkdir(join(store, 'layers'), { recursive: true });
    for (const key of ['a', 'b', 'c', 'd']) {
      host.stores.layers.insert(layer(key, 'dev'));
      await writeFile(layerFile(store, key), 'layer');
    }
    const over = Promise.withResolvers<void>();
    const meanwhile: Record<number, () => void> = {
      // one has begun from it and ended, and another begins
      1: () => host.stores.layers.touch('b', '2026-12-01T00:00:00.000Z'),
      3: () => host.operations.start({ kind: 'image.build', target: 'image dev', run: () => over.promise }),
    };
    const report: typeof progress.report = ({ done = 0 }) => meanwhile[done]?.();
    const { removed, kept } = await pruneImages(host, { all: true }, { ...progress, report }, signal);
    over.resolve();
    assert.deepEqual([removed.map(({ key }) => key), kept], [['a', 'c'], 2]);
    assert.deepEqual((await readdir(join(store, 'layers'))).sort(), ['b.ext4', 'd.ext4']);
    assert.deepEqual(
      host.stores.layers.list().map(({ key }) => key),
      ['d', 'b'],
    );
  });

  it('leaves blobs to a pull that begins while others are pruned', async (t) => {
    const { host, progress } = await imagePlace(t);
    const directory = join(ociFiles(host.config.paths.store).blobs, 'sha256');
    await mkdir(directory, { recursive: true });
    const count = 100;
    for (let index = 0; index < count; index++) await writeFile(join(directory, `${index}`), 'blob');
    const over = Promise.withResolvers<void>();
    const pulling = (async () => {
      while (readdirSync(directory).length === count) await setImmediate();
      host.operations.start({ kind: 'image.pull', target: 'image dev', run: () => over.promise });
    })();
    const { blobs } = await pruneImages(host, {}, progress, signal);
    await pulling;
    over.resolve();
    const left = (await readdir(directory)).length;
    assert.equal(left, count - blobs);
    assert.ok(left > 0);
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
