/** What is installed: the same by `make install` and by the package, twice the same, and understood by the programs it is for. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { debianChangelog } from '../../scripts/package/changelog.ts';
import { installedContent, layoutOf } from '../../scripts/package/content.ts';
import { copyrightText } from '../../scripts/package/copyright.ts';
import { buildDeb } from '../../scripts/package/deb.ts';
import { stage, unstage } from '../../scripts/package/stage.ts';
import { VERSION } from '../../src/version.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const ROOT = join(import.meta.dirname, '../..');
const ORIGIN = { version: VERSION, date: new Date('2026-11-29T12:00:00Z') };
const unbuilt = ['banger', 'fcqemu-vsock', 'LICENSES', 'LICENSE.musl'].every((name) =>
  existsSync(join(ROOT, 'dist', name)),
)
  ? false
  : 'dist/ is not built (make build)';

/** Files and links below a directory, sorted. */
async function filesOf(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
    .sort();
}

describe('what is installed', { skip: unbuilt }, () => {
  /** the package, made by somebody who keeps everything to themselves */
  let deb = '';
  let work = '';
  before(async () => {
    if (lacking('dpkg-deb')) return;
    work = await mkdtemp(join(tmpdir(), 'banger-test-'));
    const mask = process.umask(0o077);
    deb = await buildDeb({ ...ORIGIN, output: work, compression: 'none' }).finally(() => process.umask(mask));
  });
  after(() => rm(work, { recursive: true, force: true }));

  it('is taken away again whole, and nothing else is', async (t) => {
    const root = await tempDir(t);
    const entries = await installedContent(layoutOf('/usr/local'), ORIGIN);
    const own = join(root, 'etc/ssh/ssh_config.d/mine.conf');
    await mkdir(join(root, 'etc/ssh/ssh_config.d'), { recursive: true });
    await writeFile(own, '');
    stage(root, entries);
    assert.equal((await filesOf(root)).length, entries.length + 1);
    const inodes = await Promise.all(
      ['bin/banger', 'bin/fcqemu', 'lib/banger/bangernet'].map(
        async (name) => (await stat(join(root, 'usr/local', name))).ino,
      ),
    );
    assert.equal(new Set(inodes).size, 1, 'one file with three names');
    stage(root, entries); // over itself, while it may run
    unstage(root, entries);
    assert.deepEqual(await filesOf(root), ['/etc/ssh/ssh_config.d/mine.conf']);
    assert.equal(existsSync(join(root, 'usr/local/share/doc/banger')), false);
  });

  it('keeps all of it below a prefix that is not the system’s', async () => {
    for (const { path } of await installedContent(layoutOf('/opt/banger'), ORIGIN))
      assert.match(path, /^\/opt\/banger\//);
  });

  it('is the same by make install and by the package', { skip: lacking('dpkg-deb') }, async (t) => {
    const dir = await tempDir(t);
    execFileSync('dpkg-deb', ['-x', deb, join(dir, 'package')]);
    execFileSync(
      'node',
      ['scripts/package/main.ts', 'install', '--prefix', '/usr', '--destdir', join(dir, 'installed')],
      {
        cwd: ROOT,
        env: { ...process.env, SOURCE_DATE_EPOCH: String(ORIGIN.date.getTime() / 1000) },
      },
    );
    const overrides = '/usr/share/lintian/overrides/banger'; // of the package alone
    const packaged = (await filesOf(join(dir, 'package'))).filter((path) => path !== overrides);
    assert.deepEqual(packaged, await filesOf(join(dir, 'installed')));
    for (const path of packaged) {
      const [one, other] = await Promise.all(['package', 'installed'].map((tree) => readFile(join(dir, tree, path))));
      assert.ok(one?.equals(other ?? Buffer.alloc(0)), `${path} is the same`);
    }
  });

  it('makes the same package twice', { skip: lacking('dpkg-deb') }, async (t) => {
    const dir = await tempDir(t);
    const mask = process.umask(0o002);
    const other = await buildDeb({ ...ORIGIN, output: dir, compression: 'none' }).finally(() => process.umask(mask));
    assert.ok((await readFile(deb)).equals(await readFile(other)));
    const field = (name: string) => execFileSync('dpkg-deb', ['-f', deb, name], { encoding: 'utf8' }).trim();
    assert.deepEqual([field('Package'), field('Version')], ['banger', VERSION]);
    assert.match(field('Recommends'), /qemu-system-x86.*mmdebstrap/);
    // sums of dpkg are those of the files
    execFileSync('dpkg-deb', ['-R', deb, join(dir, 'raw')]);
    execFileSync('md5sum', ['--check', '--quiet', 'DEBIAN/md5sums'], { cwd: join(dir, 'raw') });
    const scripts = ['postinst', 'prerm', 'postrm'].map((name) => join(dir, 'raw/DEBIAN', name));
    if (!lacking('shellcheck')) execFileSync('shellcheck', scripts, { stdio: 'inherit' });
  });

  it('has units and host files that their programs understand', { skip: lacking('systemd-analyze') }, async (t) => {
    const root = await tempDir(t);
    // the program of the unit has to be where it says
    const entries = await installedContent(layoutOf(join(root, 'usr')), ORIGIN);
    stage('/', entries);
    const verify = (manager: string, ...units: string[]) => {
      const paths = units.map((unit) => join(root, 'usr/lib/systemd', manager, unit));
      const env = {
        ...process.env,
        SYSTEMD_UNIT_PATH: `${join(root, 'usr/lib/systemd', manager)}:`,
        XDG_RUNTIME_DIR: root,
      };
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', `--${manager}`, ...paths], {
        env,
        encoding: 'utf8',
      });
      const ours = stderr.split('\n').filter((line) => /bangerd|bangernet/.test(line));
      assert.deepEqual([status, ours], [0, []], stderr);
    };
    verify('user', 'bangerd.socket', 'bangerd.service');
    verify('system', 'bangerd.socket', 'bangerd.service', 'bangernet.socket', 'bangernet.service');
    const helper = join(root, 'usr/lib/systemd/system/bangernet.service');
    const exposure = spawnSync('systemd-analyze', ['security', '--offline=true', '--threshold=20', helper]);
    assert.equal(exposure.status, 0, `more open than 2.0:\n${exposure.stdout}`);
    execFileSync('systemd-sysusers', ['--root', root, '--dry-run', join(root, 'usr/lib/sysusers.d/banger.conf')]);
    execFileSync('systemd-tmpfiles', ['--root', root, '--create', join(root, 'usr/lib/tmpfiles.d/banger.conf')]);
    assert.equal((await stat(join(root, 'run/banger'))).mode & 0o777, 0o700);
  });

  it('has a profile that AppArmor understands', { skip: lacking('apparmor_parser') }, async (t) => {
    const dir = await tempDir(t);
    const profile = (await installedContent(layoutOf('/usr'), ORIGIN)).find(({ path }) =>
      path.endsWith('apparmor-profile'),
    );
    assert.ok(profile?.kind === 'file');
    const whole = profile.content.toString();
    assert.match(whole, /^profile banger \/usr\/bin\/banger flags=\(unconfined\) \{$/m);
    // what came with 4.0, which is why older ones are given no profile at all
    const known = existsSync('/etc/apparmor.d/abi/4.0')
      ? whole
      : whole.replace(/^(abi <abi\/4\.0>| {2}userns),$/gm, '');
    await writeFile(join(dir, 'banger'), known);
    const argv = ['--skip-kernel-load', '--skip-cache', '--names', join(dir, 'banger')];
    assert.equal(execFileSync('apparmor_parser', argv, { encoding: 'utf8', stdio: 'pipe' }), 'banger\n');
  });

  it('leads ssh to VMs of whoever has some, and leaves everybody else alone', { skip: lacking('ssh') }, async (t) => {
    const root = await tempDir(t);
    stage(root, await installedContent(layoutOf('/usr'), ORIGIN));
    const config = join(root, 'etc/ssh/ssh_config.d/banger.conf');
    const ask = (host: string) =>
      execFileSync('ssh', ['-F', config, '-G', host], { encoding: 'utf8', env: { ...process.env, HOME: root } });
    assert.doesNotMatch(ask('web.example'), /proxycommand/);
    const key =
      process.getuid?.() === 0
        ? '/var/lib/banger/ssh/id_ed25519'
        : `${process.env.HOME}/.local/state/banger/ssh/id_ed25519`;
    // ssh takes the home of the user database, so only what is there can be looked for
    if (existsSync(key)) assert.match(ask('web.vm'), /^proxycommand banger ssh-proxy --zone vm '%h'$/m);
    else assert.doesNotMatch(ask('web.vm'), /proxycommand/);
  });
});

