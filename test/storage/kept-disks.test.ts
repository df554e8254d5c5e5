import assert from 'node:assert/strict';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { findKept, forgetShared, keepDisk, listKept, takeKept } from '../../src/storage/kept-disks.ts';
import { tempDir } from '../support/temp-dir.ts';

async function storeWithDisk(t: TestContext) {
  const store = await tempDir(t);
  await mkdir(join(store, 'vms/1'), { recursive: true });
  const work = join(store, 'vms/1/work.ext4');
  await writeFile(work, 'data');
  return { store, work };
}

describe('kept disks', () => {
  it('are none where none was ever kept', async (t) => {
    assert.deepEqual(await listKept(await tempDir(t)), []);
    await forgetShared(await tempDir(t));
  });

  it('belong to their VM until its directory is gone', async (t) => {
    const { store, work } = await storeWithDisk(t);
    const kept = await keepDisk(store, work, 'web');
    assert.deepEqual(await listKept(store), []);
    await rm(work);
    assert.deepEqual(await listKept(store), [kept]);
    assert.equal(await readFile(kept.path, 'utf8'), 'data');
  });

  it('are not kept when the deletion did not happen after all', async (t) => {
    const { store, work } = await storeWithDisk(t);
    const kept = await keepDisk(store, work, 'web');
    await forgetShared(store);
    await assert.rejects(readFile(kept.path), { code: 'ENOENT' });
    assert.equal(await readFile(work, 'utf8'), 'data');
  });

  it('survive the end of a VM that was to get them', async (t) => {
    const { store, work } = await storeWithDisk(t);
    const kept = await keepDisk(store, work, 'web');
    await rm(work);
    await takeKept(kept, work);
    assert.equal(await findKept(store, 'web'), undefined);
    await rm(work);
    await forgetShared(store);
    assert.deepEqual(await findKept(store, 'web'), kept);
  });

  it('are given to one VM alone, and not when they are gone', async (t) => {
    const { store, work } = await storeWithDisk(t);
    const other = join(store, 'vms/other.ext4');
    const kept = await keepDisk(store, work, 'web');
    await rm(work);
    await takeKept(kept, work);
    await assert.rejects(takeKept(kept, other), { code: 'conflict', message: /"web" is taken/, hint: /list --kept/ });
    await assert.rejects(readFile(other), { code: 'ENOENT' });
    await rm(kept.path);
    await assert.rejects(takeKept(kept, other), { code: 'not_found', message: /"web" is gone/, hint: /list --kept/ });
    assert.equal(await readFile(work, 'utf8'), 'data');
  });

  it('get another name where theirs is taken', async (t) => {
    const { store, work } = await storeWithDisk(t);
    assert.equal((await keepDisk(store, work, 'web')).name, 'web');
    await rm(work);
    await writeFile(work, 'more');
    assert.equal((await keepDisk(store, work, 'web')).name, 'web-2');
    await rm(work);
    assert.deepEqual(
      (await listKept(store)).map(({ name }) => name),
      ['web', 'web-2'],
    );
  });
});
