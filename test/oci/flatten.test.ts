/** Layers become a tree, and the tree a file system that e2fsck has nothing to say about. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { appendFile, open, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { FileNode } from '../../src/core/file-tree.ts';
import { BangerError } from '../../src/errors.ts';
import { copyData, mergeLayers } from '../../src/oci/flatten.ts';
import type { LayerBlob } from '../../src/oci/layer-stream.ts';
import { LayerMerge, lookUp } from '../../src/oci/merge.ts';
import { treeLimits } from '../../src/oci/tree-limits.ts';
import { Ext4Writer, mke2fsOptions, sizeOfTree } from '../../src/storage/ext4-writer.ts';
import { type RawEntry, rawTar, sha256 } from '../support/oci-image.ts';
import { tempDir } from '../support/temp-dir.ts';
import { turnsDuring } from '../support/turns.ts';

const LIMITS = { ...treeLimits(2 ** 31), bytes: 2 ** 32 };
const OPTIONS = { signal: new AbortController().signal, limits: LIMITS };
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

async function blobsOf(dir: string, layers: readonly Buffer[]): Promise<LayerBlob[]> {
  return await Promise.all(
    layers.map(async (tar, index) => {
      const packed = index % 2 === 0 ? gzipSync(tar) : tar;
      const path = join(dir, `layer${index}`);
      await writeFile(path, packed);
      return { path, digest: sha256(packed), diffId: sha256(tar), size: packed.length };
    }),
  );
}

async function treeOf(t: TestContext, ...layers: RawEntry[][]): Promise<FileNode> {
  return await mergeLayers(await blobsOf(await tempDir(t), layers.map(rawTar)), OPTIONS);
}

/** Every path of a tree, directories with a slash. */
function paths(root: FileNode, above = ''): string[] {
  return [...(root.children ?? [])].flatMap(([name, node]) =>
    node.children ? [`${above}${name}/`, ...paths(node, `${above}${name}/`)] : [`${above}${name}`],
  );
}

const dir = (path: string, more: Partial<RawEntry> = {}): RawEntry => ({ path, type: '5', mode: 0o755, ...more });

describe('layers over each other', () => {
  it('a whiteout takes away what is below, and nothing of its own layer', async (t) => {
    const root = await treeOf(
      t,
      [dir('a/'), { path: 'a/one' }, { path: 'a/two' }, dir('b/'), { path: 'b/deep' }, { path: 'top' }],
      [{ path: 'a/.wh.one' }, { path: '.wh.b' }, { path: 'top', data: 'new' }, { path: '.wh.top' }],
    );
    assert.deepEqual(paths(root), ['a/', 'a/two', 'top']);
    assert.equal(lookUp(root, '/top')?.size, 3);
  });

  it('an opaque directory hides what is below wherever it stands in its layer', async (t) => {
    const below = [dir('d/'), { path: 'd/old' }, dir('d/sub/'), { path: 'd/sub/old' }];
    const before = [dir('d/'), { path: 'd/.wh..wh..opq' }, { path: 'd/new' }];
    const after = [dir('d/'), dir('d/sub/'), { path: 'd/sub/new' }, { path: 'd/.wh..wh..opq' }];
    assert.deepEqual(paths(await treeOf(t, below, before)), ['d/', 'd/new']);
    assert.deepEqual(paths(await treeOf(t, below, after)), ['d/', 'd/sub/', 'd/sub/new']);
  });

  it('paths that lead outside end inside', async (t) => {
    const root = await treeOf(t, [
      { path: '../../etc/passwd' },
      { path: '/abs' },
      { path: 'out', type: '2', target: '/../../tmp' },
      dir('tmp/'),
      { path: 'out/file' },
    ]);
    assert.deepEqual(paths(root), ['etc/', 'etc/passwd', 'abs', 'out', 'tmp/', 'tmp/file']);
  });

  it('a hard link is the same file, also across layers; one to nothing is refused', async (t) => {
    const root = await treeOf(
      t,
      [{ path: 'a', data: 'x' }],
      [{ path: 'b', type: '1', target: 'a' }, { path: '.wh.a' }],
    );
    assert.deepEqual(paths(root), ['b']);
    assert.equal(lookUp(root, 'b')?.size, 1);
    await assert.rejects(treeOf(t, [{ path: 'b', type: '1', target: '../none' }]), /hard link to "..\/none"/);
    await assert.rejects(treeOf(t, [dir('d/'), { path: 'b', type: '1', target: 'd' }]), /hard link to the directory/);
  });

  it('links in a circle are refused where something is to be put behind them', async (t) => {
    const circle = [
      { path: 'a', type: '2', target: 'b' },
      { path: 'b', type: '2', target: 'a' },
    ];
    assert.deepEqual(paths(await treeOf(t, circle)), ['a', 'b']);
    await assert.rejects(treeOf(t, [...circle, { path: 'a/x' }]), /leads nowhere/);
  });

  it('of entries with one name the last counts, and PAX records tell more than a header can', async (t) => {
    const pax = { path: `${'l'.repeat(200)}`, uid: '70000', mtime: '1700000000.5', 'SCHILY.xattr.user.k': 'v' };
    const root = await treeOf(t, [
      { path: 'x', data: 'one' },
      dir('x/'),
      { path: 'x', data: '22' },
      { path: 's', pax },
    ]);
    assert.deepEqual(paths(root), ['x', 'l'.repeat(200)]);
    const long = lookUp(root, 'l'.repeat(200));
    assert.deepEqual([long?.uid, long?.mtime, long?.xattrs?.get('user.k')?.toString()], [70_000, 1_700_000_000.5, 'v']);
  });
});

