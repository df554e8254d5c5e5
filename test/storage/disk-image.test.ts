/** Disks are read as qemu-img and sfdisk have written them, and what contradicts itself is refused. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { crc32 } from 'node:zlib';
import { copyOut, openDiskImage } from '../../src/storage/disk-image.ts';
import { readPartitions } from '../../src/storage/partitions.ts';
import { Qcow2 } from '../../src/storage/qcow2.ts';
import { inspectVolume } from '../../src/storage/volume.ts';
import { loadSeek } from '../../src/system/holes.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { makeExt4File, toQcow2, writeDisk } from '../support/disk-images.ts';
import { tempDir } from '../support/temp-dir.ts';
import { turnsDuring } from '../support/turns.ts';

const MIB = 1024 * 1024;
const signal = new AbortController().signal;

/** 8 MiB with data at the beginning, in the middle, and at the end, the rest being a hole. */
async function sampleDisk(t: TestContext): Promise<{ dir: string; raw: string; bytes: Buffer }> {
  const dir = await tempDir(t);
  const raw = join(dir, 'disk.raw');
  const bytes = Buffer.alloc(8 * MIB);
  randomBytes(100_000).copy(bytes, 0);
  Buffer.alloc(300_000, 'text that can be compressed ').copy(bytes, 3 * MIB + 77);
  randomBytes(5000).copy(bytes, bytes.length - 5000);
  await writeFile(raw, bytes);
  return { dir, raw, bytes };
}

async function whole(path: string, target: string): Promise<Buffer> {
  await using disk = await openDiskImage(path);
  await copyOut(disk, { at: 0, length: disk.sizeBytes }, target, { signal });
  return await readFile(target);
}

describe('a qcow2 disk image', { skip: lacking('qemu-img') }, () => {
  const kinds: [string, string[]][] = [
    ['as it is made by default', []],
    ['compressed', ['-c']],
    ['compressed by zstd', ['-c', '-o', 'compression_type=zstd']],
    ['of the older version', ['-o', 'compat=0.10']],
    ['with small clusters', ['-o', 'cluster_size=512']],
    ['with large clusters', ['-c', '-o', 'cluster_size=2M']],
  ];
  for (const [name, words] of kinds) {
    it(`is read: ${name}`, async (t) => {
      const { dir, raw, bytes } = await sampleDisk(t);
      const image = join(dir, 'disk.qcow2');
      toQcow2(raw, image, ...words);
      const copy = join(dir, 'copy');
      assert.ok((await whole(image, copy)).equals(bytes));
      assert.ok((await stat(copy)).blocks * 512 < MIB);
      await using disk = await openDiskImage(image);
      assert.ok((await disk.read(3 * MIB, 1000)).equals(bytes.subarray(3 * MIB, 3 * MIB + 1000)));
      assert.equal((await disk.read(8 * MIB - 10, 100)).length, 10);
    });
  }

  it('is not followed to other files', async (t) => {
    const { dir, raw } = await sampleDisk(t);
    const over = join(dir, 'over.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', raw, '-F', 'raw', over]);
    await assert.rejects(openDiskImage(over), /it has a backing file/);
    const apart = join(dir, 'apart.qcow2');
    const words = ['-o', `data_file=${join(dir, 'data')},data_file_raw=on`];
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...words, apart, '1M']);
    await assert.rejects(openDiskImage(apart), /keeps its data in another file/);
    const locked = join(dir, 'locked.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', locked, '1M']);
    await using file = await open(locked, 'r+');
    await file.write(Buffer.from([2]), 0, 1, 35);
    await assert.rejects(openDiskImage(locked), /is encrypted/);
  });

  it('that is damaged says so, wherever that is', async (t) => {
    const { dir, raw } = await sampleDisk(t);
    const image = join(dir, 'disk.qcow2');
    toQcow2(raw, image, '-c');
    const good = await readFile(image);
    const bad = join(dir, 'bad.qcow2');
    const copy = join(dir, 'copy');
    for (const end of [40, 100, 70_000, 200_000]) {
      await writeFile(bad, good.subarray(0, end));
      await assert.rejects(whole(bad, join(dir, `cut-${end}`)), { code: 'corrupt' });
    }
    // the table of tables lies nowhere, and there are too few
    for (const [at, value] of [
      [40, 1n << 60n],
      [24, 1n << 50n],
    ] as const) {
      const changed = Buffer.from(good);
      changed.writeBigUInt64BE(value, at);
      await writeFile(bad, changed);
      await assert.rejects(whole(bad, copy));
    }
  });
});

