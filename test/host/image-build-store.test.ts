/** Image builds on a store of their own: layers that share blocks, a store that fills up in the middle. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, rmdir, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ImageBuilt } from '../../src/api/image-build.ts';
import { createRunner } from '../../src/system/runner.ts';
import { MIB } from '../../src/units.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(300_000) };
const BUILD_LIMIT_MS = 240_000;
/** Room for one copy of the root, the memory of a guest, and what three disks differ by, of what an XFS leaves. */
const STORE = '700M';
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('an image build on XFS', { skip: hostSkip('debugfs', 'mkfs.xfs', 'losetup') }, () => {
  let host: TestHost;
  let place: string;
  let store: string;
  let recipe: string;

  before(async () => {
    host = await TestHost.create({ lean: true });
    recipe = join(host.home, 'dev.toml');
    // not below the home, where no mount may be left
    place = await mkdtemp('/tmp/bt-small-');
    store = join(place, 'store');
    const image = join(host.home, 'small.img');
    await runner.run(['truncate', '-s', STORE, image]);
    await runner.run(['mkfs.xfs', '-q', image]);
    await runner.run(['mount', '-o', 'loop', image, place]);
    host.beforeLastLook(async () => {
      await runner.run(['umount', place], { okExits: [0, 32] });
      await rmdir(place);
    });
    host.env.BANGER_PATHS_STORE = store;
    await host.daemon();
  });
  after(() => host[Symbol.asyncDispose]());

  const build = async (last: string) => {
    await writeFile(recipe, `run = ["mkdir -p /opt; echo one > /opt/one", "${last}"]`);
    const ran = await host.run(['image', 'build', recipe, '--json'], { timeoutMs: BUILD_LIMIT_MS });
    assert.equal(ran.status, 0, ran.stderr);
    return JSON.parse(ran.stdout) as ImageBuilt;
  };
  const freeBytes = async () => {
    const { bavail, bsize } = await statfs(place);
    return bavail * bsize;
  };

  it('keeps each step, and all of them take little more than one disk', LIMIT, async () => {
    const first = await build('echo two > /opt/two');
    assert.equal((await readdir(join(store, 'layers'))).length, 2);
    // XFS frees what was deleted a little later
    await until('two layers and an image share their blocks', async () => (await freeBytes()) > 430 * MIB);
    const again = await build('echo two > /opt/two');
    assert.deepEqual([again.built, again.id], [false, first.id]);
    const changed = await build('echo three > /opt/two; sleep 1000 &');
    const done = changed.steps.filter(({ cached }) => !cached).map(({ step }) => step.split(':')[0]);
    assert.deepEqual(done, ['boot', 'run 2', 'keep the layer', 'finish'], 'it waits for nothing in the background');
  });

  it('that fills the store up says so, and leaves it as it was', LIMIT, async () => {
    const hog = join(place, 'hog');
    // as above
    await until('what the last build deleted is free', async () => (await freeBytes()) > 400 * MIB);
    await runner.run(['fallocate', '-l', String((await freeBytes()) - 380 * MIB), hog]);
    const before = await freeBytes();
    const size = ['--size', '2G'];
    const args = ['image', 'build', '--name', 'big', ...size, '--run', 'head -c 900M /dev/zero > /opt/big; sync'];
    const left = (directory: string) => readdir(join(store, directory));
    const there = await Promise.all(['images', 'layers', 'vms'].map(left));
    await host.fails(6, args, [/This host's disk is full: .* left in .*\/store\/vms/, /banger image prune/], {
      timeoutMs: BUILD_LIMIT_MS,
    });
    assert.deepEqual(await Promise.all(['images', 'layers', 'vms'].map(left)), there);
    await until('the space is free again', async () => (await freeBytes()) > before - 10 * MIB);
    await host.assertQuiet('of a build that filled the store up');
    await rm(hog);
  });
});
