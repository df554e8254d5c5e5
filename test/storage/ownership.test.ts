import assert from 'node:assert/strict';
import { chmod, link, lstat, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  giveFile,
  handOverDirectory,
  isOpenToAll,
  letEnter,
  makeFileFor,
  makeReadOnly,
  openDirectory,
  sealDirectory,
} from '../../src/storage/ownership.ts';
import { removeUnshared, shareFile } from '../../src/storage/shared-files.ts';
import { confinedArgv } from '../../src/system/confinement.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();
const [ONE, OTHER] = [1_879_048_201, 1_879_048_202];
const skip = process.getuid?.() !== 0 && 'other users need root';

/** What a program of a user does in a directory; its exit status. */
async function as(user: number, cwd: string, script: string): Promise<number> {
  const argv = confinedArgv(['sh', '-c', script], { user, limits: {} });
  return (await runner.run(argv, { cwd, okExits: [0, 1, 2, 126, 127] })).exitCode;
}

describe("a VM's directory", { skip }, () => {
  it("has files that are the user's, and no other user reads them", async (t) => {
    const directory = join(await tempDir(t), 'vm');
    await mkdir(directory);
    await writeFile(join(directory, 'root.ext4'), 'data', { mode: 0o644 });
    await handOverDirectory(directory, ONE);
    const { uid, gid, mode } = await stat(join(directory, 'root.ext4'));
    assert.deepEqual([uid, gid, mode & 0o777], [ONE, ONE, 0o600]);
    assert.equal(await as(ONE, directory, 'cat root.ext4 && echo more >> root.ext4'), 0);
    // even with the directory as its own, as no path leads there
    assert.notEqual(await as(OTHER, directory, 'cat root.ext4'), 0);
    assert.notEqual(await as(OTHER, '/', `cat ${directory}/root.ext4`), 0);
  });

  it('takes new files only while it is open, and lets none be moved away', async (t) => {
    const directory = join(await tempDir(t), 'vm');
    await mkdir(directory);
    await writeFile(join(directory, 'root.ext4'), 'data');
    await handOverDirectory(directory, ONE);
    for (const script of ['touch new', 'mv root.ext4 elsewhere', 'rm -f root.ext4', 'ln -s /etc/passwd console.log']) {
      assert.notEqual(await as(ONE, directory, script), 0, script);
    }
    await openDirectory(directory, ONE);
    assert.equal(await as(ONE, directory, 'touch api.sock'), 0);
    assert.notEqual(await as(OTHER, directory, 'touch other'), 0);
    await sealDirectory(directory);
    assert.notEqual(await as(ONE, directory, 'rm -f api.sock'), 0);
  });

  it('stays open for its VMM while files in it are handed over', async (t) => {
    const home = await tempDir(t);
    for (let round = 0; round < 200; round++) {
      const directory = join(home, String(round));
      await mkdir(directory, { mode: 0o700 });
      await Promise.all([letEnter(directory, ONE), openDirectory(directory, ONE), letEnter(directory, ONE)]);
      const { gid, mode } = await stat(directory);
      assert.deepEqual([gid, mode & 0o7777], [ONE, 0o1730], `in round ${round}`);
    }
  });

  it('hands nothing over that a link leads to', async (t) => {
    const home = await tempDir(t);
    const [directory, precious] = [join(home, 'vm'), join(home, 'precious')];
    await mkdir(directory);
    await writeFile(precious, 'mine', { mode: 0o640 });
    await symlink(precious, join(directory, 'console.log'));
    await handOverDirectory(directory, ONE);
    await assert.rejects(giveFile(join(directory, 'console.log'), ONE), { code: 'corrupt', message: /no ordinary/ });
    const { uid, mode } = await stat(precious);
    assert.deepEqual([uid, mode & 0o777], [0, 0o640]);
    await giveFile(join(directory, 'gone'), ONE);
  });

  it('gets empty files that only its user fills', async (t) => {
    const directory = join(await tempDir(t), 'vm');
    await mkdir(directory);
    await handOverDirectory(directory, ONE);
    await makeFileFor(join(directory, 'memory'), ONE);
    assert.equal(await as(ONE, directory, 'echo words > memory'), 0);
    assert.equal(await readFile(join(directory, 'memory'), 'utf8'), 'words\n');
    await assert.rejects(makeFileFor(join(directory, 'memory'), ONE), { code: 'EEXIST' });
  });
});

