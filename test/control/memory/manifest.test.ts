import assert from 'node:assert/strict';
import { linkSync, mkdirSync, renameSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  changedSince,
  identitiesOf,
  identityOf,
  readManifest,
  writeManifest,
} from '../../../src/control/memory/manifest.ts';
import { memoryFiles } from '../../../src/storage/layout.ts';
import { tempDir } from '../../support/temp-dir.ts';

describe('disks that memory belongs to', () => {
  const ways: [what: string, change: (path: string) => void][] = [
    ['written', (path) => writeFileSync(path, 'b')],
    ['longer', (path) => writeFileSync(path, 'aa')],
    [
      'replaced',
      (path) => {
        renameSync(path, `${path}.old`);
        writeFileSync(path, 'a');
      },
    ],
    ['gone', (path) => rmSync(path)],
    ['linked', (path) => linkSync(path, `${path}.link`)],
    [
      'written, with its time put back',
      (path) => {
        const { atime, mtime } = statSync(path);
        writeFileSync(path, 'b');
        utimesSync(path, atime, mtime);
      },
    ],
  ];
  for (const [what, change] of ways) {
    it(`are told apart when one is ${what}`, async (t) => {
      const dir = await tempDir(t);
      const paths = { 'root disk': join(dir, 'root'), 'work disk': join(dir, 'work') };
      for (const path of Object.values(paths)) writeFileSync(path, 'a');
      const then = await identitiesOf(paths);
      assert.deepEqual(await changedSince(then, paths), []);
      await new Promise((resolve) => setTimeout(resolve, 10)); // times of files are counted in ticks of the kernel
      change(paths['work disk']);
      assert.deepEqual(await changedSince(then, paths), ['work disk']);
    });
  }

  it('are the same disks: one more or less is a change', async (t) => {
    const dir = await tempDir(t);
    const [root, work] = [join(dir, 'root'), join(dir, 'work')];
    for (const path of [root, work]) writeFileSync(path, 'a');
    const then = await identitiesOf({ root });
    assert.deepEqual(await changedSince(then, { root, work }), ['work']);
    assert.deepEqual(await changedSince(await identitiesOf({ root, work }), { root }), ['work']);
  });

  it('are not taken for changed ones where that cannot be seen', async (t) => {
    const root = join(await tempDir(t), 'root');
    writeFileSync(root, 'a');
    const then = await identitiesOf({ root });
    rmSync(root);
    symlinkSync(root, root);
    await assert.rejects(changedSince(then, { root }), { code: 'ELOOP' });
  });
});

describe('a manifest', () => {
  it('is read again, and is that of one memory', async (t) => {
    const files = memoryFiles(await tempDir(t), '5f3a9c01');
    mkdirSync(files.directory, { recursive: true });
    await assert.rejects(readManifest(files, 'a'), { code: 'corrupt', message: /is gone, or without its manifest/ });
    writeFileSync(files.memory, 'm');
    const memory = await identityOf(files.memory);
    const file = { path: '/k', size: 1, modifiedAt: '' };
    await writeManifest(files, {
      ...{
        format: 1,
        id: 'a',
        at: '2026-11-29T00:00:00.000Z',
        address: '172.30.0.2',
        waker: 'agent',
        vmmVersion: '1.16.1',
      },
      fit: {
        ...{ vmm: 'fcqemu', acceleration: 'tcg', program: '7', processor: null, hostKernel: null, tscMhz: 1 },
        ...{ kernel: file, initrd: null, vcpus: 1, memoryMib: 64 },
      },
      ...{ disks: {}, memory, state: memory },
    });
    assert.deepEqual((await readManifest(files, 'a')).memory, memory);
    assert.equal(statSync(files.manifest).mode & 0o777, 0o600);
    await assert.rejects(readManifest(files, 'b'), { code: 'corrupt', message: /its manifest is another/ });
    writeFileSync(files.manifest, '{"format":1,');
    await assert.rejects(readManifest(files, 'a'), { code: 'corrupt' });
  });
});
