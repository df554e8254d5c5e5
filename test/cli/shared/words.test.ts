/** Words that are given as one argument. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isOciReference } from '../../../src/cli/shared/oci.ts';
import { splitWords } from '../../../src/cli/shared/words.ts';

describe('words in one argument', () => {
  it('are split as a shell does, without replacing anything', () => {
    assert.deepEqual(splitWords(`nginx -g 'daemon off;' "a \\"b" c\\ d '' $X`), [
      'nginx',
      '-g',
      'daemon off;',
      'a "b',
      'c d',
      '',
      '$X',
    ]);
    assert.deepEqual(splitWords('["a b", ""]'), ['a b', '']);
    assert.deepEqual(splitWords('  '), []);
  });

  it('that have no end are refused', () => {
    assert.throws(() => splitWords("a 'b"), /has no end/);
    assert.throws(() => splitWords('[1]'), /no JSON array/);
  });
});

describe('what --image names', () => {
  it('is of a registry or file where it has a slash, a colon or a digest', () => {
    for (const one of ['a/b', 'nginx:1', 'oci:dir', 'docker-archive:./x.tar', 'x@sha256:1'])
      assert.ok(isOciReference(one), one);
    for (const one of ['nginx', 'debian-bookworm', '/var/bundle', './bundle', '~/b'])
      assert.ok(!isOciReference(one), one);
  });
});
