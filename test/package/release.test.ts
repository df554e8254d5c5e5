/** What a release is made of beside the Debian package: tarball, RPM, bill of materials, and the cut of a version. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { installedContent, layoutOf } from '../../scripts/package/content.ts';
import { cutChangelog, isLater } from '../../scripts/release/cut.ts';
import { buildRpm } from '../../scripts/release/rpm.ts';
import { type Parts, renderSbom } from '../../scripts/release/sbom.ts';
import { writeSums } from '../../scripts/release/sums.ts';
import { buildTarball } from '../../scripts/release/tarball.ts';
import { VERSION } from '../../src/version.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const ROOT = join(import.meta.dirname, '../..');
const ORIGIN = { version: VERSION, date: new Date('2026-11-29T12:00:00Z') };
const unbuilt = existsSync(join(ROOT, 'dist/LICENSES')) ? false : 'dist/ is not built (make build)';

describe('the tarball', { skip: unbuilt }, () => {
  it('installs the same files as make install, below any prefix, and takes them away', async (t) => {
    const dir = await tempDir(t);
    const archive = await buildTarball({ ...ORIGIN, output: dir });
    execFileSync('tar', ['-xf', archive, '-C', dir]);
    const script = join(dir, `banger-${VERSION}-linux-x86_64/install.sh`);
    if (!lacking('shellcheck')) execFileSync('shellcheck', [script], { stdio: 'inherit' });
    for (const prefix of ['/usr/local', '/opt/banger']) {
      const root = join(dir, 'root');
      execFileSync(script, ['--prefix', prefix, '--destdir', root], { stdio: 'pipe' });
      const entries = await installedContent(layoutOf(prefix), ORIGIN);
      for (const entry of entries) {
        const content = await readFile(join(root, entry.path));
        if (entry.kind === 'file') assert.ok(content.equals(entry.content), `${entry.path} is the same`);
      }
      const bin = join(root, prefix, 'bin');
      assert.equal((await stat(join(bin, 'banger'))).ino, (await stat(join(bin, 'fcqemu'))).ino);
      const said = execFileSync(join(bin, 'fcqemu'), ['--version'], { encoding: 'utf8' });
      assert.match(said, /^Firecracker v/);
      const helper = join(root, prefix, 'lib/banger/bangernet');
      assert.equal(execFileSync(helper, ['--version'], { encoding: 'utf8' }), `bangernet ${VERSION}\n`);
      execFileSync(script, ['--prefix', prefix, '--destdir', root, '--uninstall'], { stdio: 'pipe' });
      const left = await readdir(root, { recursive: true, withFileTypes: true });
      assert.deepEqual(
        left.filter((entry) => !entry.isDirectory()).map(({ name }) => name),
        [],
      );
    }
  });

  it('says how its script is used, and does nothing then', async (t) => {
    const script = join(ROOT, 'packaging/tarball/install.sh');
    const cwd = await tempDir(t);
    for (const words of [['--prefix'], ['--prefix', 'relative'], ['--help'], ['--destdir']]) {
      const { status, stderr } = spawnSync('sh', [script, ...words], { cwd, encoding: 'utf8' });
      assert.deepEqual([status, stderr.startsWith('usage: ')], [2, true], words.join(' '));
    }
    assert.deepEqual(await readdir(cwd), []);
  });
});

describe('the RPM', { skip: unbuilt || lacking('rpmbuild', 'rpm') }, () => {
  it('has the files of the Debian package, and asks for what Fedora calls its programs', async (t) => {
    const dir = await tempDir(t);
    const file = await buildRpm({ ...ORIGIN, output: dir, payload: 'w0.gzdio' });
    const ask = (...words: string[]) =>
      execFileSync('rpm', ['-qp', ...words, file], { encoding: 'utf8', stdio: 'pipe' });
    const files = ask('--list').trim().split('\n').sort();
    const debian = (await installedContent(layoutOf('/usr'), ORIGIN)).map(({ path }) =>
      path.replace('vendor-completions', 'site-functions'),
    );
    assert.deepEqual(files, debian.sort());
    assert.match(ask('--requires'), /^openssh-clients$/m);
    assert.match(ask('--configfiles'), /ssh_config\.d\/banger\.conf/);
  });
});

describe('the bill of materials', () => {
  const parts: Parts = {
    node: { node: '26.1.0', openssl: '3.5.0', modules: '141', zlib: '1.3' },
    packages: [
      { name: '@scope/thing', version: '1.2.3', license: 'MIT' },
      { name: 'plain', version: '2.0.0' },
    ],
  };
  const request = { ...ORIGIN, parts, muslVersion: '1.2.3-1', files: [{ name: 'x.deb', sha256: 'ab' }] };

  it('names everything inside, once, and how it is connected', () => {
    const document = JSON.parse(renderSbom(request));
    assert.equal(document.spdxVersion, 'SPDX-2.3');
    assert.equal(document.creationInfo.created, '2026-11-29T12:00:00Z');
    const packages: {
      SPDXID: string;
      name: string;
      licenseDeclared: string;
      externalRefs?: { referenceLocator: string }[];
    }[] = document.packages;
    assert.deepEqual(
      packages.map(({ name }) => name),
      ['banger', 'node', 'node-openssl', 'node-zlib', '@scope/thing', 'plain', 'musl'],
    );
    assert.equal(packages[4]?.externalRefs?.[0]?.referenceLocator, 'pkg:npm/%40scope/thing@1.2.3');
    assert.equal(packages[5]?.licenseDeclared, 'NOASSERTION');
    const ids = new Set(['SPDXRef-DOCUMENT', ...packages.map(({ SPDXID }) => SPDXID)]);
    assert.equal(ids.size, packages.length + 1);
    for (const id of ids) assert.match(id, /^SPDXRef-[A-Za-z0-9.-]+$/);
    for (const { spdxElementId, relatedSpdxElement } of document.relationships) {
      assert.ok(ids.has(spdxElementId) && ids.has(relatedSpdxElement), `${spdxElementId} → ${relatedSpdxElement}`);
    }
  });

  it('is the same for the same, and another one for another content', () => {
    assert.equal(renderSbom(request), renderSbom(request));
    const namespace = (text: string) => JSON.parse(text).documentNamespace;
    assert.notEqual(
      namespace(renderSbom(request)),
      namespace(renderSbom({ ...request, files: [{ name: 'x.deb', sha256: 'cd' }] })),
    );
  });
});

describe('the checksums of a release', () => {
  it('are checked by sha256sum, and signed with the key that is given', { skip: lacking('gpg') }, async (t) => {
    const dir = await tempDir(t);
    const env = { ...process.env, GNUPGHOME: join(dir, 'keys') };
    await mkdir(env.GNUPGHOME, { mode: 0o700 });
    const gpg = (...words: string[]) => spawnSync('gpg', ['--batch', '--quiet', ...words], { env, encoding: 'utf8' });
    t.after(() => spawnSync('gpgconf', ['--kill', 'all'], { env }));
    const user = 'nobody@example.invalid';
    assert.equal(gpg('--passphrase', '', '--quick-generate-key', user, 'ed25519', 'sign', '1d').status, 0);
    const files = ['one', 'two'].map((name) => join(dir, name));
    for (const file of files) await writeFile(file, file);

    assert.deepEqual(writeSums(dir, files, undefined), [join(dir, 'SHA256SUMS')]);
    process.env.GNUPGHOME = env.GNUPGHOME;
    t.after(() => delete process.env.GNUPGHOME);
    const [sums = '', signature = ''] = writeSums(dir, files, user);
    const check = () => spawnSync('sha256sum', ['--check', '--strict', '--quiet', sums], { cwd: dir }).status;
    assert.deepEqual([check(), gpg('--verify', signature, sums).status], [0, 0]);
    await writeFile(join(dir, 'two'), 'another');
    assert.equal(check(), 1);
    await writeFile(sums, '');
    assert.equal(gpg('--verify', signature, sums).status, 1);
    assert.throws(() => writeSums(dir, files, 'nobody else'));
  });
});

describe('the cut of a version', () => {
  it('puts a heading in front of what was unreleased', () => {
    const before = '# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One.\n';
    assert.equal(
      cutChangelog(before, '0.2.0', '2026-12-01'),
      '# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- One.\n',
    );
    const older = '\n## [0.1.0] - 2026-01-01\n\n- Zero.\n';
    assert.equal(
      cutChangelog(`${before}${older}`, '0.2.0', '2026-12-01'),
      `# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- One.\n${older}`,
    );
    assert.throws(
      () => cutChangelog('## [Unreleased]\n\n## [0.1.0]\n\n- Zero.\n', '0.2.0', '2026-12-01'),
      /no unreleased/,
    );
  });

  it('goes forward only', () => {
    assert.ok(isLater('0.2.0', '0.1.9') && isLater('1.0.0', '0.9.9') && isLater('0.10.0', '0.9.0'));
    assert.ok(!isLater('0.1.0', '0.1.0') && !isLater('0.1.0', '0.2.0'));
    assert.throws(() => isLater('v1', '0.1.0'), /no version such as/);
  });

  it('changes every place that has the version: package.json and its lock, and no other file', async (t) => {
    const dir = await tempDir(t);
    await mkdir(join(dir, 'scripts/release'), { recursive: true });
    for (const name of ['package.json', 'package-lock.json', 'CHANGELOG.md', 'scripts/release/cut.ts'])
      await writeFile(join(dir, name), await readFile(join(ROOT, name)));
    // right after a release there is nothing to release
    const changelog = await readFile(join(dir, 'CHANGELOG.md'), 'utf8');
    await writeFile(join(dir, 'CHANGELOG.md'), changelog.replace('## [Unreleased]\n', '## [Unreleased]\n\n- One.\n'));
    execFileSync('node', [join(dir, 'scripts/release/cut.ts'), '99.0.0'], { stdio: 'pipe' });
    const lock = JSON.parse(await readFile(join(dir, 'package-lock.json'), 'utf8'));
    assert.deepEqual([lock.version, lock.packages[''].version], ['99.0.0', '99.0.0']);
    assert.equal(JSON.parse(await readFile(join(dir, 'package.json'), 'utf8')).version, '99.0.0');
    assert.match(await readFile(join(dir, 'CHANGELOG.md'), 'utf8'), /^## \[Unreleased\]\n\n## \[99\.0\.0\] - \d{4}-/m);
    const again = spawnSync('node', [join(dir, 'scripts/release/cut.ts'), '99.0.0'], { encoding: 'utf8' });
    assert.deepEqual([again.status, again.stderr], [1, '99.0.0 does not come after 99.0.0.\n']);
  });
});
