import assert from 'node:assert/strict';
import { type FileHandle, mkdir, open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { inspectKernel, kernelProblem } from '../../../src/bundle/boot/kernel.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { bzImage, elfKernel } from '../sample-bundle.ts';

describe('inspecting a kernel', () => {
  const inspect = async (dir: string, content: Buffer) => {
    await writeFile(join(dir, 'kernel'), content);
    return await inspectKernel(join(dir, 'kernel'));
  };

  it('finds the PVH entry point of an ELF kernel behind its other notes', async (t) => {
    const kernel = elfKernel();
    assert.deepEqual(await inspect(await tempDir(t), kernel), {
      kind: 'elf',
      arch: 'x86_64',
      pvhEntry: 0x1000150,
      sizeBytes: kernel.length,
    });
  });

  it('tells how far a cut-short one is short', async (t) => {
    const dir = await tempDir(t);
    const kernel = elfKernel();
    const found = await inspect(dir, kernel.subarray(0, kernel.length - 10));
    assert.deepEqual(found, { kind: 'truncated', sizeBytes: kernel.length - 10, neededBytes: kernel.length });
    const headerOnly = await inspect(dir, kernel.subarray(0, 100));
    assert.equal(headerOnly.kind, 'truncated');
  });

  it('knows a bzImage, an arm64 image, text, and an empty file', async (t) => {
    const dir = await tempDir(t);
    const arm = Buffer.alloc(4096);
    arm.write('ARM\x64', 56, 'latin1');
    assert.equal((await inspect(dir, bzImage(Buffer.alloc(100)))).kind, 'bzimage');
    assert.deepEqual(await inspect(dir, arm), { kind: 'image', arch: 'aarch64', sizeBytes: 4096 });
    assert.deepEqual(await inspect(dir, Buffer.from('hello')), {
      kind: 'unusable',
      reason: 'neither ELF nor bzImage',
      sizeBytes: 5,
    });
    assert.deepEqual(await inspect(dir, Buffer.alloc(0)), { kind: 'unusable', reason: 'empty', sizeBytes: 0 });
  });

  it('says why each kind of wrong kernel cannot boot', async (t) => {
    const dir = await tempDir(t);
    const problem = async (content: Buffer) => kernelProblem(await inspect(dir, content), 'x86_64');
    assert.equal(await problem(elfKernel()), undefined);
    assert.equal(await problem(elfKernel({ pvh: false })), 'has no PVH entry point (CONFIG_PVH is off)');
    assert.equal(await problem(elfKernel({ machine: 183 })), 'is for aarch64, not x86_64');
    assert.equal(await problem(elfKernel({ machine: 3 })), 'is no kernel: it is an ELF file for machine 3');
    assert.equal(await problem(elfKernel().subarray(0, 300)), 'is cut short: it has 300 of 4312 bytes');
    assert.match((await problem(bzImage(Buffer.alloc(100)))) ?? '', /must be an uncompressed ELF file/);
  });

  it('makes no room for what headers only claim', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'kernel');
    const header = Buffer.alloc(512);
    elfKernel().copy(header, 0, 0, 64);
    header.writeBigUInt64LE(64n, 32);
    header.writeUInt16LE(0x7fff, 54);
    header.writeUInt16LE(0xffff, 56);
    await writeFile(path, header);
    // a sparse file takes no more of the disk than its 512 bytes
    await truncate(path, 2 ** 32);
    await using file = await open(path);
    const read = t.mock.method(Object.getPrototypeOf(file) as FileHandle, 'read');
    const found = await inspectKernel(path);
    assert.deepEqual(found, {
      kind: 'unusable',
      reason: 'an ELF file with headers that no kernel has',
      sizeBytes: 2 ** 32,
    });
    const asked = read.mock.calls.map(({ arguments: [buffer] }) => (buffer as unknown as Buffer).byteLength);
    assert.ok(asked.length > 0 && Math.max(...asked) < 64 * 1024, `room was made for ${asked} bytes`);
  });

  it('refuses a directory, and says that a missing file is missing', async (t) => {
    const dir = await tempDir(t);
    await mkdir(join(dir, 'd'));
    assert.deepEqual(await inspectKernel(join(dir, 'd')), {
      kind: 'unusable',
      reason: 'not a regular file',
      sizeBytes: 0,
    });
    await assert.rejects(inspectKernel(join(dir, 'gone')), { code: 'not_found', hint: /bundle build/ });
  });
});