describe('layers that are not what they should be', () => {
  const good = rawTar([{ path: 'file', data: 'x'.repeat(100_000) }]);
  const mergeOf = async (t: TestContext, change: (blob: LayerBlob) => Promise<LayerBlob | undefined>) => {
    const [blob] = (await blobsOf(await tempDir(t), [good])) as [LayerBlob];
    return await mergeLayers([(await change(blob)) ?? blob], OPTIONS);
  };

  it('a wrong digest of either kind, a cut and a flipped bit are noticed', async (t) => {
    const corrupt = (pattern: RegExp) => (error: unknown) =>
      error instanceof BangerError && error.code === 'corrupt' && pattern.test(error.message);
    const zeros = `sha256:${'0'.repeat(64)}`;
    await assert.rejects(
      mergeOf(t, async (blob) => ({ ...blob, digest: zeros })),
      corrupt(/not what its digest says/),
    );
    await assert.rejects(
      mergeOf(t, async (blob) => ({ ...blob, diffId: zeros })),
      corrupt(/unpacks to something else/),
    );
    await assert.rejects(
      mergeOf(t, async (blob) => {
        await using file = await open(blob.path, 'r+');
        await file.truncate(blob.size - 8);
        return undefined;
      }),
      corrupt(/cut short/),
    );
    await assert.rejects(
      mergeOf(t, async (blob) => {
        await appendFile(blob.path, 'more');
        return undefined;
      }),
      corrupt(/too long/),
    );
    await assert.rejects(
      mergeOf(t, async (blob) => {
        await using file = await open(blob.path, 'r+');
        await file.write(Buffer.from([0xff, 0xff, 0xff]), 0, 3, 30);
        return undefined;
      }),
      (error) => error instanceof BangerError && error.code === 'corrupt',
    );
  });

  it('limits end a bomb', async (t) => {
    const blobs = await blobsOf(await tempDir(t), [good]);
    await assert.rejects(mergeLayers(blobs, { ...OPTIONS, limits: { ...LIMITS, bytes: 1000 } }), /There is no room/);
    // 64 MiB of zeros in 64 KiB: what comes out is counted, not what is there
    const bomb = await blobsOf(await tempDir(t), [rawTar([{ path: 'zeros', data: '\0'.repeat(64 * 1024 * 1024) }])]);
    assert.ok((bomb[0]?.size ?? 0) < 200_000);
    await assert.rejects(mergeLayers(bomb, { ...OPTIONS, limits: { ...LIMITS, bytes: 2 ** 20 } }), /There is no room/);
    const many = await blobsOf(await tempDir(t), [rawTar(Array.from({ length: 20 }, (_, at) => ({ path: `f${at}` })))]);
    await assert.rejects(mergeLayers(many, { ...OPTIONS, limits: { ...LIMITS, entries: 10 } }), /more than 10 entries/);
  });
});

/** A file system of layers, which e2fsck has nothing to say about. */
async function fileSystemOf(place: string, blobs: readonly LayerBlob[]): Promise<string> {
  const root = await mergeLayers(blobs, OPTIONS);
  const { bytes, inodes } = await sizeOfTree(root);
  const image = join(place, 'image');
  const file = await open(image, 'wx');
  await file.truncate(bytes);
  await file.close();
  execFileSync('mke2fs', mke2fsOptions(inodes, image), { env: { ...process.env, PATH } });
  {
    await using writer = await Ext4Writer.open(image, root);
    await copyData(blobs, root, (node, offset, chunk) => writer.write(node, offset, chunk), OPTIONS);
    await writer.finish();
  }
  const check = spawnSync('e2fsck', ['-fn', image], { env: { ...process.env, PATH }, encoding: 'utf8' });
  assert.equal(check.status, 0, check.stdout);
  return image;
}