/** An image as no program writes it. */
interface Tables {
  version: 2 | 3;
  clusterBits: number;
  sizeBytes: number;
  /** which of the tables each part of the disk has; `undefined` for none */
  of(index: number): number | undefined;
  /** by entry; what is left out is 0 */
  tables: readonly ReadonlyMap<number, bigint>[];
  /** behind the tables: what entries lead to */
  clusters?: readonly Buffer[];
}

async function writeTables(path: string, { version, clusterBits, sizeBytes, of, tables, clusters = [] }: Tables) {
  const cluster = 2 ** clusterBits;
  const count = Math.ceil(sizeBytes / (cluster * (cluster / 8)));
  const tablesAt = Math.ceil(112 / cluster) * cluster;
  const first = tablesAt + Math.ceil((count * 8) / cluster) * cluster;
  const file = Buffer.alloc(first + (tables.length + clusters.length) * cluster);
  file.write('QFI\xfb', 0, 'latin1');
  file.writeUInt32BE(version, 4);
  file.writeUInt32BE(clusterBits, 20);
  file.writeBigUInt64BE(BigInt(sizeBytes), 24);
  file.writeUInt32BE(count, 36);
  file.writeBigUInt64BE(BigInt(tablesAt), 40);
  file.writeUInt32BE(104, 100);
  const placeOf = (index: number) => BigInt(first + index * cluster);
  for (let index = 0; index < count; index++) {
    const table = of(index);
    if (table !== undefined) file.writeBigUInt64BE(placeOf(table), tablesAt + index * 8);
  }
  for (const [index, entries] of tables.entries()) {
    for (const [at, entry] of entries) file.writeBigUInt64BE(entry, first + index * cluster + at * 8);
  }
  for (const [index, bytes] of clusters.entries()) bytes.copy(file, first + (tables.length + index) * cluster);
  await writeFile(path, file);
  return { placeOf };
}

describe('a qcow2 disk image of next to nothing', () => {
  const nothing = { version: 2, of: () => 0, tables: [new Map()] } as const;

  it('costs a look at each of its tables, not at each of its clusters', async (t) => {
    const path = join(await tempDir(t), 'disk.qcow2');
    const sizeBytes = 15 * 2 ** 40;
    await writeTables(path, { ...nothing, clusterBits: 16, sizeBytes });
    await using file = await open(path, 'r');
    const image = await Qcow2.open(file, path);
    let looked = 0;
    const turn = (steps = 1) => {
      looked += steps;
      return undefined;
    };
    assert.equal(await image.nextWithData(0, sizeBytes, turn), sizeBytes);
    // 251,658,240 clusters in 30,720 tables, which are one with 8,192 entries
    assert.equal(looked, 30_720 + 8192);
  });

  it('lets others have their turn, and is given up when it is called off', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'disk.qcow2');
    const sizeBytes = 16 * 2 ** 30;
    await writeTables(path, { ...nothing, clusterBits: 9, sizeBytes });
    await using disk = await openDiskImage(path);
    const part = { at: 0, length: sizeBytes };
    const turns = await turnsDuring(() => copyOut(disk, part, join(dir, 'copy'), { signal }));
    // 524,288 tables
    assert.ok(turns >= 8, `${turns} turns`);
    const stop = new AbortController();
    setImmediate(() => setImmediate(() => setImmediate(() => stop.abort(new Error('called off')))));
    const copying = copyOut(disk, part, join(dir, 'other'), { signal: stop.signal });
    await assert.rejects(copying, /called off/);
  });

  it('is read where there is something, behind tables of zeros and clusters that are said to be', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'disk.qcow2');
    const data = [Buffer.alloc(512, 'a'), Buffer.alloc(512, 'b')];
    // 64 clusters in a table, two tables, and one cluster of a fourth
    const sizeBytes = 512 * (64 * 4 + 1) - 100;
    const tables = [new Map<number, bigint>(), new Map<number, bigint>()];
    const write = (version: 2 | 3) =>
      writeTables(path, {
        ...{ version, clusterBits: 9, sizeBytes, tables, clusters: data },
        of: (index) => [0, 1, undefined, 0, 1][index],
      });
    const { placeOf } = await write(3);
    // in version 3 the lowest bit says that it reads as zeros, whatever is there
    for (const [at, entry] of [
      [0, placeOf(2)],
      [5, placeOf(3) | 1n],
      [6, 1n],
      [63, placeOf(3) | (1n << 63n)],
    ] as const) {
      tables[1]?.set(at, entry);
    }
    await write(3);
    const expected = Buffer.alloc(sizeBytes);
    for (const [cluster, bytes] of [
      [64, data[0]],
      [127, data[1]],
      [256, data[0]],
    ] as const) {
      bytes?.copy(expected, cluster * 512);
    }
    assert.ok((await whole(path, join(dir, 'copy'))).equals(expected));
    await using disk = await openDiskImage(path);
    // the same from anywhere, though tables were seen to be empty meanwhile
    for (const at of [0, 100, 64 * 512, 65 * 512 + 3, 127 * 512 + 511, 200 * 512, sizeBytes - 1, sizeBytes]) {
      for (const length of [1, 700, 64 * 512, sizeBytes]) {
        assert.ok((await disk.read(at, length)).equals(expected.subarray(at, at + length)), `${length} at ${at}`);
      }
    }
  });

  it('is damaged where it leads beyond every file', async (t) => {
    const path = join(await tempDir(t), 'disk.qcow2');
    const tables = [new Map([[3, 0x00fffffffffffe00n]])];
    await writeTables(path, { version: 2, clusterBits: 9, sizeBytes: 32_768, of: () => 0, tables });
    await using disk = await openDiskImage(path);
    await assert.rejects(disk.read(0, 32_768), { code: 'corrupt', message: /it is cut short/ });
  });
});

