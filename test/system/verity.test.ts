import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { truncateSync } from 'node:fs';
import { open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type DataRange, dataRanges, loadSeek, type Seek } from '../../src/system/holes.ts';
import { PART_BYTES, partedDigest, verityDigest } from '../../src/system/verity.ts';
import { MIB } from '../../src/units.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const BLOCK = 4096;

/** lseek of a C library that cannot say where holes are. */
const blind: Seek = () => -1n;

/** The content the vectors below were made of. */
function sample(bytes: number): Buffer {
  return Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8) * 7 + (i >> 16) * 13) & 255));
}

/** A file of zeros but for some bytes at these offsets. */
async function sparse(t: TestContext, bytes: number, at: readonly number[], what: Uint8Array): Promise<string> {
  const path = join(await tempDir(t), 'sparse');
  await using file = await open(path, 'w');
  await file.truncate(bytes);
  for (const offset of at) await file.write(what, 0, what.length, offset);
  return path;
}

describe('the fs-verity digest of a file', () => {
  // printed by `fsverity digest` 1.5
  for (const [bytes, hex] of [
    [0, '3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95'],
    [1, 'b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551'],
    [4095, '06d22cfc64daf4dfe52abd137cb2e31931c4fb7dd37db93da8cf7bb57803854c'],
    [4096, '7fe400965da617c17799b066355c5d424f756afaf49c6a9060f4d417d3ef495b'],
    [4097, '811bcc0ce67d323fc7d4629f4537dc2ee3618f90faba1eaed86db4f3b08f3149'],
    [8192, 'b15fca91510924f6de1820f245008abf7653538917aa63868b3c8a9a53ace0c1'],
    [127 * BLOCK, '24f44aaf4e2290e0e803b1a80cdee0e2e9bc0311840a63c0afdf64afc14f33e4'],
    [128 * BLOCK, '1f6d2da3c0b822d078769afc40b36dc5a4ff96758062c16085c7d8d9f9474520'],
    [128 * BLOCK + 1, '4bff14c689161fec6cb1d3a1e520e18c82bd9a3d0573f641a6277c5664cdc764'],
    [129 * BLOCK + 5, 'a44ae538f865f5c6739c9ff42a596ac85e4d8eddf78ffcc85fb32d9dba3393b7'],
  ] as const) {
    it(`of ${bytes} bytes is what the standard's own tool says`, async (t) => {
      const path = join(await tempDir(t), 'file');
      await writeFile(path, sample(bytes));
      assert.equal(await verityDigest(path), `fsverity-sha256:${hex}`);
    });
  }

  for (const [bytes, at, hex] of [
    [1, [], 'b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551'],
    [4096, [], 'babc284ee4ffe7f449377fbf6692715b43aec7bc39c094a95878904d34bac97e'],
    [512 * 1024, [], '2d15bd7832895de85aa3d5bdfb57251e27bbec75ff467408340ab3eba858a2e1'],
    [64 * MIB, [], '382b8844ad09fb5f7b53e0fc27413cd4e72f47d69604dac5d4865e609ba33c53'],
    [64 * MIB + 1, [], 'be5993679f703697692cc6ce69e480edc9721baff591795438ae8097275c0687'],
    [64 * MIB + 1, [64 * MIB - 3], '9dd0b689e0d70d508f955bf95adb288ceb6f84a8039bd871466222ded0a8a84b'],
    [
      3072 * MIB + 777,
      [0, 5 * MIB + 123, 1024 * MIB - 2, 3072 * MIB + 700],
      '7e09d70b1788e3a48bef686fbf77309c0140897797307b486f9e6733a4d2cd66',
    ],
  ] as const) {
    it(`of ${bytes} bytes that are a hole but for ${at.length} places is it too`, async (t) => {
      const path = await sparse(t, bytes, at, Buffer.from('data'));
      assert.equal(await verityDigest(path), `fsverity-sha256:${hex}`);
    });
  }

  it('has the digests of its parts of 64 MiB, as if each were a file, but for those of zeros', async (t) => {
    const what = randomBytes(70_000);
    what[0] = 1; // of the shortest last part nothing else is left, and zeros have no digest
    for (const tail of [1, BLOCK, BLOCK + 1, 512 * 1024, 512 * 1024 + 1, 3 * MIB + 5, PART_BYTES]) {
      const bytes = 4 * PART_BYTES + tail;
      const path = await sparse(t, bytes, [PART_BYTES - 40_000, 3 * PART_BYTES + 5 * MIB, bytes - 1], what);
      await truncate(path, bytes);
      const { digest, size, parts } = await partedDigest(path);
      assert.deepEqual([`fsverity-sha256:${digest}`, size], [await verityDigest(path), bytes]);
      const expected: Record<string, string> = {};
      for (const index of [0, 1, 3, 4]) {
        const part = join(await tempDir(t), 'part');
        const argv = [`if=${path}`, `of=${part}`, `bs=${PART_BYTES}`, `skip=${index}`, 'count=1', 'conv=sparse'];
        execFileSync('dd', argv, { stdio: 'ignore' });
        expected[index * PART_BYTES] = (await partedDigest(part)).digest;
      }
      assert.deepEqual(parts, expected, `with ${tail} bytes at the end`);
      assert.deepEqual((await partedDigest(path, { seek: blind })).parts, expected);
    }
  });

  it('has no parts when it is one itself', async (t) => {
    for (const bytes of [0, 1, 9 * MIB, PART_BYTES]) {
      assert.deepEqual((await partedDigest(await sparse(t, bytes, [], Buffer.alloc(0)))).parts, {});
    }
  });

  it('has the digests of parts behind a hole of many levels', async (t) => {
    const at = 17 * 1024 * MIB + 3 * MIB;
    const path = await sparse(t, at + 5 * MIB, [5, at], Buffer.from('data'));
    const { parts } = await partedDigest(path);
    assert.deepEqual(Object.keys(parts).map(Number), [0, 17 * 1024 * MIB]);
  });

  it('is the same where holes cannot be asked for, and where they are written out', async (t) => {
    const bytes = 9 * MIB + 4321;
    const what = randomBytes(70_000);
    const path = await sparse(t, bytes, [300_000, 4 * MIB - 5], what);
    const full = join(await tempDir(t), 'full');
    const content = Buffer.alloc(bytes);
    for (const offset of [300_000, 4 * MIB - 5]) content.set(what, offset);
    await writeFile(full, content);
    const digest = await verityDigest(path);
    assert.equal(await verityDigest(path, { seek: blind }), digest);
    assert.equal(await verityDigest(full), digest);
  });

  it('is another one for a file that is longer by zeros, or has one other bit', async (t) => {
    const path = await sparse(t, 3 * MIB, [MIB], Buffer.from('a'));
    const digests = [await verityDigest(path)];
    await truncate(path, 3 * MIB + 1);
    digests.push(await verityDigest(path));
    await truncate(path, 3 * MIB);
    assert.equal(await verityDigest(path), digests[0]);
    await using file = await open(path, 'r+');
    await file.write('c', MIB);
    digests.push(await verityDigest(path));
    assert.equal(new Set(digests).size, 3);
  });

  it('tells how far it is, holes included', async (t) => {
    const bytes = 40 * MIB + 5;
    const path = await sparse(t, bytes, [8 * MIB, 8 * MIB + 5_000_000], randomBytes(2 * MIB));
    const told: number[] = [];
    await verityDigest(path, { onBytes: (more) => void told.push(more) });
    assert.equal(
      told.reduce((sum, more) => sum + more, 0),
      bytes,
    );
    assert.ok(told.length > 3 && told.every((more) => more > 0), told.join());
  });

  it('is called off in the middle', async (t) => {
    const path = await sparse(t, 8 * MIB, [], Buffer.alloc(0));
    const stop = new AbortController();
    let reports = 0;
    const onBytes = () => {
      reports++;
      stop.abort();
    };
    await assert.rejects(verityDigest(path, { signal: stop.signal, onBytes, seek: blind }), { code: 'cancelled' });
    assert.equal(reports, 1);
  });

  it('of a file that becomes shorter while it is read is refused', async (t) => {
    const path = await sparse(t, 8 * MIB, [], Buffer.alloc(0));
    const onBytes = () => truncateSync(path, MIB);
    await assert.rejects(verityDigest(path, { onBytes, seek: blind }), { code: 'conflict', message: /shorter/ });
  });
});

