import assert from 'node:assert/strict';
import { appendFile, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { followFile, lastLines, limitLog, rotateLog, stripControls } from '../../src/firecracker/console.ts';
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
});
