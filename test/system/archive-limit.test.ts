/** An archive whose list of entries is longer than what is read of it: the last of them may be anything. */
import assert from 'node:assert/strict';
import { mkdir, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { unpackArchive } from '../../src/system/archive.ts';
import { checkEntries, MAX_LISTING_BYTES, parseListing } from '../../src/system/archive-entries.ts';
import { createRunner } from '../../src/system/runner.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const KIND = { noun: 'bundle', manifest: 'bundle.json', madeBy: 'banger bundle export', setting: 'paths.bundles' };
const BLOCK = 512;

/** The header of an empty file, ustar(5). */
function header(prefix: string, name: string): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0, 100, 'latin1');
  const zero = (digits: number) => `${'0'.repeat(digits)}\0`;
  block.write(`0000644\0${zero(7)}${zero(7)}${zero(11)}${zero(11)}        0`, 100, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  block.write(prefix, 345, 155, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

describe('a list of entries at its limit', { skip: lacking('tar', 'zstd') }, () => {
  it('is refused when it is longer than what is read of it, before anything is unpacked', async (t) => {
    const dir = await tempDir(t);
    const file = join(dir, 'x.tar');
    // tar writes each byte of these names as four: the list is twice as long as the archive
    const blocks = [header('', 'b/bundle.json')];
    for (let index = 0; index * 960 < MAX_LISTING_BYTES; index++) {
      blocks.push(header('\x01'.repeat(150), `${'\x01'.repeat(90)}${index}`));
    }
    blocks.push(header('', '../../evil'), Buffer.alloc(2 * BLOCK));
    await using archive = await open(file, 'w');
    await archive.writev(blocks.slice(0, 1));
    await archive.write(Buffer.concat(blocks.slice(1)));
    const into = join(dir, 'into');
    await mkdir(into);
    const deps = { runner: createRunner(), programs: { tar: 'tar', zstd: 'zstd' } };
    await assert.rejects(unpackArchive(deps, file, into, KIND), { code: 'corrupt', message: /has too many entries/ });
    assert.deepEqual(await readdir(into), []);
    assert.deepEqual((await readdir(dir)).sort(), ['into', 'x.tar']);
  });

  it('is read in linear time up to it', () => {
    const line = `-rw-r--r-- 0/0            10 2026-01-02 03:04:05.000000000 "b/${'\\001'.repeat(60)}"\n`;
    const cpuMs = (bytes: number) => {
      const text = line.repeat(Math.floor(bytes / line.length));
      const before = process.cpuUsage();
      assert.throws(() => checkEntries(parseListing(text), 'x.tar', KIND), { code: 'corrupt' });
      return process.cpuUsage(before).user / 1000;
    };
    const [part, whole] = [cpuMs(MAX_LISTING_BYTES / 8), cpuMs(MAX_LISTING_BYTES)];
    assert.ok(whole < part * 32, `${part} and ${whole} ms`);
  });
});
