/** Small layers that stand for more than a host has memory or time for are refused, or cost what they weigh. */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { FileNode } from '../../src/core/file-tree.ts';
import { BangerError } from '../../src/errors.ts';
import { readLayout } from '../../src/oci/manifest.ts';
import { LayerMerge, lookUp } from '../../src/oci/merge.ts';
import { type TarEntry, TarReader } from '../../src/oci/tar-reader.ts';
import { type TreeLimits, treeLimits } from '../../src/oci/tree-limits.ts';
import { type RawEntry, rawTar, sha256 } from '../support/oci-image.ts';
import { tempDir } from '../support/temp-dir.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const LIMITS = treeLimits(2 ** 40);

/** Entries of one archive. */
async function entriesOf(tar: Buffer): Promise<TarEntry[]> {
  const entries: TarEntry[] = [];
  const handler = { entry: (entry: TarEntry) => void entries.push(entry), data: () => undefined, end: () => undefined };
  const reader = new TarReader(handler, { bytes: Number.POSITIVE_INFINITY });
  for (let at = 0; at < tar.length; at += 128 * KIB) await reader.write(tar.subarray(at, at + 128 * KIB));
  reader.finish();
  return entries;
}

async function addLayer(merge: LayerMerge, entries: readonly RawEntry[]): Promise<void> {
  merge.beginLayer();
  for (const entry of await entriesOf(rawTar(entries))) merge.add(entry);
}

async function treeOf(entries: readonly RawEntry[], limits: Partial<TreeLimits> = {}): Promise<FileNode> {
  const merge = new LayerMerge({ ...LIMITS, ...limits });
  await addLayer(merge, entries);
  return merge.root;
}

/** The refusal, which says what is too much, where, and what to do. */
const refusal = (message: RegExp) => (error: unknown) =>
  error instanceof BangerError && error.code === 'corrupt' && message.test(error.message) && error.hint !== undefined;

const many = (count: number, entry: (index: number) => RawEntry) => Array.from({ length: count }, (_, at) => entry(at));
const withAttribute = (path: string, value: string): RawEntry => ({ path, pax: { 'SCHILY.xattr.user.x': value } });

describe('what an image may hold', () => {
  it('counts directories that only paths name', async () => {
    const deep = many(10, (at) => ({ path: 'f', pax: { path: `${at}/${'a/'.repeat(2040)}f` } }));
    const told = /more than 1000 entries, with the directories that only paths name: the entry "0\/a\/a/;
    await assert.rejects(treeOf(deep, { entries: 1000 }), refusal(told));
    await treeOf(deep, { entries: 10 + 10 * 2041 });
    await assert.rejects(treeOf(deep, { entries: 10 + 10 * 2041 - 1 }), refusal(/entries/));
  });

  it('counts names, and where links lead', async () => {
    const links = many(10, (at) => ({ path: `l${at}`, type: '2', pax: { linkpath: 'x'.repeat(4000) } }));
    const told = /more than 32 KiB of names, targets of links and extended attributes: the entry "l8"/;
    await assert.rejects(treeOf(links, { textBytes: 32 * KIB }), refusal(told));
    const names = many(200, (at) => ({ path: 'f', pax: { path: `${'n'.repeat(200)}${at}` } }));
    await assert.rejects(treeOf(names, { textBytes: 32 * KIB }), refusal(/of names/));
    const implied = many(200, (at) => ({ path: 'f', pax: { path: `${'n'.repeat(200)}${at}/f` } }));
    await assert.rejects(treeOf(implied, { textBytes: 32 * KIB }), refusal(/of names/));
  });

  it('counts parts of files with holes', async () => {
    const pax = { 'GNU.sparse.map': '0,1,4,1,8,1', 'GNU.sparse.size': '9' };
    const files = many(4, (at) => ({ path: `f${at}`, data: 'abc', pax }));
    await treeOf(files, { pieces: 12 });
    await assert.rejects(treeOf(files, { pieces: 11 }), refusal(/holes in more than 11 parts: the entry "f3"/));
  });

  it('is less on a host with little memory', () => {
    assert.equal(treeLimits(4 * 1024 * MIB).entries, 2_000_000);
    assert.equal(treeLimits(3 * 512 * MIB).entries, 1_000_000);
    assert.equal(treeLimits(3 * 512 * MIB).textBytes, 128 * MIB);
  });

  it('is no deeper than paths of Linux lead, also by links', async () => {
    const path = 'a/'.repeat(2046);
    await treeOf([{ path: 'f', pax: { path: `${path}f` } }]);
    const link = { path: 'l', type: '2', pax: { linkpath: path } };
    await assert.rejects(treeOf([{ path: 'f', pax: { path: `${path}f` } }, link, { path: 'l/b/c/f' }]), {
      message: /"l\/b\/c\/f" cannot be unpacked: it lies in more than 2048 directories/,
    });
  });

  it('has no name that is longer than names are, where only paths name it either', async () => {
    const pax = { path: `${'n'.repeat(256)}/f` };
    await assert.rejects(treeOf([{ path: 'f', pax }]), { message: /a name of it is longer than 255 bytes/ });
  });

  it('is not looked for through mazes of links', async () => {
    const maze = many(30, (at) => ({
      path: `l${at}`,
      type: '2',
      pax: { linkpath: `l${at + 1}/${'../a/'.repeat(700)}` },
    }));
    const root = await treeOf([...maze, { path: 'l30', type: '2', target: '.' }, { path: 'a', type: '5' }]);
    assert.equal(lookUp(root, '/l0'), undefined);
    const merge = new LayerMerge(LIMITS);
    await assert.rejects(addLayer(merge, [...maze, { path: 'l30', type: '2', target: '.' }, { path: 'l0/f' }]), {
      message: /leads nowhere/,
    });
  });
});