describe('a plain disk image', () => {
  it('is not read where it has holes', async (t) => {
    if ((await loadSeek()) === undefined) return t.skip('the C library cannot be called');
    const path = join(await tempDir(t), 'disk.raw');
    const sizeBytes = 2 ** 36;
    const places = [0, 7 * 2 ** 30 + 4096, sizeBytes - 4096];
    {
      await using file = await open(path, 'w');
      await file.truncate(sizeBytes);
      for (const at of places) await file.write(Buffer.alloc(4096, 'x'), 0, 4096, at);
    }
    await using disk = await openDiskImage(path);
    let bytes = 0;
    const found = new Set<number>();
    for await (const piece of disk.pieces(0, sizeBytes)) {
      bytes += piece.bytes.length;
      for (const at of places) if (at >= piece.at && at < piece.at + piece.bytes.length) found.add(at);
      if (bytes > MIB) break;
    }
    assert.deepEqual([...found], places);
    assert.equal((await disk.read(7 * 2 ** 30 + 8000, 200)).toString('latin1'), `${'x'.repeat(192)}${'\0'.repeat(8)}`);
    assert.equal((await disk.read(sizeBytes - 2, 10)).toString(), 'xx');
  });
});

describe('a partition table', { skip: lacking('sfdisk', 'mke2fs') }, () => {
  async function sampleParts(t: TestContext) {
    const dir = await tempDir(t);
    const [small, root] = [join(dir, 'small'), join(dir, 'root')];
    makeExt4File(small, 2, { label: 'boot' });
    makeExt4File(root, 4, { label: 'system' });
    return { dir, disk: join(dir, 'disk'), parts: [{ content: small, name: 'first' }, { content: root }] };
  }
  const read = async (path: string) => {
    await using disk = await openDiskImage(path);
    return await readPartitions(disk, path);
  };

  it('of a GPT is read, from its second copy too', async (t) => {
    const { disk, parts } = await sampleParts(t);
    await writeDisk(disk, 'gpt', parts);
    const expected = [
      { number: 1, at: MIB, length: 2 * MIB, type: '0fc63daf-8483-4772-8e79-3d69d8477de4', name: 'first' },
      { number: 2, at: 3 * MIB, length: 4 * MIB, type: '0fc63daf-8483-4772-8e79-3d69d8477de4', name: '' },
    ];
    assert.deepEqual(await read(disk), expected);
    await using file = await open(disk, 'r+');
    await file.write(Buffer.from('broken'), 0, 6, 512 + 72);
    assert.deepEqual(await read(disk), expected);
    const { size } = await file.stat();
    await file.write(Buffer.from('broken'), 0, 6, size - 512 + 72);
    await assert.rejects(read(disk), /both copies of its GPT are damaged/);
  });

  it('of an MBR is read, logical partitions included', async (t) => {
    const { disk, parts } = await sampleParts(t);
    await writeDisk(disk, 'dos', parts);
    assert.deepEqual(
      (await read(disk))?.map(({ number, at, type }) => [number, at / MIB, type]),
      [
        [1, 1, '83'],
        [2, 3, '83'],
      ],
    );
    const lines = ['label: dos', 'size=1MiB, type=83', 'type=5', 'size=1MiB, type=83', 'size=1MiB, type=82', ''];
    execFileSync('sfdisk', ['--quiet', disk], { input: lines.join('\n'), stdio: ['pipe', 'ignore', 'pipe'] });
    const found = (await read(disk)) ?? [];
    assert.deepEqual(
      found.map(({ number, length, type }) => [number, length / MIB, type]),
      [
        [1, 1, '83'],
        [5, 1, '83'],
        [6, 1, '82'],
      ],
    );
  });

  it('whose partitions overlap, or end behind the disk, is refused', async (t) => {
    const { disk, parts } = await sampleParts(t);
    await writeDisk(disk, 'dos', parts);
    await using file = await open(disk, 'r+');
    const entry = (value: number, at: number) => {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(value);
      return file.write(bytes, 0, 4, at);
    };
    await entry(3 * 2048, 446 + 12);
    await assert.rejects(read(disk), /partitions 1 and 2 overlap/);
    await entry(2048, 446 + 12);
    await entry(1_000_000, 446 + 16 + 12);
    await assert.rejects(read(disk), /partition 2 ends at .* the disk at 9 MiB/);
  });

  it('whose partitions overlap in a GPT that is right by its sums is refused', async (t) => {
    const { disk, parts } = await sampleParts(t);
    await writeDisk(disk, 'gpt', parts);
    await using file = await open(disk, 'r+');
    const header = Buffer.alloc(92);
    await file.read(header, 0, 92, 512);
    const table = Buffer.alloc(128 * 128);
    await file.read(table, 0, table.length, 1024);
    table.writeBigUInt64LE(2048n, 128 + 32);
    header.writeUInt32LE(crc32(table), 88);
    header.writeUInt32LE(0, 16);
    header.writeUInt32LE(crc32(header), 16);
    await file.write(header, 0, 92, 512);
    await file.write(table, 0, table.length, 1024);
    await assert.rejects(read(disk), /partitions \d and \d overlap/);
  });

  it('whose logical partitions lead in a circle is refused', async (t) => {
    const { disk, parts } = await sampleParts(t);
    await writeDisk(disk, 'dos', parts);
    await using file = await open(disk, 'r+');
    await file.write(Buffer.from([0x05]), 0, 1, 446 + 16 + 4);
    const chain = Buffer.alloc(512);
    chain.writeUInt8(0x05, 446 + 16 + 4);
    chain.writeUInt32LE(0, 446 + 16 + 8);
    chain.writeUInt32LE(1, 446 + 16 + 12);
    chain.writeUInt16LE(0xaa55, 510);
    await file.write(chain, 0, 512, 3 * MIB);
    await assert.rejects(read(disk), /lead in a circle/);
  });

  it('is not seen in the first sector of a file system', async (t) => {
    const { dir } = await sampleParts(t);
    assert.equal(await read(join(dir, 'root')), undefined);
  });
});

