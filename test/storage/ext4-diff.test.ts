import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, copyFile, mkdir, open, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { readSuperblock } from '../../src/storage/ext4.ts';
import { diffTrees } from '../../src/storage/ext4-diff.ts';
import { type Ext4Tree, openExt4Tree, type TreeNode } from '../../src/storage/ext4-tree.ts';
import { tempDir } from '../support/temp-dir.ts';

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const NEVER = new AbortController().signal;

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { env: { ...process.env, PATH }, stdio: ['ignore', 'pipe', 'pipe'] }).toString();
}

/** Commands of debugfs on an image. */
function change(image: string, ...commands: string[]): void {
  for (const command of commands) run('debugfs', '-w', '-R', command, image);
}

/** An image of a directory with some of everything. */
async function sample(t: TestContext, ...options: string[]): Promise<{ dir: string; image: string }> {
  const dir = await tempDir(t);
  const tree = join(dir, 'tree');
  await mkdir(join(tree, 'etc/deep/er'), { recursive: true });
  await mkdir(join(tree, 'many'));
  await writeFile(join(tree, 'etc/hosts'), 'a');
  await writeFile(join(tree, 'etc/deep/er/file'), 'b');
  await symlink('hosts', join(tree, 'etc/link'));
  for (let number = 0; number < 600; number++) {
    await writeFile(join(tree, 'many', `a file with a rather long name, so that many blocks are filled ${number}`), '');
  }
  const image = join(dir, 'image');
  const kind = options.includes('-t') ? [] : ['-t', 'ext4'];
  run('mke2fs', '-q', '-F', ...kind, '-d', tree, ...options, image, '16M');
  return { dir, image };
}

async function diff(before: string, after: string, max = 1000) {
  await using left = await openExt4Tree(before);
  await using right = await openExt4Tree(after);
  const { changes, omitted } = await diffTrees(left, right, max, NEVER);
  return { changes: changes.map(({ path, change: what, kind }) => `${what} ${kind} ${path}`), omitted };
}

describe('the difference of two states of a file system', () => {
  for (const [what, options] of [
    ['ext4', []],
    ['ext4 of small blocks and inodes', ['-b', '1024', '-I', '128']],
    ['ext4 without 64 bit', ['-O', '^64bit']],
    ['ext2, whose blocks are in lists', ['-t', 'ext2', '-b', '1024']],
  ] as const) {
    it(`is names of files that were added, removed and changed: ${what}`, async (t) => {
      const { dir, image } = await sample(t, ...options);
      // directories with an index
      run('e2fsck', '-fyD', image);
      const after = join(dir, 'after');
      await copyFile(image, after);
      assert.deepEqual(await diff(image, after), { changes: [], omitted: 0 });
      await writeFile(join(dir, 'new'), 'new');
      change(
        after,
        'rm /etc/deep/er/file',
        'mkdir /etc/made',
        `write ${join(dir, 'new')} /etc/made/inside`,
        'rm /etc/link',
        `write ${join(dir, 'new')} /etc/link`,
        'sif /etc/hosts mode 0100600',
        'rm "/many/a file with a rather long name, so that many blocks are filled 577"',
        `write ${join(dir, 'new')} /etc/f\\303\\244hr`,
      );
      const { changes } = await diff(image, after);
      assert.deepEqual(
        changes.filter((line) => !line.includes('303')),
        [
          'removed file /etc/deep/er/file',
          'changed file /etc/hosts',
          'removed link /etc/link',
          'added file /etc/link',
          'added directory /etc/made',
          'added file /etc/made/inside',
          'removed file /many/a file with a rather long name, so that many blocks are filled 577',
        ],
      );
      assert.equal((await diff(after, image, 2)).omitted, changes.length - 2);
    });
  }

  it('is told of everything in a directory that is gone, and of owners and modes of one that stays', async (t) => {
    const { dir, image } = await sample(t);
    const after = join(dir, 'after');
    await copyFile(image, after);
    change(after, 'unlink /etc/deep', 'sif /many uid 7');
    assert.deepEqual((await diff(image, after)).changes, [
      'removed directory /etc/deep',
      'removed directory /etc/deep/er',
      'removed file /etc/deep/er/file',
      'changed directory /many',
    ]);
  });

  it('ends when it is called off', async (t) => {
    const { image } = await sample(t);
    await using left = await openExt4Tree(image);
    await using right = await openExt4Tree(image);
    await assert.rejects(diffTrees(left, right, 1, AbortSignal.abort(new Error('off'))), /off/);
  });
});

