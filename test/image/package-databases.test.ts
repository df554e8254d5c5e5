/** Packages by what each manager leaves in a root file system, and bills of materials of them. */
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, it } from 'node:test';
import { findPackages, packageKinds, type RootFiles } from '../../src/image/package-databases.ts';
import { readHeader, readRpmDatabase } from '../../src/image/rpm-database.ts';
import { formatSbom, packageUrl, type SbomSubject } from '../../src/image/sbom.ts';
import { tempDir } from '../support/temp-dir.ts';
import { turnsDuring } from '../support/turns.ts';

type Tag = [tag: number, type: number, value: string | number];

/** A header as rpm stores it: entries, then what they point to. */
function rpmHeader(tags: readonly Tag[]): Buffer {
  const data: Buffer[] = [];
  const entries = tags.map(([tag, type, value]) => {
    const entry = Buffer.alloc(16);
    entry.writeInt32BE(tag, 0);
    entry.writeUInt32BE(type, 4);
    entry.writeUInt32BE(Buffer.concat(data).length, 8);
    entry.writeUInt32BE(1, 12);
    const number = Buffer.alloc(4);
    if (typeof value === 'number') number.writeUInt32BE(value, 0);
    data.push(typeof value === 'number' ? number : Buffer.from(`${value}\0`));
    return entry;
  });
  const store = Buffer.concat(data);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(entries.length, 0);
  head.writeUInt32BE(store.length, 4);
  return Buffer.concat([head, ...entries, store]);
}

const packageTags = (name: string, version: string, release: string, arch: string, epoch?: number): Tag[] => [
  [1000, 6, name],
  [1001, 6, version],
  [1002, 6, release],
  ...(epoch === undefined ? [] : [[1003, 4, epoch] as Tag]),
  ...(arch === '' ? [] : [[1022, 6, arch] as Tag]),
];

function rpmDatabase(path: string, blobs: readonly Buffer[], table?: string): void {
  using database = new DatabaseSync(path);
  database.exec(table ?? "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL)");
  if (table !== undefined) return;
  const insert = database.prepare('INSERT INTO Packages (blob) VALUES (?)');
  for (const blob of blobs) insert.run(blob);
}

describe('a database of rpm', () => {
  it('has names, versions with their epochs, and architectures; keys are no packages', async (t) => {
    const path = join(await tempDir(t), 'rpmdb.sqlite');
    rpmDatabase(path, [
      rpmHeader(packageTags('bash', '5.2.26', '3.fc40', 'x86_64')),
      rpmHeader(packageTags('vim', '9.1', '1.el9', 'noarch', 2)),
      rpmHeader(packageTags('zero', '1', '1', 'noarch', 0)),
      rpmHeader(packageTags('gpg-pubkey', 'aa', 'bb', '')),
    ]);
    assert.deepEqual(readRpmDatabase(path), [
      { name: 'bash', version: '5.2.26-3.fc40', arch: 'x86_64' },
      { name: 'vim', version: '2:9.1-1.el9', arch: 'noarch' },
      { name: 'zero', version: '1-1', arch: 'noarch' },
    ]);
  });

  it('that is damaged, none of rpm’s, or made to take for ever is refused', async (t) => {
    const dir = await tempDir(t);
    const path = (name: string) => join(dir, name);
    await writeFile(path('rubbish'), 'SQLite format 3\0rubbish');
    rpmDatabase(path('other'), [], 'CREATE TABLE Other (x)');
    rpmDatabase(
      path('endless'),
      [],
      'CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob FROM n',
    );
    rpmDatabase(path('computed'), [], 'CREATE TABLE Packages (hnum INTEGER, blob BLOB AS (zeroblob(1000000000)))');
    rpmDatabase(path('short'), [rpmHeader(packageTags('bash', '5', '1', 'x86_64')).subarray(0, 60)]);
    for (const name of ['rubbish', 'other', 'endless', 'computed', 'short']) {
      assert.throws(() => readRpmDatabase(path(name)), { code: 'corrupt' }, name);
    }
    const header = rpmHeader(packageTags('bash', '5', '1', 'x86_64'));
    header.writeUInt32BE(0xffffffff, 0);
    assert.throws(() => readHeader(header), /cut short/);
  });
});

function filesOf(files: Record<string, Buffer | string>): RootFiles {
  const paths = Object.keys(files);
  return {
    read: async (path) => (files[path] === undefined ? undefined : Buffer.from(files[path] as string)),
    list: async (directory) => [
      ...new Set(
        paths
          .filter((path) => path.startsWith(`${directory}/`))
          .map((path) => path.slice(directory.length + 1).split('/', 1)[0] ?? ''),
      ),
    ],
  };
}

