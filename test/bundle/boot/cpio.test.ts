import assert from 'node:assert/strict';
import { lstat, mkdir, readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type CpioEntry, writeCpio } from '../../../src/bundle/boot/cpio.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { lacking, runner } from '../sample-bundle.ts';

const ENTRIES: CpioEntry[] = [
  { type: 'directory', path: 'bin' },
  { type: 'directory', path: 'bin/deep', mode: 0o700 },
  { type: 'file', path: 'bin/a', data: Buffer.from('one'), mode: 0o755 },
  { type: 'file', path: 'bin/bb', data: Buffer.alloc(0) },
  { type: 'file', path: 'bin/deep/ccc', data: Buffer.alloc(4097, 'x') },
  { type: 'symlink', path: 'bin/link', target: 'a' },
];

/** The headers of an archive, read again from its bytes. */
function headers(archive: Buffer): Record<string, { mode: string; inode: number; links: number; rdev: string }> {
  const found: ReturnType<typeof headers> = {};
  const align = (at: number) => Math.ceil(at / 4) * 4;
  for (let at = 0; ; ) {
    assert.equal(archive.toString('latin1', at, at + 6), '070701', `magic at ${at}`);
    const fields = Array.from({ length: 13 }, (_, index) =>
      Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16),
    );
    const [inode = 0, mode = 0, , , links = 0, , size = 0, , , major = 0, minor = 0, nameSize = 0] = fields;
    const name = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    if (name === 'TRAILER!!!') return found;
    found[name] = { mode: mode.toString(8), inode, links, rdev: `${major}:${minor}` };
    at = align(align(at + 110 + nameSize) + size);
  }
}

describe('the cpio writer', () => {
  it('writes archives another program unpacks to the same files', { skip: lacking('busybox') }, async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'archive'), writeCpio(ENTRIES));
    await mkdir(join(dir, 'out'));
    await runner.run(['busybox', 'cpio', '-i', '-F', join(dir, 'archive')], { cwd: join(dir, 'out') });
    assert.deepEqual(
      (await readdir(join(dir, 'out'), { recursive: true })).sort(),
      ENTRIES.map((entry) => entry.path).sort(),
    );
    assert.equal(await readFile(join(dir, 'out/bin/a'), 'utf8'), 'one');
    assert.equal((await readFile(join(dir, 'out/bin/deep/ccc'))).length, 4097);
    assert.equal(await readlink(join(dir, 'out/bin/link')), 'a');
    assert.equal(((await lstat(join(dir, 'out/bin/a'))).mode & 0o777).toString(8), '755');
    assert.equal(((await lstat(join(dir, 'out/bin/deep'))).mode & 0o777).toString(8), '700');
  });

  it('gives each entry an inode of its own and directories their links', () => {
    const found = headers(writeCpio(ENTRIES));
    assert.equal(new Set(Object.values(found).map((entry) => entry.inode)).size, ENTRIES.length);
    assert.equal(found.bin?.links, 3);
    assert.equal(found['bin/deep']?.links, 2);
    assert.equal(found['bin/a']?.links, 1);
  });

  it('writes device nodes with their numbers', () => {
    const found = headers(
      writeCpio([
        { type: 'directory', path: 'dev' },
        { type: 'device', path: 'dev/console', kind: 'char', major: 5, minor: 1 },
        { type: 'device', path: 'dev/vda', kind: 'block', major: 254, minor: 0, mode: 0o660 },
      ]),
    );
    assert.deepEqual(found['dev/console'], { mode: '20600', inode: 2, links: 1, rdev: '5:1' });
    assert.deepEqual(found['dev/vda'], { mode: '60660', inode: 3, links: 1, rdev: '254:0' });
  });

  it('gives equal bytes for equal entries, in whole blocks', () => {
    const archive = writeCpio(ENTRIES);
    assert.ok(archive.equals(writeCpio(ENTRIES)));
    assert.equal(archive.length % 512, 0);
  });

  it('refuses an entry before its directory, a path twice, and an absolute path', () => {
    const file = (path: string): CpioEntry => ({ type: 'file', path, data: Buffer.alloc(1) });
    for (const entries of [[file('bin/a')], [file('a'), file('a')], [file('/a')]]) {
      assert.throws(() => writeCpio(entries), { code: 'internal' });
    }
  });
});
