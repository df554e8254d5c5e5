import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { renameSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { before, describe, it } from 'node:test';
import {
  claimWorkDir,
  putInPlace,
  releaseWorkDir,
  restoreReplaced,
  settleReplaced,
} from '../../../src/bundle/debian/work-dir.ts';
import { installEffects, mortal } from '../../support/effects.ts';
import { createMedium, type Medium } from '../../support/medium.ts';
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
  let medium: Medium;
  before(() =>
    installEffects(
      () => undefined,
      () => medium,
      (path) => basename(path),
    ),
  );
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

  it('is seen under its name, and the one before removed, when a power cut takes nothing of it', async (t) => {
    const dir = await tempDir(t);
    await made(dir, 'b', 'old');
    medium = createMedium(dir);
    const files = ['file', 'modules/6.1/a.ko'];
    const loses = (top: string) =>
      files.flatMap((file) => [medium.losesBytes(join(dir, top, file), true), medium.losesName(join(dir, top, file))]);
    const seen: Record<string, unknown[]> = {};
    const onEffect = (what: string) => {
      if (what === 'rename b → .b.replaced') seen.before = loses('result');
      if (what === 'rm .b.replaced (2)') seen.after = loses('b');
    };
    const one = mortal({ onEffect }, () => {});
    await one.run(async () => {
      await made(dir, 'result', 'new');
      await mkdir(join(dir, 'result/modules/6.1'), { recursive: true });
      await writeFile(join(dir, 'result/modules/6.1/a.ko'), 'new');
      assert.ok(loses('result').some((why) => why !== undefined));
      await putInPlace(join(dir, 'result'), join(dir, 'b'), removeTree);
    });
    const nothing = [undefined, undefined, undefined, undefined];
    assert.deepEqual(seen, { before: nothing, after: nothing });
  });

  it('goes on when somebody puts the one before back between the two renames', async (t) => {
    const dir = await tempDir(t);
    medium = createMedium(dir);
    await made(dir, 'b', 'old');
    await made(dir, 'result', 'new');
    const onEffect = (what: string) => {
      if (what === 'rename result → b') renameSync(join(dir, '.b.replaced'), join(dir, 'b'));
    };
    const one = mortal({ onEffect }, () => {});
    await one.run(() => putInPlace(join(dir, 'result'), join(dir, 'b'), removeTree));
    assert.ok(one.effects.includes('rename result → b (2)'));
    assert.equal(await readFile(join(dir, 'b/file'), 'utf8'), 'new');
    assert.deepEqual(await readdir(dir), ['b']);
  });

  it('cut short is settled for a whole directory: put back, or removed where the new one is in place', async (t) => {
    const dir = await tempDir(t);
    for (const name of ['.a.replaced', '.b.replaced']) await made(dir, name, 'old');
    for (const name of ['b', '.c.building']) await made(dir, name, 'new');
    assert.deepEqual(await settleReplaced(dir, removeTree), ['a']);
    assert.deepEqual((await readdir(dir)).sort(), ['.c.building', 'a', 'b']);
    assert.equal(await readFile(join(dir, 'a/file'), 'utf8'), 'old');
    assert.equal(await readFile(join(dir, 'b/file'), 'utf8'), 'new');
    assert.deepEqual(await settleReplaced(join(dir, 'none'), removeTree), []);
  });
});
