import assert from 'node:assert/strict';
import { mkdir, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  listBundles,
  locateBundle,
  openBundle,
  useBundle,
  useFirstBundle,
} from '../../../src/bundle/store/catalogue.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { lacking, sampleBundle } from '../sample-bundle.ts';

describe('the catalog of bundles', { skip: lacking('mke2fs') }, () => {
  it('is empty where there is no directory yet, and says how to make the first', async (t) => {
    const catalog = join(await tempDir(t), 'bundles');
    assert.deepEqual(await listBundles(catalog), []);
    await assert.rejects(locateBundle(catalog), { code: 'not_found', hint: /bundle build/ });
    await assert.rejects(locateBundle(catalog, 'x'), { code: 'not_found', message: /There are none/ });
  });

  it('lists bundles side by side with one default, and broken ones with what is wrong', async (t) => {
    const catalog = await tempDir(t);
    await sampleBundle(join(catalog, 'one'));
    await sampleBundle(join(catalog, 'two'));
    await mkdir(join(catalog, 'broken'));
    await mkdir(join(catalog, '.one.building'));
    await writeFile(join(catalog, 'a-file'), '');
    await useBundle(catalog, 'two');
    const listed = await listBundles(catalog);
    assert.deepEqual(
      listed.map(({ name, isDefault, bundle }) => [name, isDefault, bundle?.manifest.name]),
      [
        ['broken', false, undefined],
        ['one', false, 'sample'],
        ['two', true, 'sample'],
      ],
    );
    assert.match(listed[0]?.problem ?? '', /is no bundle/);
  });

  it('finds a bundle by name, by absolute path, and as the default', async (t) => {
    const catalog = await tempDir(t);
    await sampleBundle(join(catalog, 'one'));
    await sampleBundle(join(catalog, 'two'));
    await useBundle(catalog, 'one');
    assert.equal(await locateBundle(catalog, 'two'), join(catalog, 'two'));
    assert.equal(await locateBundle(catalog), join(catalog, 'one'));
    assert.equal(await locateBundle(catalog, 'default'), join(catalog, 'one'));
    assert.equal(await locateBundle(catalog, '/elsewhere'), '/elsewhere');
    assert.equal((await openBundle(catalog)).dir, join(catalog, 'one'));
    await assert.rejects(locateBundle(catalog, 'three'), { code: 'not_found', message: /There are: one, two/ });
  });

  it('finds a bundle of which a power cut left only what was being replaced', async (t) => {
    const catalog = await tempDir(t);
    await sampleBundle(join(catalog, 'x'));
    await useBundle(catalog, 'x');
    for (const name of [undefined, 'x', join(catalog, 'x')]) {
      await rename(join(catalog, 'x'), join(catalog, '.x.replaced'));
      assert.equal((await openBundle(catalog, name)).dir, join(catalog, 'x'));
    }
  });

  it('changes its default only to a bundle that can be used', async (t) => {
    const catalog = await tempDir(t);
    await sampleBundle(join(catalog, 'one'));
    await mkdir(join(catalog, 'broken'));
    await useBundle(catalog, 'one');
    for (const [name, code] of [
      ['broken', 'not_found'],
      ['gone', 'not_found'],
      ['default', 'invalid_input'],
      ['../one', 'invalid_input'],
    ] as const) {
      await assert.rejects(useBundle(catalog, name), { code }, name);
    }
    assert.equal(await readlink(join(catalog, 'default')), 'one');
  });

  it('takes the first bundle as the default and leaves a later choice alone', async (t) => {
    const catalog = await tempDir(t);
    await sampleBundle(join(catalog, 'one'));
    await sampleBundle(join(catalog, 'two'));
    await useFirstBundle(catalog, 'one');
    await useFirstBundle(catalog, 'two');
    assert.equal(await locateBundle(catalog), join(catalog, 'one'));
    await rm(join(catalog, 'one'), { recursive: true });
    await assert.rejects(locateBundle(catalog), { message: /None of the bundles/, hint: /bundle use two/ });
    await useFirstBundle(catalog, 'two');
    assert.equal(await locateBundle(catalog), join(catalog, 'two'));
  });

  it('does not follow a default link that leads out of it', async (t) => {
    const catalog = await tempDir(t);
    await sampleBundle(join(catalog, 'one'));
    await symlink('../../etc', join(catalog, 'default'));
    await assert.rejects(locateBundle(catalog), { code: 'not_found' });
  });
});
