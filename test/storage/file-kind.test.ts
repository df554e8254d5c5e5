import assert from 'node:assert/strict';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { foreignKind } from '../../src/storage/file-kind.ts';
import { tempDir } from '../support/temp-dir.ts';

/** A sparse file of 100 MB with these bytes in it. */
async function fileWith(t: TestContext, parts: readonly [number, Buffer | string][]): Promise<string> {
  const path = join(await tempDir(t), 'disk');
  await using file = await open(path, 'w');
  await file.truncate(100_000_000);
  for (const [at, bytes] of parts) await file.write(Buffer.from(bytes as string, 'latin1'), 0, bytes.length, at);
  return path;
}

describe('a file that is no image', () => {
  it('is named by what it is, with the command that helps', async (t) => {
    const cases: [number, string, string, RegExp][] = [
      [0, 'QFI\xfb', 'a qcow2 disk image', /banger image import \S+disk$/],
      [0, 'KDMV', 'a VMDK disk image', /qemu-img convert -f vmdk -O raw \S+disk \S+disk\.raw/],
      [0, 'XFSB', 'an XFS file system', /banger image import/],
      [0x10040, '_BHRfS_M', 'a btrfs file system', /banger image import/],
      [0, '\x1f\x8b\x08', 'a file compressed by gzip', /gzip -dc/],
      [0, '\x7fELF', 'a program or kernel (ELF)', /--kernel FILE/],
    ];
    for (const [at, bytes, name, remedy] of cases) {
      const kind = await foreignKind(await fileWith(t, [[at, bytes]]));
      assert.equal(kind?.name, name);
      assert.match(kind?.remedy ?? '', remedy);
    }
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
