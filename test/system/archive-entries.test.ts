import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { checkEntries, parseListing } from '../../src/system/archive-entries.ts';

const BUNDLE = { noun: 'bundle', manifest: 'bundle.json', madeBy: 'banger bundle export', setting: 'paths.bundles' };
/** As tar writes it: names that hold no arrow are put into quotes here. */
const line = (mode: string, name: string, size = '10') => {
  const quoted = name.startsWith('"')
    ? name
    : name
        .split(/( -> | link to )/)
        .map((part, index) => (index % 2 === 0 ? JSON.stringify(part) : part))
        .join('');
  return `${mode} 0/0 ${size.padStart(12)} 2026-01-02 03:04:05.000000000 ${quoted}`;
};
const check = (...lines: string[]) =>
  checkEntries(parseListing([line('-rw-r--r--', 'b/bundle.json'), ...lines, ''].join('\n')), 'x.tar.zst', BUNDLE);

describe("an archive's list of entries", () => {
  it('is read with kinds, sizes and targets', () => {
    const text = [
      line('drwxr-xr-x', './b/', '0'),
      line('-rw-r--r--', 'b/a file with spaces', '2147483648'),
      line('lrwxrwxrwx', 'b/link -> a file', '0'),
      line('hrw-r--r--', 'b/hard link to b/a', '0'),
      line('crw-rw-rw-', 'b/null', '1,3'),
    ].join('\n');
    assert.deepEqual(parseListing(text), [
      { kind: 'directory', path: 'b', size: 0, target: undefined },
      { kind: 'file', path: 'b/a file with spaces', size: 2147483648, target: undefined },
      { kind: 'link', path: 'b/link', size: 0, target: 'a file' },
      { kind: 'hardlink', path: 'b/hard', size: 0, target: 'b/a' },
      { kind: 'special', path: 'b/null', size: 1, target: undefined },
    ]);
  });

  it('with a line that is none of an entry is refused', () => {
    assert.throws(() => parseListing('drwx what is this'), { code: 'corrupt' });
  });

  it('is read right whatever a name looks like', () => {
    const text = [
      line('lrwxrwxrwx', '"b/a -> x" -> "/etc"', '0'),
      line('lrwxrwxrwx', '"b/q\\" -> \\"x" -> "y\\\\"', '0'),
      line('-rw-r--r--', '"b/gr\\303\\274n\\nline\\t"'),
    ].join('\n');
    assert.deepEqual(
      parseListing(text).map(({ path, target }) => [path, target]),
      [
        ['b/a -> x', '/etc'],
        ['b/q" -> "x', 'y\\'],
        ['b/grün\nline\t', undefined],
      ],
    );
    assert.throws(() => check(line('lrwxrwxrwx', '"b/a -> x" -> "/etc"', '0')), /link to \/etc, outside/);
    assert.throws(() => parseListing(line('-rw-r--r--', '"b/a" -> "/etc"')), { code: 'corrupt' });
    assert.throws(() => parseListing(line('lrwxrwxrwx', '"b/a"')), { code: 'corrupt' });
  });

  it('tells where bundle.json lies', () => {
    assert.equal(check(), 'b');
    assert.equal(checkEntries(parseListing(line('-rw-r--r--', './bundle.json')), 'x', BUNDLE), '');
    assert.throws(
      () => checkEntries(parseListing(line('-rw-r--r--', 'a/b/bundle.json')), 'x', BUNDLE),
      /holds no bundle.json/,
    );
  });

  for (const [what, entry, message] of [
    ['a path that climbs out', line('-rw-r--r--', '../evil'), /leads out/],
    ['a path that climbs out from inside', line('-rw-r--r--', 'b/../../evil'), /leads out/],
    ['an absolute path', line('-rw-r--r--', '/etc/passwd'), /leads out/],
    ['a character device', line('crw-rw-rw-', 'b/null', '1,3'), /device/],
    ['a block device', line('brw-rw----', 'b/sda', '8,0'), /device/],
    ['a named pipe', line('prw-r--r--', 'b/pipe', '0'), /special file/],
    ['a hard link', line('hrw-r--r--', 'b/passwd link to /etc/passwd', '0'), /hard link/],
    ['an absolute link', line('lrwxrwxrwx', 'b/vmlinux -> /etc/passwd', '0'), /link to \/etc\/passwd, outside/],
    ['a link that climbs out', line('lrwxrwxrwx', 'b/x/y -> ../../../etc', '0'), /outside/],
    ['a file no disk holds', line('-rw-r--r--', 'b/rootfs.ext4', String(2 ** 43)), /larger than any bundle/],
  ] as const) {
    it(`refuses ${what}, naming it`, () => {
      assert.throws(() => check(entry), { code: 'corrupt', message });
    });
  }

  it('allows a link that stays inside', () => {
    assert.equal(check(line('lrwxrwxrwx', 'b/modules/x -> ../vmlinux', '0')), 'b');
  });
});
