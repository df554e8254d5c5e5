/** What fcqemu asks of the C library, tried out in processes of its own because it concerns a whole process. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { pathThroughThisProcess } from '../../fcqemu/qemu/orphans.ts';

const LIBC = fileURLToPath(new URL('../../fcqemu/libc.ts', import.meta.url));
const ORPHANS = fileURLToPath(new URL('../../fcqemu/qemu/orphans.ts', import.meta.url));

/** Runs a module that has `libc`, for at most ten seconds. */
function run(code: string) {
  const script = `process.removeAllListeners('warning');
    const { loadLibc } = await import(${JSON.stringify(LIBC)});
    const { readFileSync } = await import('node:fs');
    // of the program's own code, what is mapped in: exact at each moment, unlike the sum for the process
    const codePages = () => readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
      .filter((each) => each.includes(' r-xp ') && each.includes(process.execPath))
      .reduce((sum, each) => sum + Number(/^Rss: +(\\d+) kB$/m.exec(each)?.[1]) / 4, 0);
    process.on('SIGSEGV', () => process.exit(150));
    const libc = await loadLibc();
    if (!libc) process.exit(99);
    ${code}`;
  return spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 10_000 });
}

describe('the C library', () => {
  it('lets a real fault end the process, which a handler written in JavaScript would repeat for ever', () => {
    const { signal, status } = run(`(await import('node:ffi')).getInt8(8n)`);
    assert.deepEqual([signal, status], ['SIGSEGV', null]);
  });

  it('leaves a signal that was sent to its handler', () => {
    const { signal, status } = run(`setTimeout(() => {}, 5000); process.kill(process.pid, 'SIGSEGV')`);
    assert.deepEqual([signal, status], [null, 150]);
  });

  it('does not pass its blocked signals on to children', () => {
    const { stdout } = run(`const { spawnSync } = await import('node:child_process');
      console.log(spawnSync('grep', ['SigBlk', '/proc/self/status'], { encoding: 'utf8' }).stdout)`);
    assert.match(stdout, /SigBlk:\s+0{16}\n/);
  });

  it('gives back pages that were used once, and what still runs goes on running', () => {
    const { stdout, status } = run(`const before = codePages(); libc.giveBack(); const after = codePages();
      libc.giveBack(); JSON.parse('{"a": [1, 2.5]}'); await new Promise((resolve) => setTimeout(resolve, 10));
      console.log(before, after)`);
    assert.equal(status, 0);
    const [before = 0, after = 0] = stdout.split(' ').map(Number);
    assert.ok(before > 1000 && after < before / 2, `${before} pages before, ${after} after`);
  });
});

describe('a program named through a process', () => {
  it('is found while that process lives, by name and by path', () => {
    for (const program of ['true', '/bin/true']) {
      const path = pathThroughThisProcess(program, process.env);
      assert.match(path, new RegExp(`^/proc/${process.pid}/root/.*true$`));
      assert.equal(spawnSync(path).status, 0);
    }
  });

  it('is gone with it', () => {
    const code = `const { pathThroughThisProcess } = await import(${JSON.stringify(ORPHANS)});
      console.log(pathThroughThisProcess('true', process.env))`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    assert.match(stdout, /^\/proc\/\d+\/root\//);
    const { error } = spawnSync(stdout.trim());
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOENT');
  });

  it('keeps its name when there is no such program', () => {
    assert.equal(pathThroughThisProcess('/nonexistent/qemu', {}), '/nonexistent/qemu');
    assert.equal(pathThroughThisProcess('no-such-program', { PATH: '/bin' }), 'no-such-program');
  });
});
