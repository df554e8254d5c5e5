/** How memory files are written: all of them, and none that others may have. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { appendFile, open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, it } from 'node:test';
import { writeAt } from '../../fcqemu/vmm/memory-parts.ts';
import { replaceFile } from '../../fcqemu/vmm/replace-file.ts';
import { writeAll } from '../../src/storage/hole-writer.ts';
import { tempDir } from '../support/temp-dir.ts';

/** The user of no file. */
const NOBODY = 65_534;

/** A file that takes three bytes at a time until there is no room. */
function smallFile(room: number) {
  const content = Buffer.alloc(room);
  let left = room;
  const write = async (bytes: Buffer, at: number, length: number, position: number) => {
    const bytesWritten = Math.min(3, length, left);
    bytes.copy(content, position, at, at + bytesWritten);
    left -= bytesWritten;
    return { bytesWritten, buffer: bytes };
  };
  return { content, file: { write: write as never } };
}

describe('what is written at a place', () => {
  for (const [name, act] of Object.entries({ writeAt, writeAll })) {
    it(`is written to its end, or there is an error (${name})`, async () => {
      const { content, file } = smallFile(20);
      await act(file, Buffer.from('0123456789'), 4);
      assert.equal(content.toString('latin1', 0, 14), '\0\0\0\x000123456789');
      await assert.rejects(act(file, Buffer.from('0123456789ab'), 4));
    });
  }
});

describe('a file that takes the place of another one', () => {
  it('does so beside what one of the same process number had left', async (t) => {
    const path = join(await tempDir(t), 'memory');
    writeFileSync(path, 'old', { mode: 0o640 });
    const leftOver = `${path}.${process.pid}.new`;
    writeFileSync(leftOver, 'left over');
    await using old = await open(path);
    await replaceFile(path, async (to) => {
      assert.equal(statSync(to).size, 0);
      await appendFile(to, 'new');
    });
    assert.deepEqual([readFileSync(path, 'utf8'), await old.readFile('utf8')], ['new', 'old']);
    assert.equal(statSync(path).mode & 0o777, 0o640);
    assert.deepEqual(readdirSync(join(path, '..')).sort(), [basename(path), basename(leftOver)]);
  });

  it('is not written over it where it cannot be made beside it, unless that is empty', async (t) => {
    const path = join(await tempDir(t), 'm'.repeat(250));
    writeFileSync(path, 'old');
    const write = t.mock.fn((to: string) => appendFile(to, 'new'));
    await assert.rejects(replaceFile(path, write), { code: 'ENAMETOOLONG' });
    assert.equal(write.mock.callCount(), 0);
    assert.equal(readFileSync(path, 'utf8'), 'old');
    writeFileSync(path, '');
    await replaceFile(path, write);
    assert.equal(readFileSync(path, 'utf8'), 'new');
  });

  it('is written where it is by a user who has nothing but that file, and cannot follow its path', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('needs root');
    const closed = await tempDir(t);
    const directory = join(closed, 'vm');
    mkdirSync(directory);
    chmodSync(closed, 0o700);
    writeFileSync(join(directory, 'memory'), '');
    chmodSync(directory, 0o755);
    chownSync(join(directory, 'memory'), NOBODY, NOBODY);
    const module = join(import.meta.dirname, '../../fcqemu/vmm/replace-file.ts');
    const program = `
      const { replaceFile } = await import(${JSON.stringify(module)});
      const { appendFile } = await import('node:fs/promises');
      process.chdir(${JSON.stringify(directory)});
      process.setegid(${NOBODY});
      process.seteuid(${NOBODY});
      await replaceFile('memory', (to) => appendFile(to, 'new'));`;
    execFileSync(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'pipe'] });
    assert.equal(readFileSync(join(directory, 'memory'), 'utf8'), 'new');
  });

  it('is gone when it cannot be written', async (t) => {
    const path = join(await tempDir(t), 'memory');
    writeFileSync(path, 'old');
    await assert.rejects(
      replaceFile(path, () => Promise.reject(new Error('no'))),
      /no/,
    );
    assert.deepEqual(readdirSync(join(path, '..')), ['memory']);
    assert.equal(readFileSync(path, 'utf8'), 'old');
  });
});
