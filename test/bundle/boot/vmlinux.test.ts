import assert from 'node:assert/strict';
import { existsSync, statSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { unpack } from '../../../src/bundle/boot/unpack.ts';
import { extractVmlinux } from '../../../src/bundle/boot/vmlinux.ts';
import type { Argv } from '../../../src/system/runner.ts';
import { MIB } from '../../../src/units.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { bzImage, elfKernel, lacking, runner, unpacking, withSize } from '../sample-bundle.ts';

/** How the kernel build packs each format, and the name the program gives the result. */
const PACKERS: Record<string, (plain: string) => { argv: Argv; packed: string }> = {
  lz4: (plain) => ({ argv: ['lz4', '-q', '-l', '-9', plain, `${plain}.lz4`], packed: `${plain}.lz4` }),
  gzip: (plain) => ({ argv: ['gzip', '-n', '-f', '-9', '-k', plain], packed: `${plain}.gz` }),
  xz: (plain) => ({ argv: ['xz', '-k', '--check=crc32', '--x86', '--lzma2=dict=32MiB', plain], packed: `${plain}.xz` }),
  zstd: (plain) => ({ argv: ['zstd', '-q', '-k', '-19', plain], packed: `${plain}.zst` }),
};

async function packed(dir: string, format: string, kernel: Buffer): Promise<Buffer> {
  const plain = join(dir, 'vmlinux.bin');
  await writeFile(plain, kernel);
  const packer = PACKERS[format]?.(plain);
  assert.ok(packer);
  await runner.run(packer.argv);
  const payload = await readFile(packer.packed);
  return format === 'gzip' ? payload : withSize(payload, kernel.length);
}

describe('a kernel out of its bzImage', { skip: lacking('lz4', 'gzip', 'xz', 'zstd') }, () => {
  const kernel = elfKernel({ loadBytes: 3_000_000 });

  for (const format of Object.keys(PACKERS)) {
    it(`is the one that was packed, with ${format}`, async (t) => {
      const dir = await tempDir(t);
      await writeFile(join(dir, 'bzImage'), bzImage(await packed(dir, format, kernel)));
      await extractVmlinux(unpacking, join(dir, 'bzImage'), join(dir, 'vmlinux'));
      assert.ok((await readFile(join(dir, 'vmlinux'))).equals(kernel));
    });

    it(`is refused when its ${format} data is damaged`, async (t) => {
      const dir = await tempDir(t);
      const payload = await packed(dir, format, kernel);
      payload.fill(0xa5, payload.length >> 1, (payload.length >> 1) + 64);
      await writeFile(join(dir, 'bzImage'), bzImage(payload));
      await assert.rejects(extractVmlinux(unpacking, join(dir, 'bzImage'), join(dir, 'vmlinux')), { code: 'corrupt' });
    });
  }

  it('is refused when it unpacks to another size than it says', async (t) => {
    const dir = await tempDir(t);
    const payload = await packed(dir, 'lz4', kernel);
    for (const size of [kernel.length - 1, kernel.length + 1]) {
      payload.writeUInt32LE(size, payload.length - 4);
      await writeFile(join(dir, 'bzImage'), bzImage(payload));
      await assert.rejects(extractVmlinux(unpacking, join(dir, 'bzImage'), join(dir, 'vmlinux')), /another size/);
    }
  });

  it('is refused when the file is cut short, is no bzImage, or is packed in an unknown way', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'bzImage');
    const payload = await packed(dir, 'gzip', kernel);
    const cases: [Buffer, RegExp][] = [
      [bzImage(payload, payload.length + 100_000), /cut short/],
      [Buffer.from('not a kernel'), /no kernel setup header/],
      [bzImage(Buffer.from('BZh91AY&SY and so on')), /compressed in a way banger cannot read/],
    ];
    for (const [content, message] of cases) {
      await writeFile(path, content);
      await assert.rejects(extractVmlinux(unpacking, path, join(dir, 'vmlinux')), { code: 'corrupt', message });
    }
  });

  it('is not held in memory as a whole', async (t) => {
    const dir = await tempDir(t);
    const large = elfKernel({ loadBytes: 64 * MIB });
    const payload = await packed(dir, 'zstd', large);
    const image = join(dir, 'bzImage');
    await writeFile(image, bzImage(payload));
    let bytes = 0;
    let largest = 0;
    for await (const chunk of unpack(Readable.from([payload.subarray(0, -4)]), 'zstd', unpacking)) {
      bytes += chunk.length;
      // a piece of something larger would keep all of it
      largest = Math.max(largest, chunk.buffer.byteLength);
    }
    assert.equal(bytes, large.length);
    assert.ok(largest <= MIB, `${largest} bytes were held at once`);
    // and each piece is written before the next: one that is called off has written what it had, and not all
    const output = join(dir, 'vmlinux');
    const stop = new AbortController();
    const stopped = assert.rejects(extractVmlinux(unpacking, image, output, stop.signal), { code: 'cancelled' });
    while (!existsSync(output) || statSync(output).size === 0) await setImmediate();
    stop.abort();
    await stopped;
    assert.ok(statSync(output).size < large.length);
  });

  it('is asked of a program that may not be installed, which is said', async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'bzImage'), bzImage(await packed(dir, 'lz4', kernel)));
    const without = { runner, programs: { xz: 'xz', lz4: 'no-such-lz4' } };
    await assert.rejects(extractVmlinux(without, join(dir, 'bzImage'), join(dir, 'vmlinux')), {
      code: 'host_unprepared',
      message: 'The program `no-such-lz4` is not installed (looked in PATH).',
    });
  });

  it('stops when asked to', async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'bzImage'), bzImage(await packed(dir, 'gzip', kernel)));
    const signal = AbortSignal.abort();
    await assert.rejects(extractVmlinux(unpacking, join(dir, 'bzImage'), join(dir, 'vmlinux'), signal), {
      code: 'cancelled',
    });
  });
});