describe('extended attributes of an image', () => {
  it('are refused where a file has more than 64 KiB', async () => {
    const [file] = await entriesOf(rawTar([withAttribute('f', 'x'.repeat(64 * KIB - 6))]));
    assert.equal(file?.xattrs?.get('user.x')?.length, 64 * KIB - 6);
    const told = /The entry "etc\/f" has 65537 bytes of extended attributes, more than 65536, the most a file can have/;
    await assert.rejects(entriesOf(rawTar([withAttribute('etc/f', 'x'.repeat(64 * KIB - 5))])), refusal(told));
  });

  it('are refused where the image has too many, of which equal ones count once', async () => {
    const value = (at: number) => `${at}${'x'.repeat(10 * KIB)}`;
    await treeOf(
      many(1000, (at) => withAttribute(`f${at}`, value(0))),
      { textBytes: 100 * KIB },
    );
    const others = many(10, (at) => withAttribute(`f${at}`, value(at)));
    await assert.rejects(treeOf(others, { textBytes: 100 * KIB }), refusal(/more than 100 KiB of .* the entry "f9"/));
    const tiny = many(1000, (at) => withAttribute(`f${at}`, `${at}`));
    await assert.rejects(treeOf(tiny, { textBytes: 100 * KIB }), refusal(/extended attributes/));
  });

  it('keep no other memory than their own', async () => {
    const root = await treeOf(many(3, (at) => withAttribute(`f${at}`, `value ${at === 2 ? 0 : at}`)));
    const [one, two, three] = ['f0', 'f1', 'f2'].map((name) => root.children?.get(name)?.xattrs);
    assert.equal(one, three);
    assert.deepEqual(
      [one, two],
      [new Map([['user.x', Buffer.from('value 0')]]), new Map([['user.x', Buffer.from('value 1')]])],
    );
    assert.equal(one?.get('user.x')?.buffer.byteLength, 7);
  });
});

