import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { excerpt, locate } from '../../src/config/locate.ts';

const text = `# vcpus = 1
title = """
vcpus = 9
"""
[vm]
boot_args = "vcpus = 3" # vcpus
"vcpus" = 4
disks = { root = "1G",
  work = "2G" }
[vm.deep.er]
x.y = [
  1,
]
`;

describe('locate', () => {
  const places: [string[], number, number][] = [
    [['title'], 2, 1],
    [['vm'], 5, 2],
    [['vm', 'boot_args'], 6, 1],
    [['vm', 'vcpus'], 7, 1],
    [['vm', 'disks', 'root'], 8, 11],
    [['vm', 'disks', 'work'], 9, 3],
    [['vm', 'deep', 'er'], 10, 10],
    [['vm', 'deep', 'er', 'x', 'y'], 11, 3],
  ];
  for (const [path, line, column] of places) {
    it(`finds ${path.join('.')} at ${line}:${column}`, () => {
      assert.deepEqual(locate(text, path), { line, column });
    });
  }

  it('finds the value behind a key', () => {
    assert.deepEqual(locate(text, ['vm', 'vcpus'], 'value'), { line: 7, column: 11 });
  });

  it('finds nothing where nothing is', () => {
    assert.equal(locate(text, ['vm', 'memory']), undefined);
  });
});

describe('excerpt', () => {
  it('keeps tabs, so that the caret stands below its column', () => {
    assert.equal(excerpt('a = 1\n\tb = 2\r\n', { line: 2, column: 2 }), '2:  \tb = 2\n    \t^');
  });
});