describe('the changelog of the package', () => {
  it('is the project’s own, with what is not released yet under its version', () => {
    const markdown =
      '# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One thing,\n  in two lines.\n\n## [0.1.0] - 2026-01-02\n\n- First.\n';
    assert.equal(
      debianChangelog(markdown, '0.2.0', ORIGIN.date),
      [
        'banger (0.2.0) unstable; urgency=medium',
        '',
        '  * One thing, in two lines.',
        '',
        ' -- banger maintainers <banger@packages.invalid>  Sun, 29 Nov 2026 12:00:00 +0000',
        '',
        'banger (0.1.0) unstable; urgency=medium',
        '',
        '  * First.',
        '',
        ' -- banger maintainers <banger@packages.invalid>  Fri, 02 Jan 2026 00:00:00 +0000',
        '',
      ].join('\n'),
    );
  });

  it('is read by dpkg', { skip: unbuilt || lacking('dpkg-parsechangelog') }, async (t) => {
    const dir = await tempDir(t);
    const entries = await installedContent(layoutOf('/usr'), ORIGIN);
    const entry = entries.find(({ path }) => path.endsWith('/changelog.gz'));
    assert.ok(entry?.kind === 'file');
    await writeFile(join(dir, 'changelog'), gunzipSync(entry.content));
    const { stdout, stderr } = spawnSync('dpkg-parsechangelog', ['-l', join(dir, 'changelog'), '-S', 'Version'], {
      encoding: 'utf8',
    });
    assert.deepEqual([stdout.trim(), stderr], [VERSION, '']);
  });
});

describe('the copyright file', () => {
  it('names the common text of the Apache licence in place of repeating it', () => {
    const apache =
      '   Apache License\n   Version 2.0, January 2004\n\n   1. Definitions.\n\n   END OF TERMS AND CONDITIONS\n\nmore\n';
    const text = copyrightText(`before\n${apache}after`, 'musl is MIT');
    assert.match(text, /before\n {2}On Debian systems the text.*\n.*Apache-2\.0\.\n\nmore\nafter\n/);
    assert.doesNotMatch(text, /Definitions/);
    assert.match(text, /musl is MIT/);
  });
});