describe('a volume', { skip: lacking('mke2fs', 'mkfs.xfs', 'mkfs.btrfs') }, () => {
  const uuid = '01234567-89ab-cdef-0123-456789abcdef';
  const made: [string, number, string[]][] = [
    ['ext4', 8, ['mke2fs', '-q', '-F', '-t', 'ext4', '-L', 'mine', '-U', uuid]],
    ['xfs', 300, ['mkfs.xfs', '-q', '-L', 'mine', '-m', `uuid=${uuid}`]],
    ['btrfs', 128, ['mkfs.btrfs', '-q', '-L', 'mine', '-U', uuid]],
  ];
  for (const [kind, mib, [program = '', ...words]] of made) {
    it(`says that it is ${kind}, how large it is and what it is called`, async (t) => {
      const path = join(await tempDir(t), 'volume');
      await using file = await open(path, 'w');
      await file.truncate(mib * MIB);
      execFileSync(program, [...words, path]);
      await using disk = await openDiskImage(path);
      const volume = await inspectVolume(disk, 0, mib * MIB);
      assert.deepEqual([volume.kind, volume.label, volume.uuid, volume.problem], [kind, 'mine', uuid, undefined]);
      assert.equal(volume.bytes, mib * MIB);
      assert.match((await inspectVolume(disk, 0, mib * MIB - 1)).problem ?? '', /larger than what it lies in/);
    });
  }

  it('is told by name when no guest can have it as its root', async () => {
    const cases: [number, string, string][] = [
      [0, 'LUKS\xba\xbe', 'an encrypted volume (LUKS)'],
      [512, 'LABELONE', 'a physical volume of LVM'],
      [0xff6, 'SWAPSPACE2', 'swap space'],
      [0, '', 'nothing but zeros'],
      [0, 'x', 'something that is not known here'],
    ];
    for (const [at, text, name] of cases) {
      const bytes = Buffer.alloc(0x20000);
      bytes.write(text, at, 'latin1');
      const found = await inspectVolume({ read: async (from, length) => bytes.subarray(from, from + length) });
      assert.deepEqual([found.kind, found.name], ['other', name]);
    }
  });
});
