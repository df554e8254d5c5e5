import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { enterState, movePlaces, recoverStore, type StoreHost, storeImage } from '../../../src/control/store/image.ts';
import { openDatabase } from '../../../src/state/database.ts';
import type { StoreImageState } from '../../../src/state/ledger.ts';
import { createStores } from '../../../src/state/stores.ts';
import { spaceOf } from '../../../src/storage/file-system.ts';
import {
  isMountPoint,
  loopDeviceOf,
  makeStoreImage,
  mountStoreImage,
  unmountStoreImage,
} from '../../../src/storage/store-image.ts';
import { MIB } from '../../../src/units.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { hostSystem } from '../../support/host-system.ts';

process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const system = hostSystem();
const { privileged, runner } = system;

function skip(): string | false {
  if (process.getuid?.() !== 0) return 'mounts need root';
  if (!existsSync('/dev/loop-control')) return 'there is no /dev/loop-control';
  return lacking('mkfs.xfs', 'xfs_growfs', 'losetup', 'mount');
}

/** A store with one file in its plain directory, and an image with the same file, mounted nowhere. */
async function setUp(t: TestContext) {
  const dir = await mkdtemp('/tmp/banger-test-');
  const store = join(dir, 'store');
  const image = join(dir, 'store.xfs');
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  // recovery reads nothing of the configuration but this path
  const config = { paths: { store } } as StoreHost['config'];
  const host: StoreHost = { config, stores: createStores(openDatabase(':memory:')), system, log };
  const places = movePlaces(host);
  t.after(async () => {
    for (const point of [store, places.filling]) await unmountStoreImage(privileged, point);
    await rm(dir, { recursive: true });
  });
  await mkdir(store);
  await writeFile(join(store, 'disk'), 'plain');
  await makeStoreImage(runner, image, 320 * MIB, { uid: 0, gid: 0 });
  await mkdir(places.filling);
  await mountStoreImage(privileged, image, places.filling);
  await writeFile(join(places.filling, 'disk'), 'in the image');
  return { dir, host, image, places };
}

type Made = Awaited<ReturnType<typeof setUp>>;

const unmountFilling = async ({ places }: Made) => {
  await unmountStoreImage(privileged, places.filling);
  await rmdir(places.filling);
};
const putAside = async (made: Made) => {
  await unmountFilling(made);
  await rename(made.places.store, made.places.before);
};
const mountStore = async (made: Made) => {
  await putAside(made);
  await mkdir(made.places.store);
  await mountStoreImage(privileged, made.image, made.places.store);
};
const useImage = async (made: Made) => {
  await mountStore(made);
  await rm(made.places.before, { recursive: true });
};
const unmountStore = async (made: Made) => {
  await useImage(made);
  await unmountStoreImage(privileged, made.places.store);
};
const copyOut = async (made: Made) => {
  await mkdir(made.places.emptying);
  await writeFile(join(made.places.emptying, 'disk'), 'out again');
};

/** State in the ledger, how far the host had come, and what the store must hold in the end. */
const CRASHES: [state: StoreImageState, when: string, reached: (made: Made) => Promise<void>, holds: string][] = [
  ['filling', 'before anything was mounted', unmountFilling, 'plain'],
  ['filling', 'while the image was filled', async () => {}, 'plain'],
  ['switching', 'at its beginning', async () => {}, 'in the image'],
  ['switching', 'when the image was unmounted', unmountFilling, 'in the image'],
  ['switching', 'when the directory was put aside', putAside, 'in the image'],
  ['switching', 'when the image was mounted', mountStore, 'in the image'],
  ['mounted', 'while the old directory was deleted', mountStore, 'in the image'],
  ['mounted', 'and the host was restarted', unmountStore, 'in the image'],
  ['growing', 'and the host was restarted', unmountStore, 'in the image'],
  ['growing', 'when the file was larger', useImage, 'in the image'],
  [
    'emptying',
    'in the middle of the copy',
    async (made) => {
      await useImage(made);
      await copyOut(made);
    },
    'in the image',
  ],
  [
    'switching-back',
    'at its beginning',
    async (made) => {
      await useImage(made);
      await copyOut(made);
    },
    'out again',
  ],
  [
    'switching-back',
    'when the image was unmounted',
    async (made) => {
      await unmountStore(made);
      await copyOut(made);
    },
    'out again',
  ],
  [
    'switching-back',
    'when the directory was back',
    async (made) => {
      await unmountStore(made);
      await rmdir(made.places.store);
      await copyOut(made);
      await rename(made.places.emptying, made.places.store);
    },
    'out again',
  ],
];

describe('a store whose daemon died', { skip: skip() }, () => {
  for (const [state, when, reached, holds] of CRASHES) {
    it(`${state} ${when} is where it belongs, twice`, async (t) => {
      const made = await setUp(t);
      const { host, image, places, dir } = made;
      await reached(made);
      enterState(host, image, state);
      if (state === 'growing') await runner.run(['truncate', '-s', '500M', image]);
      for (let time = 0; time < 2; time++) await recoverStore(host);
      assert.equal(await readFile(join(places.store, 'disk'), 'utf8'), holds);
      const inImage = holds === 'in the image';
      assert.equal(await isMountPoint(places.store), inImage);
      assert.deepEqual((await readdir(dir)).sort(), inImage ? ['store', 'store.xfs'] : ['store']);
      assert.equal(storeImage(host)?.state, inImage ? 'mounted' : undefined);
      if (state === 'growing') assert.ok((await spaceOf(places.store)).sizeBytes > 400 * MIB);
      if (inImage) assert.match((await loopDeviceOf(image)) ?? '', /loop/);
    });
  }

  it('is not guessed at when the image is gone', async (t) => {
    const made = await setUp(t);
    await unmountStore(made);
    enterState(made.host, made.image, 'mounted');
    await rename(made.image, `${made.image}.away`);
    await assert.rejects(recoverStore(made.host), { code: 'host_unprepared', message: /store\.xfs, which could not/ });
    assert.equal(storeImage(made.host)?.state, 'mounted');
    await rename(`${made.image}.away`, made.image);
    await recoverStore(made.host);
    assert.equal(await readFile(join(made.places.store, 'disk'), 'utf8'), 'in the image');
  });
});
