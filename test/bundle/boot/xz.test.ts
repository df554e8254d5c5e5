import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, readFile, rename, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { decompressXz } from '../../../src/bundle/boot/xz.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { lacking, runner } from '../sample-bundle.ts';

async function unpack(input: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of decompressXz(input)) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

/** Packs with the real program; returns the packed bytes. */
async function pack(dir: string, plain: string, options: string[]): Promise<Buffer> {
  await copyFile(plain, join(dir, 'copy'));
  await runner.run(['xz', '--force', '--threads=1', ...options, join(dir, 'copy')]);
  await rename(join(dir, 'copy.xz'), join(dir, 'packed.xz'));
  return await readFile(join(dir, 'packed.xz'));
}

/** Real machine code, so that the x86 filter meets branches of every kind. */
async function machineCode(dir: string): Promise<string> {
  const path = join(dir, 'code');
  await copyFile('/bin/bash', path);
  await truncate(path, 1_200_003);
  return path;
}

describe('xz', { skip: lacking('xz') }, () => {
  for (const options of [
    // as scripts/xz_wrap.sh of the kernel packs it
    ['--check=crc32', '--x86', '--lzma2=dict=32MiB'],
    ['--check=crc32', '--lzma2=dict=2MiB'],
    ['--check=sha256', '--lzma2=preset=0,lc=4,lp=0,pb=0'],
    ['--check=crc64', '--lzma2=preset=9,lc=0,lp=4,pb=4'],
    ['--check=none', '--block-size=100KiB'],
  ]) {
    it(`reads machine code packed with ${options.join(' ')}`, async (t) => {
      const dir = await tempDir(t);
      const plain = await machineCode(dir);
      const packed = await pack(dir, plain, options);
      assert.equal(sha256(await unpack(Readable.from([packed]))), sha256(await readFile(plain)));
    });
  }

  it('reads what cannot be compressed and what is empty', async (t) => {
    const dir = await tempDir(t);
    for (const content of [randomBytes(300_000), Buffer.alloc(0)]) {
      await writeFile(join(dir, 'plain'), content);
      const packed = await pack(dir, join(dir, 'plain'), []);
      assert.deepEqual(await unpack(Readable.from([packed])), content);
    }
  });

  it('stops at the end of the stream, whatever follows', async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'plain'), 'kernel');
    const packed = await pack(dir, join(dir, 'plain'), []);
    assert.equal((await unpack(Readable.from([packed, Buffer.from([1, 2, 3, 4])]))).toString(), 'kernel');
  });

  it('refuses data that is cut short', async (t) => {
    const dir = await tempDir(t);
    const packed = await pack(dir, await machineCode(dir), ['--check=crc32']);
    for (const length of [4, 20, 1000, packed.length >> 1, packed.length - 40]) {
      await assert.rejects(unpack(Readable.from([packed.subarray(0, length)])), { code: 'corrupt' }, `${length} bytes`);
    }
  });

  it('notices a single changed byte', async (t) => {
    const dir = await tempDir(t);
    const packed = await pack(dir, await machineCode(dir), ['--check=crc32']);
    for (const at of [7, 13, 500, 50_000]) {
      const damaged = Buffer.from(packed);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      await assert.rejects(unpack(Readable.from([damaged])), { code: 'corrupt' }, `byte ${at}`);
    }
  });

  it('names a filter it does not know', async (t) => {
    const dir = await tempDir(t);
    const packed = await pack(dir, await machineCode(dir), ['--arm', '--lzma2']);
    await assert.rejects(unpack(Readable.from([packed])), /filter 0x7/);
  });

  it('reads from a file in pieces of any size', async (t) => {
    const dir = await tempDir(t);
    const plain = await machineCode(dir);
    await pack(dir, plain, ['--x86', '--lzma2']);
    const input = createReadStream(join(dir, 'packed.xz'), { highWaterMark: 777 });
    assert.equal(sha256(await unpack(input)), sha256(await readFile(plain)));
  });
});
