/** The filter that keeps memory files from being written to, in a process of its own because it cannot be removed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tempDir } from '../support/temp-dir.ts';

const pathOf = (file: string) => fileURLToPath(new URL(`../../fcqemu/${file}`, import.meta.url));

/** Runs a program as a child of a process that has the filter. */
function guarded(bytes: number, program: string, args: readonly string[]) {
  const script = `process.removeAllListeners('warning');
    const { spawnSync } = await import('node:child_process');
    const { loadLibc } = await import(${JSON.stringify(pathOf('libc.ts'))});
    const { guardMemoryFile } = await import(${JSON.stringify(pathOf('qemu/memory-file-guard.ts'))});
    guardMemoryFile(await loadLibc(), ${bytes});
    spawnSync(${JSON.stringify(program)}, ${JSON.stringify(args)}, { stdio: 'inherit' });`;
  return spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
}

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
      guardMemoryFile(await loadLibc(), 4096);
      guardMemoryFile(await loadLibc(), 4096);
      const grow = spawnSync('fallocate', ['--length', '4096', ${JSON.stringify(grown)}]).status;
      console.log([before, punch(${JSON.stringify(kept)}), grow].join());`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    assert.equal(stdout, '0,0,0\n', stderr);
    assert.equal(readFileSync(open)[0], 0);
    assert.ok(readFileSync(kept).equals(Buffer.alloc(8192, 'x')));
    assert.equal(statSync(grown).size, 4096);
  });

  it('lets them believe that their guest’s memory is in huge pages, and leaves other memory to them', () => {
    const script = `import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
def huge(size):
    at = libc.mmap(None, size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    answer = libc.madvise(at, size, 14)
    begin = "%x-%x " % (at, at + size)
    inside = False
    for line in open("/proc/self/smaps"):
        if "-" in line.split(" ")[0]:
            low, high = (int(part, 16) for part in line.split(" ")[0].split("-"))
            inside = low <= at < high
        if inside and line.startswith("VmFlags:"):
            return "%d %s" % (answer, "hg" in line.split())
print(huge(64 << 20), huge(32 << 20))`;
    const { stdout, stderr } = guarded(64 * 2 ** 20, 'python3', ['-c', script]);
    assert.equal(stdout, '0 False 0 True\n', stderr);
  });

  it('is refused where the C library cannot be called', async () => {
    const { guardMemoryFile } = await import('../../fcqemu/qemu/memory-file-guard.ts');
    assert.throws(() => guardMemoryFile(undefined, 4096), /no filter for it/);
  });
});
