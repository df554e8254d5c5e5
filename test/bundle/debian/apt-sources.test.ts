import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  formatSources,
  parseDeb822,
  parseOneLine,
  readSources,
  sourcesForSuite,
} from '../../../src/bundle/debian/apt-sources.ts';
import { tempDir } from '../../support/temp-dir.ts';

const DEBIAN = `# comment
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
uris: http://archive.example/debian-security
suites: bookworm-security
components: main
`;

const turn = (text: string, suite: string, host = 'bookworm') =>
  formatSources(sourcesForSuite(parseDeb822(text), host, suite));

describe("the host's apt sources", () => {
  it('keep their archives, keys and components when turned to another suite', () => {
    assert.equal(
      turn(DEBIAN, 'trixie'),
      `Types: deb
URIs: http://archive.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian-security
Suites: trixie-security
Components: main
`,
    );
  });

  it("stay as they are for the host's own suite, less backports and source packages", () => {
    assert.match(turn(DEBIAN, 'bookworm'), /^Types: deb\n.*\nSuites: bookworm bookworm-updates\n/);
  });

  it('lose updates and security for a suite that has none', () => {
    const text = turn(DEBIAN, 'sid');
    assert.match(text, /Suites: sid\n/);
    assert.doesNotMatch(text, /security/);
  });

  it('may follow a release by its alias', () => {
    const stable = DEBIAN.replaceAll('bookworm', 'stable');
    assert.match(turn(stable, 'bookworm'), /Suites: bookworm bookworm-updates\n(.*\n)*Suites: bookworm-security\n/);
  });

  it('of other vendors stay out', () => {
    const vendors = `Types: deb
URIs: http://docker.example/linux
Suites: bookworm
Components: stable

Types: deb
URIs: http://node.example
Suites: nodistro
Components: main

Types: deb
URIs: http://postgres.example
Suites: bookworm-pgdg
Components: main

Types: deb
URIs: http://flat.example
Suites: ./
`;
    assert.equal(turn(`${DEBIAN}\n${vendors}`, 'bookworm'), turn(DEBIAN, 'bookworm'));
    assert.throws(() => turn(vendors, 'bookworm'), { code: 'host_unprepared', hint: /bundle import/ });
  });

  it('in the one-line format become the same stanzas', () => {
    const list = `
# deb http://commented.example bookworm main
deb [arch=amd64,arm64 signed-by=/k.gpg check-valid-until=no] http://archive.example/debian bookworm main contrib # mine
deb-src http://archive.example/debian bookworm main
  deb http://archive.example/debian-security bookworm-security main
`;
    assert.equal(
      formatSources(parseOneLine(list)),
      `Types: deb
URIs: http://archive.example/debian
Suites: bookworm
Components: main contrib
Architectures: amd64 arm64
Signed-By: /k.gpg
Check-Valid-Until: no

Types: deb
URIs: http://archive.example/debian-security
Suites: bookworm-security
Components: main
`,
    );
  });

  it('keep keys that stand in the file itself', () => {
    const key = 'Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----';
    const text = `Types: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main\n${key}\n`;
    assert.ok(turn(text, 'bookworm').includes(' -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n'));
  });

  it('are read from both places, without disabled files and stanzas', async (t) => {
    const dir = await tempDir(t);
    const parts = join(dir, 'sources.list.d');
    await mkdir(parts);
    await writeFile(join(dir, 'sources.list'), 'deb http://one.example bookworm main\n');
    await writeFile(join(parts, 'two.list'), 'deb http://two.example bookworm main\n');
    await writeFile(
      join(parts, 'three.sources'),
      'Types: deb\nURIs: http://three.example\nSuites: bookworm\nComponents: main\n',
    );
    await writeFile(
      join(parts, 'four.sources'),
      'Types: deb\nEnabled: no\nURIs: http://four.example\nSuites: bookworm\n',
    );
    await writeFile(join(parts, 'five.list.save'), 'deb http://five.example bookworm main\n');
    const found = await readSources({ list: join(dir, 'sources.list'), parts });
    const uris = found.map((stanza) => stanza.get('URIs'));
    assert.deepEqual(uris, ['http://one.example', 'http://three.example', 'http://two.example']);
    assert.deepEqual(await readSources({ list: join(dir, 'none'), parts: join(dir, 'none.d') }), []);
  });
});

it('options of sources that are called as what every object has are options like others', () => {
  const [stanza] = parseOneLine('deb [constructor=x] http://archive.example/debian bookworm main');
  assert(stanza && [...stanza.keys()].every((name) => typeof name === 'string'));
  assert.equal(stanza?.get('Constructor'), 'x');
});