describe('headers of an archive', () => {
  const local = (text: string): RawEntry => ({ path: 'x', type: 'x', data: text });
  const global = (text: string): RawEntry => ({ path: 'g', type: 'g', data: text });
  const record = (key: string, value: string): string => {
    const rest = ` ${key}=${value}\n`;
    const length = rest.length + String(rest.length + 6).length;
    return `${length}${rest}`;
  };

  it('say no more of all entries than can be looked at for each', async () => {
    const attribute = (at: number, bytes: number) => global(record(`SCHILY.xattr.user.${at}`, 'x'.repeat(bytes)));
    const entries = await entriesOf(
      rawTar([attribute(0, 30 * KIB), attribute(1, 30 * KIB), { path: 'f' }, { path: 'g' }]),
    );
    assert.deepEqual([...(entries[0]?.xattrs?.keys() ?? [])], ['user.0', 'user.1']);
    assert.equal(entries[0]?.xattrs, entries[1]?.xattrs);
    await assert.rejects(
      entriesOf(rawTar(many(100, (at) => attribute(at, KIB)))),
      /says of all entries has \d+ bytes, more/,
    );
    await assert.rejects(entriesOf(rawTar([global(record('GNU.sparse.map', '0,0'))])), /said to be that of all/);
    // as git archive writes it, and what says nothing to anybody
    const comments = many(100, () => global(record('comment', 'c'.repeat(4000))));
    assert.equal((await entriesOf(rawTar([...comments, { path: 'f' }]))).length, 1);
  });

  it('say no more of one entry than programs read, in one header or many', async () => {
    const some = many(12, () => local(record('comment', 'c'.repeat(90 * KIB))));
    await assert.rejects(entriesOf(rawTar([...some, { path: 'f' }])), /a description of \d+ bytes is longer than any/);
    const spread = some.flatMap((each, at) => [each, { path: `f${at}` }]);
    assert.equal((await entriesOf(rawTar(spread))).length, 12);
  });

  it('keep of a name what it is, not what stands behind it', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const used = async () => {
      collect();
      // buffers are freed beside it
      await setTimeout(50);
      collect();
      // long texts are beside the heap, as buffers are
      const { heapUsed, external, arrayBuffers } = process.memoryUsage();
      return heapUsed + external - arrayBuffers;
    };
    const data = `where this link leads\0${'x'.repeat(MIB - 100)}`;
    const tar = rawTar([
      { path: 'K', type: 'K', data },
      { path: 'l', type: '2' },
    ]);
    const before = await used();
    const links: TarEntry[] = [];
    for (let at = 0; at < 40; at++) links.push(...(await entriesOf(tar)));
    const kept = (await used()) - before;
    assert.equal(links[7]?.target, 'where this link leads');
    assert.ok(kept < 10 * MIB, `${kept} bytes`);
  });
});

/** Counts the children that are gone through in a directory from now on. */
function countSteps(directory: FileNode | undefined): () => number {
  const children = directory?.children;
  assert.ok(children);
  let steps = 0;
  const counted = <T>(all: () => Iterable<T>) =>
    function* () {
      for (const each of all()) {
        steps += 1;
        yield each;
      }
    };
  const { entries, values } = Map.prototype;
  const count = {
    [Symbol.iterator]: counted(() => entries.call(children)),
    values: counted(() => values.call(children)),
  };
  Object.assign(children, count);
  return () => steps;
}

describe('what takes away of lower layers', () => {
  const files = (count: number) => many(count, (at) => ({ path: `d/${at}` }));

  for (const [what, entry] of [
    ['an opaque directory', { path: 'd/.wh..wh..opq' }],
    ['a whiteout of a directory that is there again', { path: '.wh.d' }],
  ] as const) {
    it(`goes once through what is there, however often it is said: ${what}`, async () => {
      const merge = new LayerMerge(LIMITS);
      await addLayer(merge, files(500));
      const steps = countSteps(merge.root.children?.get('d'));
      await addLayer(merge, [
        { path: 'd', type: '5' },
        ...many(500, (at) => ({ path: `d/new${at}` })),
        ...many(500, () => entry),
      ]);
      assert.deepEqual(merge.root.children?.get('d')?.children?.size, 500);
      assert.ok(steps() <= 1000, `${steps()} steps`);
    });
  }

  it('goes once through directories in each other, each of which is said to be opaque', async () => {
    const depth = 300;
    const merge = new LayerMerge(LIMITS);
    const inside = (count: number, name: string) => ({ path: name, pax: { path: `${'a/'.repeat(count)}${name}` } });
    await addLayer(merge, [inside(depth, 'old')]);
    const counters: (() => number)[] = [];
    for (let at = merge.root.children?.get('a'); at; at = at.children?.get('a')) counters.push(countSteps(at));
    const marks = many(depth, (at) => inside(depth - at, '.wh..wh..opq'));
    await addLayer(merge, [inside(depth, 'new'), ...marks]);
    assert.deepEqual([...(lookUp(merge.root, 'a/'.repeat(depth))?.children?.keys() ?? [])], ['new']);
    const steps = counters.reduce((sum, counted) => sum + counted(), 0);
    assert.ok(steps <= 2 * depth, `${steps} steps`);
  });

  it('leaves what its layer has put into a directory that was opaque before, and takes it away in the next', async () => {
    const merge = new LayerMerge(LIMITS);
    await addLayer(merge, files(3));
    await addLayer(merge, [
      { path: 'd/.wh..wh..opq' },
      { path: 'd/sub/new' },
      { path: 'd/.wh..wh..opq' },
      { path: '.wh.d' },
    ]);
    assert.ok(lookUp(merge.root, 'd/sub/new'));
    await addLayer(merge, [{ path: 'd/other' }, { path: 'd/.wh..wh..opq' }]);
    assert.deepEqual([...(lookUp(merge.root, 'd')?.children?.keys() ?? [])], ['other']);
    await addLayer(merge, [{ path: '.wh.d' }]);
    assert.equal(merge.root.children?.size, 0);
  });
});

