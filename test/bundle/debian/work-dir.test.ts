import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { claimWorkDir, putInPlace, releaseWorkDir, restoreReplaced } from '../../../src/bundle/debian/work-dir.ts';
import { tempDir } from '../../support/temp-dir.ts';

const removeTree = async (paths: string[]) => {
  for (const path of paths) await rm(path, { recursive: true, force: true });
};

/** Claims `path` in another process, which then waits to be killed. */
async function claimElsewhere(path: string, more = ''): Promise<{ kill(): Promise<void>; pid: number }> {
  const module = JSON.stringify(new URL('../../../src/bundle/debian/work-dir.ts', import.meta.url).href);
  const script = `
    const { claimWorkDir } = await import(${module});
    const work = await claimWorkDir(${JSON.stringify(path)}, async () => {});
    ${more}
    process.stdout.write('claimed');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', script]);
  await once(child.stdout, 'data');
  return {
    pid: child.pid ?? 0,
    async kill() {
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}

describe('a work directory', () => {
  it('has room for the result and for everything else, and is gone when released', async (t) => {
    const dir = await tempDir(t);
    const work = await claimWorkDir(join(dir, 'parent/.b.building'), removeTree);
    await writeFile(join(work.result, 'a'), '');
    await writeFile(join(work.scratch, 'b'), '');
    await releaseWorkDir(work.path, removeTree);
    assert.deepEqual(await readdir(join(dir, 'parent')), []);
  });

  it('belongs to one maker at a time, also within one process', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, '.b.building');
    const results = await Promise.allSettled([claimWorkDir(path, removeTree), claimWorkDir(path, removeTree)]);
    assert.deepEqual(results.map((result) => result.status).sort(), ['fulfilled', 'rejected']);
    await assert.rejects(claimWorkDir(path, removeTree), {
      code: 'conflict',
      message: new RegExp(`process ${process.pid}`),
    });
    assert.deepEqual(await readdir(dir), ['.b.building']);
  });

  it('of a maker that lives is left alone, of one that was killed is taken over', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, '.b.building');
    const other = await claimElsewhere(
      path,
      `await (await import('node:fs/promises')).writeFile(work.result + '/half', '');`,
    );
    await assert.rejects(claimWorkDir(path, removeTree), {
      code: 'conflict',
      message: new RegExp(`process ${other.pid}`),
    });
    await other.kill();
    const work = await claimWorkDir(path, removeTree);
    assert.deepEqual(await readdir(work.result), []);
    assert.deepEqual(await readdir(dir), ['.b.building']);
  });

  it('is taken over only after programs of its dead maker were ended', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, '.b.building');
    const start = `(await import('node:child_process')).spawn('tail', ['-f', '/dev/null', work.root], { detached: true, stdio: 'ignore' });`;
    const other = await claimElsewhere(
      path,
      `await (await import('node:fs/promises')).writeFile(work.root, ''); ${start}`,
    );
    await other.kill();
    const orphans = async () => {
      const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
      const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
      return lines.filter((line) => line.includes(path)).length;
    };
    assert.equal(await orphans(), 1);
    await claimWorkDir(path, removeTree);
    assert.equal(await orphans(), 0);
  });

  it('left before it was claimed is removed as well', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, '.b.building');
    for (const name of ['.b.building', '.b.building-AAAAAA']) {
      await mkdir(join(dir, name));
      await writeFile(join(dir, name, 'owner.json'), JSON.stringify({ pid: 1, startTicks: 1, bootId: 'another boot' }));
    }
    await claimWorkDir(path, removeTree);
    assert.deepEqual(await readdir(dir), ['.b.building']);
  });

  it('is removed with patience while killed programs still end', async (t) => {
    const dir = await tempDir(t);
    const work = await claimWorkDir(join(dir, '.b.building'), removeTree);
    let busy = 3;
    await releaseWorkDir(work.path, async (paths) => {
      if (busy-- > 0) throw new Error('Directory not empty');
      await removeTree(paths);
    });
    assert.deepEqual(await readdir(dir), []);
  });
});

describe('putting a directory in place', () => {
  const made = async (dir: string, name: string, content: string) => {
    await mkdir(join(dir, name));
    await writeFile(join(dir, name, 'file'), content);
  };

  it('replaces the one that is there and leaves nothing of it', async (t) => {
    const dir = await tempDir(t);
    await made(dir, 'old', 'old');
    await made(dir, 'new', 'new');
    await putInPlace(join(dir, 'new'), join(dir, 'old'), removeTree);
    assert.equal(await readFile(join(dir, 'old/file'), 'utf8'), 'new');
    assert.deepEqual(await readdir(dir), ['old']);
  });

  it('cut short between its two renames is undone', async (t) => {
    const dir = await tempDir(t);
    await made(dir, '.b.replaced', 'old');
    await restoreReplaced(join(dir, 'b'));
    assert.equal(await readFile(join(dir, 'b/file'), 'utf8'), 'old');
    await made(dir, '.b.replaced', 'older');
    await restoreReplaced(join(dir, 'b'));
    assert.equal(await readFile(join(dir, 'b/file'), 'utf8'), 'old');
  });
});
