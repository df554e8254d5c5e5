/** Files of recipes: taken once, hashed by content, streamed as tar. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, mkdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { readScript, snapshotFiles, snapshotTree } from '../../src/image/snapshot.ts';
import { tarStream } from '../../src/image/tar-stream.ts';
import { tempDir } from '../support/temp-dir.ts';

async function place(t: TestContext) {
  const dir = await tempDir(t);
  const base = join(dir, 'recipe');
  await mkdir(join(base, 'conf/sub'), { recursive: true });
  await writeFile(join(base, 'motd'), 'hello\n');
  await writeFile(join(base, 'conf/a.conf'), 'a');
  await writeFile(join(base, 'conf/b.conf'), 'b');
  await writeFile(join(base, 'conf/sub/c.conf'), 'c');
  await symlink('a.conf', join(base, 'conf/link'));
  const take = (source: string, target: string, mode?: string) =>
    snapshotFiles([{ source, target, owner: 'root:adm', ...(mode ? { mode } : {}) }], {
      base,
      target: join(dir, `copies-${Math.random()}`),
    });
  return { dir, base, take };
}

describe('files of a recipe', () => {
  it('go to the path they are given, or below it', async (t) => {
    const { take } = await place(t);
    const paths = async (source: string, target: string) => (await take(source, target)).items.map(({ path }) => path);
    assert.deepEqual(await paths('motd', '/etc/motd'), ['etc/motd']);
    assert.deepEqual(await paths('motd', '/etc/'), ['etc/motd']);
    assert.deepEqual(await paths('conf/*.conf', '/etc/x'), ['etc/x/a.conf', 'etc/x/b.conf']);
    assert.deepEqual(await paths('conf', '/etc/x'), [
      ...['etc/x', 'etc/x/a.conf', 'etc/x/b.conf', 'etc/x/link', 'etc/x/sub', 'etc/x/sub/c.conf'],
    ]);
  });

  it('have a digest of content, owner and mode, not of times', async (t) => {
    const { base, take } = await place(t);
    const first = await take('conf', '/etc/x');
    await utimes(join(base, 'conf/a.conf'), 1, 1);
    assert.equal((await take('conf', '/etc/x')).digest, first.digest);
    await writeFile(join(base, 'conf/a.conf'), 'changed');
    const changed = await take('conf', '/etc/x');
    assert.notEqual(changed.digest, first.digest);
    await chmod(join(base, 'conf/a.conf'), 0o755);
    assert.notEqual((await take('conf', '/etc/x')).digest, changed.digest);
  });

  it('stay what they were when the originals are edited', async (t) => {
    const { base, take } = await place(t);
    const { items } = await take('motd', '/etc/motd');
    await writeFile(join(base, 'motd'), 'edited\n');
    assert.equal(await readFile(items[0]?.source ?? '', 'utf8'), 'hello\n');
  });

  it('that are missing, match nothing or lead in a circle are named', async (t) => {
    const { base, take } = await place(t);
    await assert.rejects(take('nosuch', '/x'), /names nosuch, and there is no .*\/nosuch/);
    await assert.rejects(take('*.none', '/x/'), /nothing matches \*\.none in /);
    await symlink('round', join(base, 'round'));
    await assert.rejects(take('round', '/x'), /round is a link that leads round in a circle/);
    await symlink('loop', join(base, 'conf/loop'));
    await assert.rejects(take('conf', '/x'), /conf\/loop is a link that leads round in a circle \(from conf\)/);
    await assert.rejects(take('/dev/null', '/x'), /neither a file nor a directory nor a link/);
  });

  it('that cannot be read are named with the next step', async (t) => {
    const { base, take } = await place(t);
    await assert.rejects(take('/proc/self/mem', '/x'), {
      code: 'invalid_input',
      message: /names \/proc\/self\/mem, which cannot be read: its file system reports an error/,
    });
    await assert.rejects(readScript('conf', base), /names .*\/conf, which is a directory/);
    await writeFile(Buffer.concat([Buffer.from(join(base, 'conf/caf')), Buffer.of(0xe9)]), '');
    await assert.rejects(take('conf', '/x'), {
      message: /conf\/caf.* \(from conf\), whose name is no UTF-8/,
      hint: /ls -b/,
    });
  });

  it('may have any name, mode and age', async (t) => {
    const { base, take, dir } = await place(t);
    const odd = join(base, 'odd');
    const names = [
      'new\nline',
      'ünïcödé ☃',
      ' sp ace\'q"uote\\',
      '-rf',
      'x'.repeat(200),
      `${'d'.repeat(120)}/${'e'.repeat(120)}`,
    ];
    for (const name of names) {
      await mkdir(dirname(join(odd, name)), { recursive: true });
      await writeFile(join(odd, name), name);
    }
    await symlink('new\nline', join(odd, 'link'));
    await chmod(join(odd, '-rf'), 0o4001);
    await utimes(join(odd, '-rf'), new Date(-1e12), new Date(-1e12));
    await utimes(join(odd, 'new\nline'), 1e10, 1e10);
    const { items } = await take('odd', '/odd');
    execFileSync('tar', ['-xpf', '-', '-C', dir, '--no-same-owner'], { input: await buffer(tarStream(items)) });
    for (const name of names) assert.equal(await readFile(join(dir, 'odd', name), 'utf8'), name);
    assert.equal(await readFile(join(dir, 'odd/link'), 'utf8'), 'new\nline');
    const facts = await stat(join(dir, 'odd/-rf'));
    assert.deepEqual([facts.mode & 0o7777, facts.mtimeMs], [0o4001, 0]);
  });

  it('arrive through tar with owners by name, modes and links', async (t) => {
    const { take, dir } = await place(t);
    const { items } = await take('conf', '/etc/x', '0640');
    const archive = await buffer(tarStream(items));
    const listing = execFileSync('tar', ['-tvf', '-'], {
      input: archive,
      encoding: 'utf8',
      env: { TZ: 'UTC', PATH: process.env.PATH },
    });
    assert.match(listing, /^drwxr-x--- root\/adm +0 .* etc\/x\/$/m);
    assert.match(listing, /^-rw-r----- root\/adm +1 .* etc\/x\/sub\/c\.conf$/m);
    assert.match(listing, /^lrwxrwxrwx root\/adm +0 .* etc\/x\/link -> a\.conf$/m);
    execFileSync('tar', ['-xf', '-', '-C', dir, '--no-same-owner'], { input: archive });
    assert.equal(await readFile(join(dir, 'etc/x/link'), 'utf8'), 'a');
  });

  it('of which one disappears end the archive with an error', async () => {
    const facts = { mode: 0o644, user: '0', group: '0', mtime: new Date(0) };
    const stream = tarStream([{ path: 'x', kind: 'file', size: 5, source: '/nonexistent/x', ...facts }]);
    await assert.rejects(buffer(stream), /ENOENT/);
  });
});

describe('a script of a recipe', () => {
  it('is taken byte for byte, and refused with line ends of Windows', async (t) => {
    const { base } = await place(t);
    const bytes = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 0xff, 0x00]);
    await writeFile(join(base, 'program'), bytes);
    assert.deepEqual(await readScript('program', base), bytes);
    await writeFile(join(base, 'crlf'), '#!/bin/sh\r\ntrue\r\n');
    await assert.rejects(readScript('crlf', base), {
      message: /crlf has the line ends of Windows/,
      hint: /^Convert it: sed/,
    });
  });
});

describe('the seed of a work disk', () => {
  it('is what a directory holds, below /root', async (t) => {
    const { base, dir } = await place(t);
    const { items } = await snapshotTree('conf', '/root', { base, target: join(dir, 'seed') });
    assert.deepEqual(items.map(({ path }) => path).slice(0, 2), ['root/a.conf', 'root/b.conf']);
    await assert.rejects(snapshotTree('motd', '/root', { base, target: join(dir, 'seed') }), /motd is no directory/);
  });
});
