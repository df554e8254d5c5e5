import assert from 'node:assert/strict';
import { readdir, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { cloneFile, requireSpace } from '../../src/storage/clone.ts';
import { allocatedBytes, apparentBytes, growFile } from '../../src/storage/disk.ts';
import { growExt4, makeExt4, readSuperblock } from '../../src/storage/ext4.ts';
import { createRunner } from '../../src/system/runner.ts';
import { MIB } from '../../src/units.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();
const programs = { mke2fs: 'mke2fs', e2fsck: 'e2fsck', resize2fs: 'resize2fs' };

describe('cloneFile', () => {
  it('keeps content and holes', async (t) => {
    const dir = await tempDir(t);
    const source = join(dir, 'source');
    await writeFile(source, 'data');
    await truncate(source, 256 * MIB);
    await cloneFile(runner, 'cp', source, join(dir, 'copy'));
    assert.equal(await apparentBytes(join(dir, 'copy')), 256 * MIB);
    assert.ok((await allocatedBytes(join(dir, 'copy'))) < MIB);
  });

  it('leaves nothing behind when it fails', async (t) => {
    const dir = await tempDir(t);
    await assert.rejects(cloneFile(runner, 'cp', join(dir, 'absent'), join(dir, 'copy')));
    assert.deepEqual(await readdir(dir), []);
  });

  it('refuses a copy that does not fit, before it begins', async (t) => {
    await assert.rejects(requireSpace(await tempDir(t), 2 ** 60, 'a copy'), {
      code: 'host_unprepared',
      message: /no room for a copy: 1048576 TiB needed/,
    });
  });
});

describe('growFile', () => {
  it('grows without taking space and never shortens', async (t) => {
    const path = join(await tempDir(t), 'disk');
    await writeFile(path, 'x'.repeat(1000));
    await growFile(path, 10 * MIB);
    assert.equal(await apparentBytes(path), 10 * MIB);
    await growFile(path, 5);
    assert.equal(await apparentBytes(path), 10 * MIB);
    assert.ok((await stat(path)).blocks * 512 < MIB);
  });
});

describe('ext4 images', () => {
  it('are made small and sparse, and grown to what was asked for', async (t) => {
    const path = join(await tempDir(t), 'work.ext4');
    await makeExt4(runner, programs, path, 64 * MIB, 'work');
    assert.equal((await readSuperblock(path)).bytes, 64 * MIB);
    assert.ok((await allocatedBytes(path)) < 8 * MIB);
    assert.equal(await growExt4(runner, programs, path, 256 * MIB), true);
    assert.equal((await readSuperblock(path)).bytes, 256 * MIB);
    assert.equal(await growExt4(runner, programs, path, 256 * MIB), false);
    await runner.run(['e2fsck', '-f', '-n', path]);
  });

  it('that were only lengthened by an interrupted growth are finished', async (t) => {
    const path = join(await tempDir(t), 'root.ext4');
    await makeExt4(runner, programs, path, 64 * MIB, 'root');
    await growFile(path, 128 * MIB);
    assert.equal(await growExt4(runner, programs, path, 128 * MIB), true);
    assert.equal((await readSuperblock(path)).bytes, 128 * MIB);
  });

  it('that are cut short are refused with both sizes', async (t) => {
    const path = join(await tempDir(t), 'root.ext4');
    await makeExt4(runner, programs, path, 64 * MIB, 'root');
    await truncate(path, 10 * MIB);
    await assert.rejects(readSuperblock(path), { code: 'corrupt', message: /64 MiB, the file only 10 MiB/ });
  });

  it('that are none are refused', async (t) => {
    const path = join(await tempDir(t), 'root.ext4');
    await writeFile(path, Buffer.alloc(4096));
    await assert.rejects(readSuperblock(path), { code: 'corrupt', message: /holds no ext4/ });
  });
});