describe('a file system that is not what it says', () => {
  it('is refused where a directory is in itself, or in two places', async (t) => {
    const { image } = await sample(t);
    change(image, 'link /etc /etc/deep/loop');
    await assert.rejects(diff(image, image), { code: 'corrupt', message: /in more than one place/ });
  });

  it('is refused with a journal that was not written back, and without a file system', async (t) => {
    const { dir, image } = await sample(t);
    await using file = await open(image, 'r+');
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 1024 + 0x60);
    buffer.writeUInt32LE(buffer.readUInt32LE(0) | 4, 0);
    await file.write(buffer, 0, 4, 1024 + 0x60);
    await assert.rejects(openExt4Tree(image), { code: 'corrupt', message: /its journal was not written back/ });
    await writeFile(join(dir, 'empty'), '');
    await assert.rejects(openExt4Tree(join(dir, 'empty')), { code: 'corrupt', message: /holds no ext4/ });
  });

  it('is refused where more is in one directory than can be held, or in and above one', async (t) => {
    const { image } = await sample(t);
    await using left = await openExt4Tree(image, 500);
    await using right = await openExt4Tree(image);
    const refusal = { code: 'corrupt', message: /has more than is compared: more than 500 names in one directory/ };
    await assert.rejects(diffTrees(left, right, 10, NEVER), refusal);
    // a directory in a directory, each with as many names as one may have
    const file: TreeNode = { inode: 9, kind: 'file', mark: '' };
    const names = Array.from({ length: 200_000 }, (_, number): [string, TreeNode] => [`${number}`, file]);
    const below: TreeNode = { inode: 8, kind: 'directory', mark: '' };
    const deep = (): Ext4Tree => ({
      root: below,
      entries: async () => new Map([['0', below], ...names.slice(1)]),
      [Symbol.asyncDispose]: async () => {},
    });
    await assert.rejects(diffTrees(deep(), deep(), 10, NEVER), { code: 'corrupt', message: /More names than/ });
  });

  it('is refused with maps that have nothing in them, and with one map for many', async (t) => {
    const dir = await tempDir(t);
    const tree = join(dir, 'tree');
    for (let number = 0; number < 400; number++) await mkdir(join(tree, `${number}`), { recursive: true });
    const image = join(dir, 'image');
    run('mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-I', '128', '-N', '512', '-d', tree, image, '1M');
    await using names = await openExt4Tree(image);
    const inodes = [...(await names.entries(names.root)).values()].map(({ inode }) => inode);
    await using file = await open(image, 'r+');
    // the first descriptor stands in the third block, and says where the inodes are
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 2048 + 8);
    const at = (inode: number) => buffer.readUInt32LE(0) * 1024 + (inode - 1) * 128 + 0x28;
    const [first = 0] = inodes;
    const { buffer: map } = await file.read(Buffer.alloc(60), 0, 60, at(first));
    const empty = Buffer.from(map);
    empty.writeUInt16LE(0, 12 + 4);
    await file.write(empty, 0, 60, at(first));
    await assert.rejects(diff(image, image), { code: 'corrupt', message: /a map of extents has one of no length/ });
    // four blocks at the end of the file system are parts of one map, each of which has the directory's one block
    const blocks = [1000, 1001, 1002, 1003];
    for (const block of blocks) await file.write(map, 0, 60, block * 1024);
    const shared = Buffer.alloc(60);
    map.copy(shared, 0, 0, 12);
    shared.writeUInt16LE(blocks.length, 2);
    shared.writeUInt16LE(1, 6);
    for (const [index, block] of blocks.entries()) shared.writeUInt32LE(block, 12 + index * 12 + 4);
    for (const inode of inodes) await file.write(shared, 0, 60, at(inode));
    await assert.rejects(diff(image, image), { code: 'corrupt', message: /files of it have the same map/ });
  });

  it('is compared as far as paths go', async () => {
    const name = 'n'.repeat(255);
    let made = 0;
    const tree = (mark: string): Ext4Tree => ({
      root: { inode: 1, kind: 'directory', mark: '' },
      entries: async () => {
        made += 1;
        return new Map([[name, { inode: made, kind: 'directory', mark }]]);
      },
      [Symbol.asyncDispose]: async () => {},
    });
    const { changes, omitted } = await diffTrees(tree('a'), tree('b'), 10_000, NEVER);
    assert.deepEqual([changes.length, omitted], [16, 1]);
    assert.ok(changes.every(({ path }) => path.length <= 4096));
  });

  it('is refused with numbers that no file system has', async (t) => {
    const { dir, image } = await sample(t, '-O', '64bit');
    const set = async (name: string, at: number, bytes: Buffer) => {
      const changed = join(dir, name);
      await copyFile(image, changed);
      await using file = await open(changed, 'r+');
      await file.write(bytes, 0, bytes.length, at);
      return changed;
    };
    // blocks of 2^1034 bytes, of which there are none
    const large = await set('large', 1024 + 0x18, Buffer.from([0xff, 3, 0, 0]));
    await assert.rejects(openExt4Tree(large), { code: 'corrupt', message: /contradicts itself/ });
    await assert.rejects(readSuperblock(large), { code: 'corrupt', message: /contradicts itself/ });
    // a table of inodes beyond every file
    const [, block = '1024'] = /^Block size: +(\d+)$/m.exec(run('dumpe2fs', '-h', image)) ?? [];
    const descriptors = Math.max(2048, Number(block));
    const far = await set('far', descriptors + 0x28, Buffer.alloc(4, 0xff));
    await assert.rejects(openExt4Tree(far), { code: 'corrupt', message: /beyond its end|cut short/ });
  });

  it('is refused or compared whatever is in its place, and never hangs', { timeout: 120_000 }, async (t) => {
    const { dir, image } = await sample(t, '-b', '1024');
    await chmod(image, 0o600);
    const fuzzed = join(dir, 'fuzzed');
    let seed = 1;
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    // where the tables are, and the blocks of directories behind them
    const METADATA_BYTES = 4 * 2 ** 20;
    let refused = 0;
    for (let round = 0; round < 60; round++) {
      await copyFile(image, fuzzed);
      {
        await using file = await open(fuzzed, 'r+');
        for (let count = 0; count < 200; count++) {
          const value = Buffer.alloc(1 + random(4), [0, 0xff, random(256)][random(3)] ?? 0);
          const at = round % 3 === 0 ? 1024 + random(1024) : random(METADATA_BYTES);
          await file.write(value, 0, value.length, at);
        }
      }
      try {
        await diff(image, fuzzed, 10);
      } catch (error) {
        assert.ok(error instanceof BangerError && error.code === 'corrupt', String(error));
        refused += 1;
      }
    }
    assert.ok(refused > 10, `${refused} were refused`);
  });
});
