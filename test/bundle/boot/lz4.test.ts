import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { decompressLz4Legacy } from '../../../src/bundle/boot/lz4.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { lacking, runner } from '../sample-bundle.ts';

/** Text that repeats at many distances, with random stretches between. */
function mixed(bytes: number): Buffer {
  const parts: Buffer[] = [];
  for (let size = 0; size < bytes; ) {
    const part =
      parts.length % 3 === 0 ? randomBytes(1000) : Buffer.alloc(700 + parts.length, `line ${parts.length % 7}\n`);
    parts.push(part);
    size += part.length;
  }
  return Buffer.concat(parts).subarray(0, bytes);
}

async function digestOf(input: AsyncIterable<Buffer>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of decompressLz4Legacy(input)) hash.update(chunk);
  return hash.digest('hex');
}

describe('the LZ4 legacy frame', { skip: lacking('lz4') }, () => {
  for (const [name, content] of [
    ['several blocks', mixed(20 * 1024 * 1024)],
    ['one byte repeated', Buffer.alloc(100_000, 7)],
    ['nothing compressible', randomBytes(50_000)],
    ['a single byte', Buffer.from([1])],
  ] as const) {
    it(`reads what lz4 -l writes: ${name}`, async (t) => {
      const dir = await tempDir(t);
      await writeFile(join(dir, 'plain'), content);
      await runner.run(['lz4', '-q', '-l', '-9', join(dir, 'plain'), join(dir, 'packed')]);
      const digest = await digestOf(createReadStream(join(dir, 'packed')));
      assert.equal(digest, createHash('sha256').update(content).digest('hex'));
    });
  }

  it('refuses data that is cut short, wherever it is cut', async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'plain'), mixed(5000));
    await runner.run(['lz4', '-q', '-l', join(dir, 'plain'), join(dir, 'packed')]);
    const packed = Buffer.concat(await createReadStream(join(dir, 'packed')).toArray());
    for (const length of [3, 6, 9, 100, packed.length - 1]) {
      await assert.rejects(
        digestOf(Readable.from([packed.subarray(0, length)])),
        { code: 'corrupt' },
        `${length} bytes`,
      );
    }
  });

  it('refuses matches that point before the beginning', async () => {
    // token: no literals, match of 4; distance 9 although nothing was written yet
    const block = Buffer.from([0x00, 0x09, 0x00]);
    const frame = Buffer.from([0x02, 0x21, 0x4c, 0x18, block.length, 0, 0, 0, ...block]);
    await assert.rejects(digestOf(Readable.from([frame])), /points outside/);
  });
});
