/** What goes with an installed banger: units that systemd runs, and no file that a package has too. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { Entry } from '../../scripts/package/content.ts';
import { type System, uninstall } from '../../scripts/package/uninstall.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const SCRIPT = join(import.meta.dirname, '../../packaging/tarball/install.sh');
const SOCKET = 'lib/systemd/system/bangernet.socket';
const FILES = ['prefix/bin/banger', `prefix/${SOCKET}`, '/etc/ssh/ssh_config.d/banger.conf', '/etc/other.conf'];
const GONE = 'disable --now bangernet.socket bangernet.service bangerd.socket bangerd.service';
const FOR_USERS = '--global disable bangerd.socket bangerd.service';

/** An unpacked archive and what it installed, on a system whose systemd and dpkg are scripts. */
async function installed(t: TestContext, { fragment, another = false }: { fragment?: string; another?: boolean } = {}) {
  const dir = await tempDir(t);
  const prefix = join(dir, 'opt');
  const log = join(dir, 'log');
  const place = async (path: string, content: string, mode = 0o644) => {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    await chmod(path, mode);
  };
  await place(join(dir, 'run/systemd/system/x'), '');
  if (another) await place(join(dir, 'usr/lib/systemd/system/bangernet.socket'), '');
  const script = (await readFile(SCRIPT, 'utf8'))
    .replaceAll('/run/systemd/system', join(dir, 'run/systemd/system'))
    .replaceAll('-e /usr/lib', `-e ${dir}/usr/lib`);
  await place(join(dir, 'archive/install.sh'), script, 0o755);
  await place(join(dir, 'archive/files'), FILES.map((file) => `${file}\n`).join(''));
  const there = `$([ -e ${prefix}/${SOCKET} ] && echo there || echo gone)`;
  const programs = {
    id: 'echo 0',
    systemctl: `case "$*" in show*) echo ${fragment ?? join(prefix, SOCKET)} ;; *) echo "$*: ${there}" >>${log} ;; esac`,
    dpkg: `[ "$2" = ${prefix}/etc/ssh/ssh_config.d/banger.conf ]`,
    rpm: 'exit 1',
  };
  for (const [name, body] of Object.entries(programs))
    await place(join(dir, 'bin', name), `#!/bin/sh\n${body}\n`, 0o755);
  const undo = async (...words: string[]) => {
    for (const root of ['', join(dir, 'tree')]) {
      for (const file of FILES) {
        const path = file.startsWith('/etc/') ? file : file.replace(/^prefix/, '');
        await place(join(root, prefix, path), '');
      }
    }
    execFileSync(join(dir, 'archive/install.sh'), ['--prefix', prefix, '--uninstall', ...words], {
      env: { PATH: `${join(dir, 'bin')}:${process.env.PATH}` },
      stdio: 'pipe',
    });
    const said = await readFile(log, 'utf8').catch(() => '');
    return said.split('\n').slice(0, -1);
  };
  return { dir, prefix, undo };
}

describe('install.sh --uninstall', () => {
  it('ends and disables units before their files go, and leaves what a package has', async (t) => {
    if (!lacking('shellcheck')) execFileSync('shellcheck', [SCRIPT], { stdio: 'inherit' });
    const { prefix, undo } = await installed(t);
    assert.deepEqual(await undo(), [`${GONE}: there`, `${FOR_USERS}: there`, 'daemon-reload: gone']);
    assert.deepEqual(
      ['bin/banger', SOCKET, 'etc/ssh/ssh_config.d/banger.conf', 'etc/other.conf'].map((name) =>
        existsSync(join(prefix, name)),
      ),
      [false, false, true, false],
    );
  });

  it('asks systemd for nothing where the files are a tree for another system', async (t) => {
    const { dir, prefix, undo } = await installed(t);
    assert.deepEqual(await undo('--destdir', join(dir, 'tree')), []);
    assert.equal(existsSync(join(dir, 'tree', prefix, 'etc/ssh/ssh_config.d/banger.conf')), false);
    assert.equal(existsSync(join(prefix, SOCKET)), true);
  });

  it('does not end the helper of another banger', async (t) => {
    const { undo } = await installed(t, { fragment: '/usr/lib/systemd/system/bangernet.socket' });
    assert.deepEqual(await undo(), []);
  });

  it('leaves a package that it had hidden enabled, and to its own units', async (t) => {
    const { undo } = await installed(t, { another: true });
    assert.deepEqual(await undo(), [
      'stop bangernet.socket bangernet.service bangerd.socket bangerd.service: there',
      'daemon-reload: gone',
      '--quiet is-enabled bangernet.socket: gone',
      'start bangernet.socket: gone',
      '--quiet is-enabled bangerd.socket: gone',
      'start bangerd.socket: gone',
    ]);
  });
});

describe('make uninstall', () => {
  it('does the same', {
    skip: existsSync('/usr/lib/systemd/system/bangernet.socket') && 'banger is installed',
  }, async (t) => {
    const root = await tempDir(t);
    const names = [`usr/local/${SOCKET}`, 'etc/ssh/ssh_config.d/banger.conf', 'etc/other.conf'];
    const asked: string[] = [];
    const system: System = {
      managed: true,
      run(...argv) {
        const words = argv.join(' ');
        if (argv[1] === 'show') return `/usr/local/${SOCKET}\n`;
        if (words === 'dpkg -S /etc/ssh/ssh_config.d/banger.conf') return 'banger: …\n';
        if (argv[0] !== 'systemctl') return undefined;
        asked.push(`${argv.slice(1).join(' ')}: ${existsSync(join(root, `usr/local/${SOCKET}`)) ? 'there' : 'gone'}`);
        return '';
      },
    };
    const entries: Entry[] = names.map((name) => ({
      path: `/${name}`,
      kind: 'file',
      content: Buffer.alloc(0),
      mode: 0o644,
    }));
    const remove = async (from: System | undefined) => {
      for (const name of names) {
        await mkdir(dirname(join(root, name)), { recursive: true });
        await writeFile(join(root, name), '');
      }
      uninstall(root, '/usr/local', entries, from);
      return names.filter((name) => existsSync(join(root, name)));
    };
    assert.deepEqual(await remove(system), ['etc/ssh/ssh_config.d/banger.conf']);
    assert.deepEqual(asked, [`${GONE}: there`, `${FOR_USERS}: there`, 'daemon-reload: gone']);
    assert.deepEqual(await remove({ ...system, managed: false }), ['etc/ssh/ssh_config.d/banger.conf']);
    assert.deepEqual(await remove(undefined), []);
    assert.equal(asked.length, 3);
  });
});