describe('a file that VMs share', { skip }, () => {
  it('is one file for all, which none can change, and gone with the last', async (t) => {
    const store = await tempDir(t);
    const source = join(store, 'kernel');
    await writeFile(source, 'kernel', { mode: 0o600 });
    const targets = [ONE, OTHER].map((user) => join(store, String(user)));
    for (const directory of targets) {
      await mkdir(directory);
      const target = join(directory, 'use-kernel');
      await shareFile(runner, 'cp', { store, source, target, isProgram: false });
      await shareFile(runner, 'cp', { store, source, target, isProgram: false });
      await handOverDirectory(directory, Number(directory.split('/').at(-1)));
    }
    const [one, other] = await Promise.all(targets.map((directory) => stat(join(directory, 'use-kernel'))));
    assert.equal(one?.ino, other?.ino);
    assert.deepEqual([one?.uid, (one?.mode ?? 0) & 0o777], [0, 0o444]);
    assert.equal(await as(ONE, targets[0] ?? '', 'cat use-kernel'), 0);
    assert.notEqual(await as(ONE, targets[0] ?? '', 'echo worse > use-kernel'), 0);
    await removeUnshared(store);
    assert.equal((await stat(join(targets[0] ?? '', 'use-kernel'))).nlink, 3);
    for (const directory of targets) await runner.run(['rm', '-r', directory]);
    await removeUnshared(store);
    assert.equal((await runner.run(['ls', join(store, 'shared')])).stdout, '');
  });

  it('is another one when the kernel was built again', async (t) => {
    const store = await tempDir(t);
    const source = join(store, 'kernel');
    const target = join(store, 'use-kernel');
    for (const content of ['old', 'newer']) {
      await writeFile(source, content);
      await shareFile(runner, 'cp', { store, source, target, isProgram: false });
      assert.equal(await readFile(target, 'utf8'), content);
    }
  });

  it('is copied where a file system of another one begins', async (t) => {
    const store = await tempDir(t);
    const other = await mkdtemp('/dev/shm/bt-');
    t.after(() => rm(other, { recursive: true }));
    assert.notEqual((await stat(store)).dev, (await stat(other)).dev);
    const source = join(store, 'kernel');
    const target = join(other, 'use-kernel');
    await writeFile(source, 'kernel', { mode: 0o600 });
    await shareFile(runner, 'cp', { store, source, target, isProgram: false });
    assert.equal(await readFile(target, 'utf8'), 'kernel');
    assert.equal((await stat(target)).mode & 0o777, 0o444);
  });

  it('can be executed when it is a program', async (t) => {
    const store = await tempDir(t);
    const directory = join(store, 'vm');
    await mkdir(directory);
    const source = join(store, 'program');
    await writeFile(source, '#!/bin/sh\nexit 0\n', { mode: 0o700 });
    await shareFile(runner, 'cp', { store, source, target: join(directory, 'use-program'), isProgram: true });
    await handOverDirectory(directory, ONE);
    assert.equal(await as(ONE, directory, './use-program'), 0);
  });
});

describe('memory that programs of several users map', { skip }, () => {
  it('is read by each under a name of its own, and written by none', async (t) => {
    const home = await tempDir(t);
    const places = [ONE, OTHER].map((user) => ({ user, directory: join(home, String(user)) }));
    // as the VMM that saved it made it
    const first = join(places[0]?.directory ?? '', 'memory');
    for (const { directory, user } of places) {
      await mkdir(directory, { mode: 0o700 });
      await letEnter(directory, user);
    }
    await makeFileFor(first, ONE);
    await writeFile(first, 'memory');
    await link(first, join(places[1]?.directory ?? '', 'memory'));
    await makeReadOnly(first);
    for (const { user, directory } of places) {
      assert.equal(await as(user, directory, '[ "$(cat memory)" = memory ]'), 0);
      for (const script of ['echo x >> memory', ': 1<> memory', 'chmod 600 memory', 'rm -f memory', 'mv memory mine']) {
        assert.notEqual(await as(user, directory, script), 0, script);
      }
    }
    assert.notEqual(await as(OTHER, '/', `cat ${first}`), 0);
    assert.equal(await readFile(first, 'utf8'), 'memory');
    await symlink('/etc/passwd', join(home, 'link'));
    await assert.rejects(makeReadOnly(join(home, 'link')), { code: 'corrupt' });
  });
});

describe('what everybody may read', () => {
  it('lies in directories that everybody may enter', async (t) => {
    const home = await tempDir(t);
    const file = join(home, 'kernel');
    await writeFile(file, '', { mode: 0o644 });
    await chmod(home, 0o700);
    assert.equal(await isOpenToAll(file), false);
    await chmod(home, 0o711);
    assert.equal(await isOpenToAll(file), true);
    assert.equal(await isOpenToAll(file, true), false, 'it is no program');
    await chmod(file, 0o755);
    assert.equal(await isOpenToAll(file, true), true);
    await chmod(file, 0o600);
    assert.equal(await isOpenToAll(file), false);
    assert.equal(await isOpenToAll(join(home, 'none')), false);
    await symlink(file, join(home, 'link'));
    assert.ok((await lstat(join(home, 'link'))).isSymbolicLink());
    assert.equal(await isOpenToAll(join(home, 'link')), false, 'where a link leads counts');
  });
});