describe('files at random', { skip: lacking('fsverity') }, () => {
  it('have the digest fsverity prints', async (t) => {
    const limits = [BLOCK * 3, MIB, 40 * MIB, 200 * MIB].flatMap((limit) => Array(7).fill(limit));
    for (const [round, limit] of limits.entries()) {
      const bytes = randomInt(1, limit);
      const places = Array.from({ length: randomInt(0, 12) }, () => randomInt(0, bytes));
      const path = await sparse(t, bytes, places, randomBytes(randomInt(1, 300_000)));
      if (round % 2 === 0) await truncate(path, bytes);
      const printed = execFileSync('fsverity', ['digest', '--compact', path], { encoding: 'utf8' }).trim();
      const known = { bytes, places, digest: `fsverity-sha256:${printed}` };
      assert.deepEqual({ ...known, digest: await verityDigest(path) }, known);
    }
  });
});

describe('ranges of data', () => {
  const ranges = (seek: Seek | undefined, bytes: number): DataRange[] => [...dataRanges(0, bytes, seek)];

  /** lseek of a file with data in these ranges. */
  const seekOf =
    (size: number, data: readonly [number, number][]): Seek =>
    (_, from, whence) => {
      const offset = Number(from);
      const inside = data.find(([start, end]) => offset >= start && offset < end);
      if (whence === 4) return BigInt(inside ? inside[1] : offset);
      if (inside) return from;
      const next = data.find(([start]) => start > offset && start < size);
      return next ? BigInt(next[0]) : -1n;
    };

  it('are what the C library says, small gaps read through', () => {
    const seek = seekOf(10 * MIB, [
      [0, BLOCK],
      [2 * BLOCK, 3 * BLOCK],
      [5 * MIB, 6 * MIB],
    ]);
    assert.deepEqual(ranges(seek, 10 * MIB), [
      { start: 0, end: 3 * BLOCK },
      { start: 5 * MIB, end: 6 * MIB },
    ]);
    assert.deepEqual(ranges(seekOf(MIB, []), MIB), []);
    assert.deepEqual(ranges(seek, 0), []);
  });

  it('end with the file, also when it grew meanwhile', () => {
    assert.deepEqual(ranges(seekOf(10 * MIB, [[MIB, 9 * MIB]]), 3 * MIB), [{ start: MIB, end: 3 * MIB }]);
  });

  it('are all of it, or all of the rest, where nothing or nonsense is said', () => {
    const all = [{ start: 0, end: MIB }];
    assert.deepEqual(ranges(undefined, MIB), all);
    assert.deepEqual(ranges(blind, MIB), all);
    assert.deepEqual(
      ranges(() => 0n, MIB),
      all,
    );
    const breaksOff: Seek = (fd, offset, whence) =>
      offset < MIB ? seekOf(9 * MIB, [[0, MIB]])(fd, offset, whence) : -1n;
    assert.deepEqual(ranges(breaksOff, 9 * MIB), [{ start: 0, end: 9 * MIB }]);
  });

  it('leave out what is a hole where Node can call the C library', async (t) => {
    const seek = await loadSeek();
    if (!seek) return t.skip('this Node has no node:ffi');
    const path = await sparse(t, 64 * MIB, [20 * MIB], randomBytes(MIB));
    await using file = await open(path);
    const found = [...dataRanges(file.fd, 64 * MIB, seek)];
    if (found[0]?.start === 0) return t.skip('the file system for temporary files knows no holes');
    assert.deepEqual(found, [{ start: 20 * MIB, end: 21 * MIB }]);
  });
});
