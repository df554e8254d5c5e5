import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { diffPackages, formatPackageList, parseDpkgStatus, parsePackageList } from '../../src/core/packages.ts';

const list = (...lines: string[]) => parsePackageList(lines.join('\n'));

describe('a list of packages', () => {
  it('comes back as it was written, sorted by code units', () => {
    const text = formatPackageList(list('zsh 5 amd64', 'apt 2.6 amd64', 'Zed 1 all', 'apt 2.6 i386'));
    assert.equal(text, 'Zed 1 all\napt 2.6 amd64\napt 2.6 i386\nzsh 5 amd64\n');
    assert.equal(formatPackageList(parsePackageList(text)), text);
  });

  it('passes over lines that are none', () => {
    assert.deepEqual(list('', '  ', 'jq', 'jq 1.6', 'jq 1.6 amd64 more', ' jq\t1.6  amd64 '), [
      { name: 'jq', version: '1.6', arch: 'amd64' },
    ]);
  });

  it('is read from dpkg’s own database, without packages that were removed', () => {
    const status = `Package: jq
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 1.6-2.1+deb12u1
Description: lightweight JSON processor
 Version: 9 of the description
 Status: install ok installed

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: held
Status: hold ok installed
Architecture: all
Version: 2:3

Package: half
Status: install ok half-configured
Architecture: all
Version: 4
`;
    assert.deepEqual(parseDpkgStatus(status), [
      { name: 'jq', version: '1.6-2.1+deb12u1', arch: 'amd64' },
      { name: 'held', version: '2:3', arch: 'all' },
    ]);
    assert.deepEqual(parseDpkgStatus(''), []);
    assert.deepEqual(parseDpkgStatus('debugfs: File not found by ext2_lookup'), []);
  });
});

describe('the difference between two lists', () => {
  it('is what was added, removed and changed, and how much stayed', () => {
    const diff = diffPackages(
      list('apt 2.6 amd64', 'nano 7 amd64', 'tzdata 1 all'),
      list('apt 2.7 amd64', 'jq 1.6 amd64', 'tzdata 1 all'),
    );
    assert.deepEqual(diff, {
      added: [{ name: 'jq', version: '1.6', arch: 'amd64' }],
      removed: [{ name: 'nano', version: '7', arch: 'amd64' }],
      changed: [{ name: 'apt', before: { version: '2.6', arch: 'amd64' }, after: { version: '2.7', arch: 'amd64' } }],
      unchanged: 1,
    });
  });

  it('is a change when only the architecture is another one', () => {
    const { changed, added, removed } = diffPackages(list('tool 1 amd64'), list('tool 1 all'));
    assert.deepEqual([changed.length, added.length, removed.length], [1, 0, 0]);
  });

  it('compares a package of several architectures with its own kind', () => {
    const diff = diffPackages(
      list('libc6 1 amd64', 'libc6 1 i386'),
      list('libc6 2 i386', 'libc6 1 amd64', 'libc6 2 armhf'),
    );
    assert.deepEqual(diff.changed, [
      { name: 'libc6', before: { version: '1', arch: 'i386' }, after: { version: '2', arch: 'i386' } },
    ]);
    assert.deepEqual(diff.added, [{ name: 'libc6', version: '2', arch: 'armhf' }]);
    assert.deepEqual([diff.removed, diff.unchanged], [[], 1]);
  });

  it('is nothing between equal lists in another order', () => {
    const diff = diffPackages(list('a 1 all', 'b 1 all'), list('b 1 all', 'a 1 all'));
    assert.deepEqual(diff, { added: [], removed: [], changed: [], unchanged: 2 });
  });
});
