import assert from 'node:assert/strict';
import { appendFile, open, readFile, rename, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  followFile,
  freeOldLines,
  lastLines,
  limitLog,
  rotateLog,
  stripControls,
} from '../../src/firecracker/console.ts';
import { createRunner, type Runner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('console log', () => {
  it('shows its last lines, and none of a file that is not there', async (t) => {
    const path = join(await tempDir(t), 'console.log');
    assert.deepEqual(await lastLines(path, 5), []);
    await writeFile(path, 'one\r\ntwo\r\nthree\r\n');
    assert.deepEqual(await lastLines(path, 2), ['two', 'three']);
    assert.deepEqual(await lastLines(path, 0), []);
  });

  it('loses what could take over the terminal of its reader', () => {
    assert.equal(stripControls('\x1b[2J\x1b[31mred\x1b[0m \x1b]0;title\x07ok\x00\x08\r\n\ttab'), 'red ok\n\ttab');
  });

  it('is followed while it grows, before it exists and after it was cut', async (t) => {
    const path = join(await tempDir(t), 'console.log');
    const stop = new AbortController();
    const seen: string[] = [];
    const following = (async () => {
      for await (const chunk of followFile(path, 0, stop.signal)) {
        seen.push(chunk);
        const all = seen.join('');
        if (all === 'first') await appendFile(path, ' second');
        if (all === 'first second') {
          await truncate(path, 0);
          await appendFile(path, 'new');
        }
        if (all.endsWith('new')) stop.abort();
      }
    })();
    await writeFile(path, 'first');
    await following;
    assert.equal(seen.join(''), 'first secondnew');
  });

  it('is kept as the previous one when a new run begins', async (t) => {
    const path = join(await tempDir(t), 'console.log');
    await rotateLog(path);
    await writeFile(path, 'old run');
    await rotateLog(path);
    assert.equal(await readFile(`${path}.previous`, 'utf8'), 'old run');
  });

  it('is cut to its end when a guest prints without measure', async (t) => {
    const path = join(await tempDir(t), 'console.log');
    await writeFile(path, `${'x'.repeat(17 * 1024 * 1024)}the end`);
    assert.equal(await limitLog(path), true);
    assert.ok((await stat(path)).size <= 256 * 1024);
    assert.ok((await readFile(path, 'utf8')).endsWith('the end'));
    assert.equal(await limitLog(path), false);
  });

  it('is not cut through a link', async (t) => {
    const path = join(await tempDir(t), 'console.log');
    await writeFile(path, '');
    await truncate(path, 17 * 1024 * 1024);
    await rename(path, `${path}.other`);
    await symlink(`${path}.other`, path);
    assert.equal(await limitLog(path), false);
    assert.equal((await stat(path)).size, 17 * 1024 * 1024);
  });
});

describe('the log of a VMM', () => {
  const runner = createRunner();
  const noHoles: Runner = { ...runner, run: () => Promise.reject(new Error('Operation not supported')) };
  for (const [where, by] of [
    ['', runner],
    [' where no holes can be made', noHoles],
  ] as const) {
    it(`takes little room and loses no new lines, though its writer does not append${where}`, async (t) => {
      const path = join(await tempDir(t), 'vmm.log');
      await using file = await open(path, 'wx');
      const flood = () => file.write(`${'x'.repeat(1023)}\n`.repeat(17 * 1024));
      assert.equal(await freeOldLines(by, path), false);
      for (let cut = 1; cut <= 2; cut++) {
        await flood();
        await file.write(`before cut ${cut}\n`);
        const { size } = await stat(path);
        assert.equal(await freeOldLines(by, path), true);
        assert.ok((await stat(path)).blocks * 512 <= 300 * 1024);
        assert.equal((await stat(path)).size, size);
        await file.write(`after cut ${cut}\n`);
        assert.equal(await freeOldLines(by, path), false);
        assert.deepEqual(await lastLines(path, 2), [`before cut ${cut}`, `after cut ${cut}`]);
        assert.ok((await lastLines(path, 1000)).length > 200);
      }
    });
  }

  it('is not freed through a link', async (t) => {
    const path = join(await tempDir(t), 'vmm.log');
    await writeFile(`${path}.other`, 'x'.repeat(17 * 1024 * 1024));
    await symlink(`${path}.other`, path);
    assert.equal(await freeOldLines(runner, path), false);
  });
});