describe('the packages of a root file system', () => {
  it('are looked for in as many files as there can be, and others have their turn meanwhile', async (t) => {
    let read = 0;
    const names = Array.from({ length: 200_001 }, (_, at) => `${at}`);
    const files: RootFiles = {
      read: async () => {
        read += 1;
        return undefined;
      },
      list: async (directory) => (directory === '/var/lib/dpkg/status.d' ? names : []),
    };
    const scratch = await tempDir(t);
    const problems: string[] = [];
    const turns = await turnsDuring(async () => problems.push(...(await findPackages(files, scratch)).problems));
    assert.deepEqual(problems, ['more than 200000 files are in its /var/lib/dpkg/status.d']);
    assert.ok(read < 200_010 && turns >= 200, `${read} files, ${turns} turns`);
  });

  it('come from pacman', async (t) => {
    const files = filesOf({
      '/var/lib/pacman/local/ALPM_DB_VERSION': '9\n',
      '/var/lib/pacman/local/bash-5.2.026-2/desc':
        '%NAME%\nbash\n\n%VERSION%\n5.2.026-2\n\n%ARCH%\nx86_64\n\n%LICENSE%\nGPL\n',
      '/var/lib/pacman/local/tzdata-2024a-1/desc': '%NAME%\ntzdata\n\n%VERSION%\n2024a-1\n\n%ARCH%\nany\n',
      '/var/lib/pacman/local/broken-1/desc': '%NAME%\n',
    });
    assert.deepEqual(await findPackages(files, await tempDir(t)), {
      packages: [
        { name: 'bash', version: '5.2.026-2', arch: 'x86_64' },
        { name: 'tzdata', version: '2024a-1', arch: 'any' },
      ],
      kinds: ['alpm'],
      problems: [],
    });
    assert.deepEqual(await packageKinds(files), ['alpm']);
  });

  it('come from rpm, and nothing of its copy stays', async (t) => {
    const dir = await tempDir(t);
    rpmDatabase(join(dir, 'made'), [rpmHeader(packageTags('bash', '5', '1', 'x86_64'))]);
    const files = filesOf({ '/usr/lib/sysimage/rpm/rpmdb.sqlite': await readFile(join(dir, 'made')) });
    const found = await findPackages(
      { ...files, read: async (path) => (path.includes('rpm') ? await readFile(join(dir, 'made')) : undefined) },
      dir,
    );
    assert.deepEqual(found.packages, [{ name: 'bash', version: '5-1', arch: 'x86_64' }]);
    assert.deepEqual(found.kinds, ['rpm']);
    assert.deepEqual(await readdir(dir), ['made']);
  });

  it('are missing with the reason where there is one', async (t) => {
    const old = filesOf({ '/var/lib/rpm/Packages': 'bdb' });
    assert.match((await findPackages(old, await tempDir(t))).problems.join(), /format that is not read here/);
    const damaged = filesOf({ '/var/lib/rpm/rpmdb.sqlite': 'rubbish' });
    assert.match((await findPackages(damaged, await tempDir(t))).problems.join(), /database of rpm cannot be read/);
    assert.deepEqual(await findPackages(filesOf({}), await tempDir(t)), { packages: [], kinds: [], problems: [] });
  });
});

describe('a bill of materials', () => {
  const subject: SbomSubject = {
    ...{ name: 'dev', digest: 'fsverity-sha256:00', createdAt: '2026-05-01T00:00:00.123Z', kind: 'deb' },
    packages: [
      { name: 'g++', version: '4:12.2.0-3', arch: 'amd64' },
      { name: 'jq', version: '1.6-2.1', arch: 'amd64' },
    ],
    distribution: { id: 'debian', version: '12', name: 'Debian GNU/Linux 12 (bookworm)' },
    tool: { name: 'banger', version: '1.0.0' },
  };

  it('names packages by URLs of their manager', () => {
    const url = (kind: SbomSubject['kind'], version: string) =>
      packageUrl({ ...subject, kind }, { name: 'Foo+', version, arch: 'x86_64' });
    assert.equal(url('deb', '1:2~3'), 'pkg:deb/debian/foo%2B@1:2~3?arch=x86_64&distro=debian-12');
    assert.equal(url('rpm', '1:2-3.el9'), 'pkg:rpm/debian/Foo%2B@2-3.el9?arch=x86_64&distro=debian-12&epoch=1');
    assert.equal(url(undefined, '1'), undefined);
  });

  it('is the same for the same image, and names every package once, in both formats', () => {
    for (const format of ['spdx', 'cyclonedx'] as const) {
      assert.deepEqual(formatSbom(format, subject), formatSbom(format, subject));
      const text = JSON.stringify(formatSbom(format, subject));
      assert.equal(text.split('pkg:deb/debian/jq@1.6-2.1').length - 1 > 0, true);
    }
    const spdx = formatSbom('spdx', subject) as {
      packages: { SPDXID: string }[];
      relationships: unknown[];
      creationInfo: unknown;
    };
    assert.equal(new Set(spdx.packages.map(({ SPDXID }) => SPDXID)).size, 3);
    assert.equal(spdx.relationships.length, 3);
    assert.deepEqual(spdx.creationInfo, { created: '2026-05-01T00:00:00Z', creators: ['Tool: banger-1.0.0'] });
    const twice = { ...subject, packages: [...subject.packages, ...subject.packages] };
    const { components } = formatSbom('cyclonedx', twice) as { components: { 'bom-ref': string }[] };
    assert.equal(new Set(components.map((each) => each['bom-ref'])).size, 4);
  });
});
