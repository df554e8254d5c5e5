/** The filter that keeps memory files from being written to, in a process of its own because it cannot be removed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tempDir } from '../support/temp-dir.ts';

const pathOf = (file: string) => fileURLToPath(new URL(`../../fcqemu/${file}`, import.meta.url));

describe('the guard of memory files', () => {
  it('lets children believe that they punch holes, and leaves everything else to them', async (t) => {
    const dir = await tempDir(t);
    const [kept, open, grown] = [join(dir, 'kept'), join(dir, 'open'), join(dir, 'grown')];
    for (const file of [kept, open]) writeFileSync(file, Buffer.alloc(8192, 'x'));
    const script = `process.removeAllListeners('warning');
      const { spawnSync } = await import('node:child_process');
      const { loadLibc } = await import(${JSON.stringify(pathOf('libc.ts'))});
      const { guardMemoryFile } = await import(${JSON.stringify(pathOf('qemu/memory-file-guard.ts'))});
      const punch = (file) => spawnSync('fallocate', ['--punch-hole', '--length', '4096', file]).status;
      const before = punch(${JSON.stringify(open)});
      guardMemoryFile(await loadLibc());
      guardMemoryFile(await loadLibc());
      const grow = spawnSync('fallocate', ['--length', '4096', ${JSON.stringify(grown)}]).status;
      console.log([before, punch(${JSON.stringify(kept)}), grow].join());`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    assert.equal(stdout, '0,0,0\n', stderr);
    assert.equal(readFileSync(open)[0], 0);
    assert.ok(readFileSync(kept).equals(Buffer.alloc(8192, 'x')));
    assert.equal(statSync(grown).size, 4096);
  });

  it('is refused where the C library cannot be called', async () => {
    const { guardMemoryFile } = await import('../../fcqemu/qemu/memory-file-guard.ts');
    assert.throws(() => guardMemoryFile(undefined), /no filter for it/);
  });
});
