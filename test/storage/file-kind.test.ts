import assert from 'node:assert/strict';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { foreignKind } from '../../src/storage/file-kind.ts';
import { tempDir } from '../support/temp-dir.ts';

const SECTOR = 512;

/** A sparse file of 100 MB with these bytes in it. */
async function fileWith(t: TestContext, parts: readonly [number, Buffer | string][]): Promise<string> {
  const path = join(await tempDir(t), 'disk');
  await using file = await open(path, 'w');
  await file.truncate(100_000_000);
  for (const [at, bytes] of parts) await file.write(Buffer.from(bytes as string, 'latin1'), 0, bytes.length, at);
  return path;
}

function mbr(...partitions: [type: number, start: number, sectors: number][]): Buffer {
  const sector = Buffer.alloc(SECTOR);
  partitions.forEach(([type, start, sectors], index) => {
    sector.writeUInt8(type, 446 + 16 * index + 4);
    sector.writeUInt32LE(start, 446 + 16 * index + 8);
    sector.writeUInt32LE(sectors, 446 + 16 * index + 12);
  });
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

describe('a file that is no image', () => {
  it('is named by what it is, with the command that helps', async (t) => {
    const cases: [number, string, string, RegExp][] = [
      [0, 'QFI\xfb', 'a qcow2 disk image', /qemu-img convert -f qcow2 -O raw \S+disk \S+disk\.raw/],
      [0, 'XFSB', 'an XFS file system', /mke2fs -t ext4 -d/],
      [0x10040, '_BHRfS_M', 'a btrfs file system', /mke2fs -t ext4 -d/],
      [0, '\x1f\x8b\x08', 'a file compressed by gzip', /gzip -dc/],
      [0, '\x7fELF', 'a program or kernel (ELF)', /--kernel FILE/],
    ];
    for (const [at, bytes, name, remedy] of cases) {
      const kind = await foreignKind(await fileWith(t, [[at, bytes]]));
      assert.equal(kind?.name, name);
      assert.match(kind?.remedy ?? '', remedy);
    }
  });

  it('has its largest partition cut out by the command, of an MBR and of a GPT', async (t) => {
    const legacy = await fileWith(t, [[0, mbr([0x0c, 2048, 1000], [0x83, 4096, 100_000])]]);
    assert.match((await foreignKind(legacy))?.remedy ?? '', /skip=2097152 count=51200000$/);
    const header = Buffer.alloc(SECTOR);
    header.write('EFI PART', 'latin1');
    header.writeBigUInt64LE(2n, 72);
    header.writeUInt32LE(128, 80);
    header.writeUInt32LE(128, 84);
    const entry = Buffer.concat([Buffer.alloc(16, 1), Buffer.alloc(112)]);
    entry.writeBigUInt64LE(2048n, 32);
    entry.writeBigUInt64LE(4095n, 40);
    const gpt = await fileWith(t, [
      [0, mbr([0xee, 1, 0xffffffff])],
      [SECTOR, header],
      [2 * SECTOR, entry],
    ]);
    assert.match((await foreignKind(gpt))?.name ?? '', /a disk with partitions, the largest of 1 MiB/);
    assert.match((await foreignKind(gpt))?.remedy ?? '', /skip=1048576 count=1048576$/);
  });

  it('is empty, or nothing but zeros', async (t) => {
    const empty = join(await tempDir(t), 'empty');
    await writeFile(empty, '');
    assert.equal((await foreignKind(empty))?.name, 'an empty file');
    assert.equal((await foreignKind(await fileWith(t, [])))?.name, 'a file of zeros');
  });

  it('may be an archive or an ext4 file system: nothing is said of those', async (t) => {
    assert.equal(await foreignKind(await fileWith(t, [[0, '\x28\xb5\x2f\xfd']])), undefined);
    assert.equal(await foreignKind(await fileWith(t, [[1080, '\x53\xef']])), undefined);
  });
});
