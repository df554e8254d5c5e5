/** A stranger's recipe reads its own directory, and nothing else of the host. */
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { checkRecipe } from '../../src/image/recipe.ts';
import { outsideNames } from '../../src/image/recipe-wall.ts';
import { readScript, snapshotFiles, snapshotTree } from '../../src/image/snapshot.ts';
import { tempDir } from '../support/temp-dir.ts';

async function place(t: TestContext) {
  const dir = await tempDir(t);
  const base = join(dir, 'recipe');
  await mkdir(join(base, 'conf'), { recursive: true });
  await mkdir(join(dir, 'secrets'));
  await writeFile(join(dir, 'secrets/shadow'), 'root:secret');
  await writeFile(join(base, 'motd'), 'hello');
  await symlink(join(dir, 'secrets/shadow'), join(base, 'conf/innocent'));
  await symlink('../secrets', join(base, 'dir'));
  await symlink('motd', join(base, 'inside'));
  return { dir, base };
}

const OUTSIDE = [
  '../secrets/shadow',
  'conf/innocent',
  'dir/shadow',
  'dir',
  'conf/*',
  '../*/shadow',
  'dir/sh*',
  '/etc/pass*',
];

describe('what a recipe names', () => {
  it('is told when it lies outside, whichever key names it and however', async (t) => {
    const { base } = await place(t);
    const outside = (raw: object) => outsideNames(checkRecipe({ name: 'x', ...raw }, 'x.toml'), base);
    for (const name of [...OUTSIDE, '/etc/passwd', '../missing']) {
      const file = { source: name, target: '/etc/x' };
      for (const raw of [
        { files: [file] },
        { package_files: [name] },
        { extra_modules: [name] },
        { run: [{ script: name }] },
        { work_disk_seed: name },
      ]) {
        assert.deepEqual(await outside(raw), [name], JSON.stringify(raw));
      }
    }
    for (const transport of ['oci', 'oci-archive', 'docker-archive']) {
      for (const name of ['../secrets/shadow', 'conf/innocent', 'dir']) {
        assert.deepEqual(await outside({ base: `${transport}:${name}` }), [name]);
        assert.deepEqual(await outside({ base: `${transport}:${name}:tag` }), [name]);
      }
      assert.deepEqual(await outside({ base: `${transport}:motd` }), []);
    }
    assert.deepEqual(await outside({ base: 'docker.io/library/alpine:3.20' }), []);
    for (const name of ['motd', './conf/../motd', 'inside', 'in*', 'missing', join(base, 'motd')]) {
      assert.deepEqual(await outside({ files: [{ source: name, target: '/etc/x' }] }), [], name);
    }
  });

  it('is not read when it lies outside, also when it was inside at the first look', async (t) => {
    const { dir, base } = await place(t);
    const options = { base, target: join(dir, 'copies'), within: base };
    const refused = { code: 'invalid_input', message: /outside its directory/ };
    for (const source of OUTSIDE) {
      const entry = { source, target: '/etc/x', owner: 'root:root' };
      await assert.rejects(snapshotFiles([entry], options), refused, source);
    }
    await assert.rejects(snapshotTree('dir', '/root', options), refused);
    await assert.rejects(readScript('conf/innocent', base, base), refused);
    const { items } = await snapshotFiles([{ source: 'inside', target: '/etc/motd', owner: 'root:root' }], options);
    assert.deepEqual(
      items.map(({ path, kind, size }) => [path, kind, size]),
      [['etc/motd', 'file', 5]],
    );
  });

  it('stays a link inside a directory that is copied', async (t) => {
    const { dir, base } = await place(t);
    const options = { base, target: join(dir, 'copies'), within: base };
    const { items } = await snapshotFiles([{ source: 'conf', target: '/etc/x', owner: 'root:root' }], options);
    assert.deepEqual(
      items.map(({ path, kind }) => [path, kind]),
      [
        ['etc/x', 'directory'],
        ['etc/x/innocent', 'link'],
      ],
    );
  });
});
