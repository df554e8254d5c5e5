import assert from 'node:assert/strict';
import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ensurePrivateDirectory } from '../../src/system/files.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('a private directory', () => {
  it('is made with those above it, and may be there already', async (t) => {
    const path = join(await tempDir(t), 'a/b/c');
    await ensurePrivateDirectory(path);
    await ensurePrivateDirectory(path);
    assert.equal((await stat(path)).mode & 0o777, 0o700);
  });

  it('that cannot be made is an error with its reason, also where the kernel makes nothing', {
    timeout: 10_000,
  }, async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'file'), '');
    const cases: [string, RegExp][] = [
      [join(dir, 'file/state'), /The directory \S+file\/state cannot be made: what is above it is a file/],
      ['/proc/no-such/state', /The directory \/proc\/no-such cannot be made: nothing can be made there/],
    ];
    for (const [path, says] of cases) {
      await assert.rejects(ensurePrivateDirectory(path), { code: 'host_unprepared', message: says });
    }
  });
});