describe('a tree as ext4', () => {
  it('holds names that differ by case alone, and a file that is 100 GB of nothing', async (t) => {
    const place = await tempDir(t);
    const size = 100 * 1024 ** 3;
    const holes = { 'GNU.sparse.map': `0,512,${size - 512},512`, 'GNU.sparse.size': String(size) };
    const image = await fileSystemOf(
      place,
      await blobsOf(place, [
        rawTar([
          { path: 'README', data: 'A' },
          { path: 'readme', data: 'b' },
          { path: 'vast', data: 'E'.repeat(1024), pax: holes },
        ]),
      ]),
    );
    const ask = (request: string) =>
      execFileSync('debugfs', ['-R', request, image], {
        env: { ...process.env, PATH },
        encoding: 'latin1',
        stdio: 'pipe',
      });
    assert.deepEqual([ask('cat /README'), ask('cat /readme')], ['A', 'b']);
    assert.match(ask('stat /vast'), new RegExp(`Size: ${size}\\n`));
  });

  it('may have just one file, or none', async (t) => {
    for (const entries of [[], [{ path: 'app', data: 'x' }]]) {
      const place = await tempDir(t);
      await fileSystemOf(place, await blobsOf(place, [rawTar(entries)]));
    }
  });

  it('lets others have their turn while it is given its places', async (t) => {
    const place = await tempDir(t);
    const merge = new LayerMerge(LIMITS);
    merge.beginLayer();
    const entry = { kind: 'file', target: '', mode: 0o644, uid: 0, gid: 0, mtime: 0 } as const;
    for (let index = 0; index < 20_000; index++) {
      merge.add({ ...entry, index, path: `${Math.floor(index / 1000)}/${index}`, size: 1 });
    }
    // 32 groups of blocks
    merge.add({ ...entry, index: 20_000, path: 'large', size: 4 * 1024 ** 3 });
    let size = { bytes: 0, inodes: 0 };
    const counting = await turnsDuring(async () => {
      size = await sizeOfTree(merge.root);
    });
    assert.ok(counting >= 10, `${counting} turns`);
    const image = join(place, 'image');
    await writeFile(image, '');
    await truncate(image, size.bytes);
    execFileSync('mke2fs', mke2fsOptions(size.inodes, image), { env: { ...process.env, PATH } });
    const placing = await turnsDuring(async () => {
      await using _ = await Ext4Writer.open(image, merge.root);
    });
    // a thousand names, a thousand files, and a group at a time
    assert.ok(placing >= 20 + 20 + 32, `${placing} turns`);
    const copying = await turnsDuring(() => copyData([], merge.root, () => undefined, OPTIONS));
    assert.ok(copying >= 10, `${copying} turns`);
  });

  it('is in order, and says of every file what the layers said', async (t) => {
    const place = await tempDir(t);
    const capability = '\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00';
    const many = Array.from({ length: 300 }, (_, at) => ({ path: `many/${'n'.repeat(90)}${at}`, data: `${at}` }));
    const big = 'a'.repeat(300_000);
    const blobs = await blobsOf(place, [
      rawTar([
        dir('etc/', { uid: 1000, gid: 100_000, pax: { gid: '100000' } }),
        {
          path: 'etc/file',
          data: 'text',
          mode: 0o4755,
          uid: 7,
          pax: { 'SCHILY.xattr.security.capability': capability },
        },
        { path: 'etc/same', type: '1', target: 'etc/file' },
        { path: 'short', type: '2', target: 'etc/file' },
        { path: 'long', type: '2', target: 'x'.repeat(99) },
        { path: 'null', type: '3', mode: 0o666 },
        { path: 'pipe', type: '6' },
        { path: 'big', data: big, pax: { 'SCHILY.xattr.user.large': 'v'.repeat(500) } },
        {
          path: 'holes',
          data: 'ABCD'.repeat(128),
          pax: { 'GNU.sparse.map': '0,256,500000,256', 'GNU.sparse.size': '600000' },
        },
        ...many,
      ]),
      rawTar([{ path: 'etc/more', data: 'of the upper layer' }]),
    ]);
    const image = await fileSystemOf(place, blobs);
    const ask = (request: string) =>
      execFileSync('debugfs', ['-R', request, image], {
        env: { ...process.env, PATH },
        encoding: 'latin1',
        stdio: 'pipe',
      });
    const said = ask('stat /etc/file');
    assert.match(said, /Mode: {2}04755/);
    assert.match(said, /User: {5}7 /);
    assert.match(said, /Links: 2/);
    assert.match(said, /security.capability \(20\) = 01 00 00 02 00 20/);
    assert.match(ask('stat /etc'), /User: {2}1000 {3}Group: 100000/);
    assert.equal(ask('cat /etc/more'), 'of the upper layer');
    assert.equal(ask('cat /big'), big);
    assert.match(ask('stat /long'), /Fast link dest|Size: 99/);
    assert.match(ask('ea_get /big user.large'), /v{500}/);
    const holes = ask('cat /holes');
    assert.equal(holes.length, 600_000);
    assert.deepEqual(
      [holes.slice(0, 8), holes.slice(256, 264), holes.slice(500_000, 500_004)],
      ['ABCDABCD', '\0'.repeat(8), 'ABCD'],
    );
    assert.match(ask('stat /null'), /character special/);
    assert.equal(ask(`cat /many/${'n'.repeat(90)}299`), '299');
    await rm(image);
  });
});
