import assert from 'node:assert/strict';
import { chmod, chown, lchown, mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ensurePrivateDirectory } from '../../src/system/files.ts';
import { requireOwnPlace } from '../../src/system/own-place.ts';
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

describe('a place below one where everybody may write', {
  skip: process.getuid?.() !== 0 && 'only root can give a file to another user',
}, () => {
  const STRANGER = 65_534;

  it('is refused where another user made it, or a link on the way to it', async (t) => {
    const dir = await tempDir(t);
    await chmod(dir, 0o1777);
    await mkdir(join(dir, 'theirs/state'), { recursive: true });
    await chown(join(dir, 'theirs'), STRANGER, STRANGER);
    await mkdir(join(dir, 'own'));
    await symlink(join(dir, 'own'), join(dir, 'link'));
    await lchown(join(dir, 'link'), STRANGER, STRANGER);
    for (const path of ['theirs', 'theirs/state', 'theirs/not/there/yet', 'link/state']) {
      await assert.rejects(ensurePrivateDirectory(join(dir, path)), {
        code: 'host_unprepared',
        message: /\/(theirs|link) belongs to user 65534, who could replace/,
      });
    }
    await ensurePrivateDirectory(join(dir, 'own/state'));
  });

  it('is left alone where only its owner could have made it', async (t) => {
    const dir = await tempDir(t);
    await chmod(dir, 0o755);
    await mkdir(join(dir, 'volume'));
    await chown(join(dir, 'volume'), STRANGER, STRANGER);
    // of a temporary directory of this test, which is root's
    requireOwnPlace(join(dir, 'not/there'), 0);
    assert.throws(() => requireOwnPlace(join(dir, 'volume'), 0), { code: 'host_unprepared' });
    requireOwnPlace(join(dir, 'volume'), STRANGER);
    requireOwnPlace('/proc/1/root/x', STRANGER);
  });
});
