import assert from 'node:assert/strict';
import { chmod, lstat, mkdir, readdir, readFile, readlink, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { tempDir } from '../support/temp-dir.ts';
import { cli } from './cli.ts';
import { runIn } from './local-guest.ts';

interface Guests {
  /** where /root of the VM is */
  home(name: string): string;
  /** this machine's working directory */
  here: string;
  cp(...words: string[]): ReturnType<typeof cli>;
}

/** VMs that are directories of this machine; their programs are this machine's. */
async function guests(t: TestContext): Promise<Guests> {
  const dir = await tempDir(t);
  const home = (name: string) => join(dir, name);
  for (const name of ['web', 'db', 'here']) await mkdir(home(name));
  const exec = async (name: string, { argv }: { argv: string[] }) => {
    const [client, daemon] = duplexPair();
    runIn(home(name), argv, daemon);
    return client;
  };
  const here = home('here');
  return {
    home,
    here,
    cp: (...words) => cli(['cp', ...words], { exec }, { cwd: here, env: { PATH: process.env.PATH ?? '' } }),
  };
}

const text = (path: string) => readFile(path, 'utf8');

describe('cp', () => {
  it('copies a file into a VM, out of it under another name, and from VM to VM', async (t) => {
    const { home, here, cp } = await guests(t);
    await writeFile(join(here, 'notes.txt'), 'notes');
    await chmod(join(here, 'notes.txt'), 0o755);
    await mkdir(join(home('db'), 'tmp'));
    for (const [from, to] of [
      ['notes.txt', 'web:'],
      ['WEB.vm:notes.txt', './back'],
      ['web:notes.txt', 'db:tmp/'],
      ['web:notes.txt', 'db:other'],
    ] as const) {
      const { status, stderr } = await cp(from, to);
      assert.equal(status, 0, `${from} ${to}: ${stderr}`);
    }
    const copies = [
      join(home('web'), 'notes.txt'),
      join(here, 'back'),
      join(home('db'), 'tmp/notes.txt'),
      join(home('db'), 'other'),
    ];
    for (const copy of copies) assert.equal(await text(copy), 'notes');
    assert.equal((await stat(join(home('web'), 'notes.txt'))).mode & 0o777, 0o755);
    assert.deepEqual((await readdir(home('db'))).sort(), ['other', 'tmp'], 'nothing else is left');
  });

  it('copies directories with links, odd names and holes as they are', async (t) => {
    const { home, here, cp } = await guests(t);
    const tree = join(here, 'tree');
    await mkdir(join(tree, 'sub/deep'), { recursive: true });
    await symlink('sub', join(tree, 'link to a directory'));
    await symlink('/nowhere', join(tree, 'dangling'));
    await writeFile(Buffer.concat([Buffer.from(`${tree}/bad`), Buffer.from([0xff])]), 'odd');
    await writeFile(join(tree, '-rf'), 'dash');
    await writeFile(join(tree, 'disk'), 'begin');
    await truncate(join(tree, 'disk'), 64 * 1024 * 1024);
    assert.equal((await cp('-r', 'tree', 'web:')).status, 0);
    assert.equal((await cp('-r', 'web:tree', 'new')).status, 0);
    for (const copy of [join(home('web'), 'tree'), join(here, 'new')]) {
      assert.equal(await readlink(join(copy, 'link to a directory')), 'sub');
      assert.equal(await readlink(join(copy, 'dangling')), '/nowhere');
      assert.equal(await text(join(copy, '-rf')), 'dash');
      assert.ok((await lstat(join(copy, 'sub/deep'))).isDirectory());
      assert.ok(
        (await readdir(copy, { encoding: 'buffer' })).some((name) =>
          name.equals(Buffer.from([0x62, 0x61, 0x64, 0xff])),
        ),
      );
      const disk = await stat(join(copy, 'disk'));
      assert.equal(disk.size, 64 * 1024 * 1024);
      assert.ok(disk.blocks * 512 < 1024 * 1024, `the holes take ${disk.blocks * 512} bytes`);
    }
  });

  it('merges into a directory that is there, and follows a link that is named itself', async (t) => {
    const { home, here, cp } = await guests(t);
    await mkdir(join(here, 'tree'));
    await writeFile(join(here, 'tree/new'), 'new');
    await symlink('tree', join(here, 'link'));
    await mkdir(join(home('web'), 'link'), { mode: 0o750 });
    await writeFile(join(home('web'), 'link/old'), 'old');
    assert.equal((await cp('-r', 'link', 'web:')).status, 0);
    assert.deepEqual((await readdir(join(home('web'), 'link'))).sort(), ['new', 'old']);
    assert.equal((await cp('-r', 'tree/.', 'web:')).status, 0);
    assert.equal(await text(join(home('web'), 'new')), 'new');
  });

  it('keeps times and modes when asked to', async (t) => {
    const { home, here, cp } = await guests(t);
    await writeFile(join(here, 'old'), 'old');
    const { execFileSync } = await import('node:child_process');
    execFileSync('touch', ['-d', '2001-02-03 04:05:06.789', join(here, 'old')]);
    await cp('old', 'web:touched');
    await cp('-p', 'old', 'web:kept');
    assert.ok((await stat(join(home('web'), 'touched'))).mtimeMs > Date.now() - 60_000);
    assert.equal((await stat(join(home('web'), 'kept'))).mtimeMs, (await stat(join(here, 'old'))).mtimeMs);
  });

  it('says what is missing or in the way, and copies the rest', async (t) => {
    const { home, here, cp } = await guests(t);
    await mkdir(join(here, 'dir'));
    await writeFile(join(here, 'file'), 'x');
    const cases: [string[], number, RegExp][] = [
      [['nosuch', 'web:'], 4, /There is no .*nosuch\./],
      [['web:nosuch', '.'], 4, /There is no web:nosuch\./],
      [['dir', 'web:'], 2, /dir is a directory\.\n.*banger cp -r/],
      [['file', 'web:no/such/dir'], 4, /There is no directory web:no\/such to copy into/],
      [['file', 'web:nodir/'], 4, /There is no directory web:nodir\/ to copy into/],
      [
        ['file', 'dir', 'web:one'],
        2,
        /web:one is no directory, so it cannot take 2 copies\.\n.*banger exec web -- mkdir one/,
      ],
    ];
    for (const [words, status, says] of cases) {
      const ran = await cp(...words);
      assert.equal(ran.status, status, `${words}: ${ran.stderr}`);
      assert.match(ran.stderr, says);
    }
    assert.equal((await cp('nosuch', 'file', 'web:')).status, 4);
    assert.equal(await text(join(home('web'), 'file')), 'x');
  });

  it('ends when the other side cannot take it, and leaves no half file', {
    skip: process.getuid?.() !== 0 && 'needs root',
  }, async (t) => {
    const { home, here, cp } = await guests(t);
    await writeFile(join(here, 'large'), Buffer.alloc(8 * 1024 * 1024, 1));
    const { execFileSync } = await import('node:child_process');
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', home('web')]);
    try {
      const ran = await cp('large', 'web:');
      assert.equal(ran.status, 1, ran.stderr);
      assert.match(ran.stderr, /No space left on device/);
      assert.deepEqual(await readdir(home('web')), []);
    } finally {
      execFileSync('umount', [home('web')]);
    }
  });
});
