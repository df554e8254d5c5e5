/** File systems as archives: the same whatever their blocks are, and what a guest may have written into one. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir, open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { archiveOf } from '../../../src/control/images/root-archive.ts';
import { storedPieces } from '../../../src/storage/ext4-files.ts';
import { Ext4Reader } from '../../../src/storage/ext4-reader.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { tempDir } from '../../support/temp-dir.ts';

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const MIB = 1024 * 1024;
const signal = new AbortController().signal;
const skip = lacking('mke2fs', 'debugfs');

function run(program: string, ...args: string[]): string {
  // of the root directory, which mke2fs makes
  const env = { ...process.env, PATH, E2FSPROGS_FAKE_TIME: '1700000000' };
  return execFileSync(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] }).toString();
}

async function treeIn(t: TestContext): Promise<{ dir: string; tree: string }> {
  const dir = await tempDir(t);
  const tree = join(dir, 'tree');
  await mkdir(join(tree, 'etc'), { recursive: true });
  return { dir, tree };
}

function imageOf(dir: string, tree: string, ...options: string[]): string {
  const image = join(dir, `image${options.join('')}`);
  run('mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, ...options, image, '32M');
  return image;
}

async function sumOf(image: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const bytes of archiveOf(image, signal)) hash.update(bytes);
  return hash.digest('hex');
}

/** Offset of an inode, in the first group of a file system with blocks of 4 KiB. */
function inodeAt(image: string, path: string): number {
  const [, inode = ''] = /^Inode: (\d+)/.exec(run('debugfs', '-R', `stat ${path}`, image)) ?? [];
  return readFileSync(image).readUInt32LE(4096 + 8) * 4096 + (Number(inode) - 1) * 256;
}

describe('a file system as an archive', { skip }, () => {
  it('is the same whatever the size of its blocks, also of files with holes', async (t) => {
    const { dir, tree } = await treeIn(t);
    for (const [name, size] of [
      ['holes', 5 * MIB + 700],
      ['small-holes', 100_000],
    ] as const) {
      await using file = await open(join(tree, name), 'w');
      // a kibibyte here and there, which is a block of one file system and a quarter of another's
      for (const at of [1024, 3072, 40_960, 50_000, size - 300]) await file.write(Buffer.alloc(300, 'd'), 0, 300, at);
      await truncate(join(tree, name), size);
    }
    await writeFile(join(tree, 'etc/plain'), 'p'.repeat(9000));
    const sums = await Promise.all(
      [
        ['-b', '1024'],
        ['-b', '2048'],
        ['-b', '4096'],
      ].map((of) => sumOf(imageOf(dir, tree, ...of))),
    );
    assert.equal(new Set(sums).size, 1, sums.join('\n'));
  });

  it('is refused where a name leads elsewhere', async (t) => {
    const { dir, tree } = await treeIn(t);
    await writeFile(join(tree, 'etc/a-b-c-d'), 'x');
    for (const name of ['../../x', 'a-b/c-d', 'a-b\0c-d']) {
      const image = imageOf(dir, tree, '-b', '4096');
      const bytes = readFileSync(image);
      bytes.write(name, bytes.indexOf('a-b-c-d'), 'latin1');
      writeFileSync(image, bytes);
      await assert.rejects(sumOf(image), { code: 'corrupt', message: /name with a slash or a zero byte/ });
    }
  });

  it('is refused where files have more data together than there are blocks', async (t) => {
    const { dir, tree } = await treeIn(t);
    for (const name of ['one', 'two', 'three', 'four'])
      await writeFile(join(tree, name), name === 'one' ? Buffer.alloc(12 * MIB, 'o') : 'x');
    const image = imageOf(dir, tree, '-b', '4096');
    await sumOf(image);
    const bytes = readFileSync(image);
    const one = inodeAt(image, '/one');
    for (const name of ['two', 'three', 'four']) {
      const at = inodeAt(image, `/${name}`);
      bytes.copy(bytes, at + 0x04, one + 0x04, one + 0x08);
      bytes.copy(bytes, at + 0x28, one + 0x28, one + 0x28 + 60);
    }
    writeFileSync(image, bytes);
    await assert.rejects(sumOf(image), { code: 'corrupt', message: /larger together than it is/ });
  });

  it('holds no more parts of a file at once than are allowed', async (t) => {
    const { dir, tree } = await treeIn(t);
    await using file = await open(join(tree, 'parts'), 'w');
    for (const block of [0, 2, 4]) await file.write(Buffer.alloc(4096, 'd'), 0, 4096, block * 4096);
    const image = imageOf(dir, tree, '-b', '4096');
    const [, inode = ''] = /^Inode: (\d+)/.exec(run('debugfs', '-R', 'stat /parts', image)) ?? [];
    await using reader = await Ext4Reader.open(image);
    assert.equal((await storedPieces(reader, Number(inode), 5 * 4096)).length, 3);
    await assert.rejects(storedPieces(reader, Number(inode), 5 * 4096, 2), {
      code: 'corrupt',
      message: /more than 2 parts/,
    });
  });
});