describe('the map of a sparse file in front of its data', () => {
  /** A file whose parts are a byte each, 4 KiB from each other. */
  const sparse = (parts: number): RawEntry => {
    const numbers = many(parts, (at) => ({ path: `${at * 4096}\n1\n` })).map(({ path }) => path);
    const text = `${parts}\n${numbers.join('')}`;
    const data = `${text}${'\0'.repeat((512 - (text.length % 512)) % 512)}${'d'.repeat(parts)}`;
    const pax = { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': String(parts * 4096) };
    return { path: 'f', data, pax };
  };

  it('is put together once, however many blocks it has', async (t: TestContext) => {
    const { length } = Buffer.from(sparse(20_000).data ?? '');
    const tar = rawTar([sparse(20_000)]);
    let bytes = 0;
    const { concat } = Buffer;
    t.mock.method(Buffer, 'concat', (parts: Buffer[]) => {
      bytes += parts.reduce((sum, part) => sum + part.length, 0);
      return concat(parts);
    });
    const [file] = await entriesOf(tar);
    assert.deepEqual([file?.pieces?.length, file?.pieces?.at(-1)], [20_000, { offset: 19_999 * 4096, length: 1 }]);
    assert.ok(bytes < 2 * length, `${bytes} bytes for ${length}`);
  });

  it('may end with a block, and in one', async () => {
    for (let parts = 0; parts < 200; parts++) {
      const [file] = await entriesOf(rawTar([sparse(parts)]));
      assert.equal(file?.pieces?.length, parts);
    }
  });

  it('is refused without a length', async () => {
    const pax = { 'GNU.sparse.major': '1', 'GNU.sparse.realsize': '0' };
    for (const text of ['', 'x\n', '12345678\n', '1'.repeat(600)]) {
      const data = text.padEnd(1024, '\0');
      await assert.rejects(entriesOf(rawTar([{ path: 'f', data, pax }])), /a map of a sparse file has no length/);
    }
  });
});

describe('documents of an image', () => {
  it('are refused with more values than any has, before each of them is looked at', async (t) => {
    const place = await tempDir(t);
    const blobs = join(place, 'blobs');
    await mkdir(join(blobs, 'sha256'), { recursive: true });
    const put = async (text: string) => {
      const digest = sha256(Buffer.from(text));
      await writeFile(join(blobs, 'sha256', digest.slice(7)), text);
      return { digest, size: text.length };
    };
    const read = async (env: string) => {
      const rootfs = '{"type":"layers","diff_ids":[]}';
      const config = await put(`{"architecture":"amd64","os":"linux","rootfs":${rootfs},"config":{"Env":[${env}]}}`);
      const manifest = await put(JSON.stringify({ schemaVersion: 2, config, layers: [] }));
      await writeFile(join(place, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
      return await readLayout(place, blobs);
    };
    await assert.rejects(read(`1${',1'.repeat(1_900_000)}`), {
      code: 'corrupt',
      message: /more values in it than any/,
    });
    await assert.rejects(read('['.repeat(1_000_000)), { code: 'corrupt', message: /more values in it than any/ });
    const { config } = await read(`"A=${'[{,'.repeat(300_000)}\\"","B=b"`);
    assert.equal(config.config?.Env?.length, 2);
  });
});
