/** Random bytes where nothing can be opened any more. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';

const RANDOM = new URL('../../fcqemu/random.ts', import.meta.url).href;

const WITHOUT_DESCRIPTORS = `
  const { openSync } = await import('node:fs');
  const { randomBytes } = await import('${RANDOM}');
  try {
    for (;;) openSync('/dev/null', 'r');
  } catch (error) {
    console.log(error.code, randomBytes(256).equals(randomBytes(256)), randomBytes(3).length);
  }
`;

describe('random bytes', () => {
  it('are there in a process that has no descriptor left', async () => {
    const argv = [process.execPath, '--input-type=module', '-e', WITHOUT_DESCRIPTORS];
    const { stdout } = await promisify(execFile)('sh', ['-c', 'ulimit -n 64; exec "$0" "$@"', ...argv]);
    assert.equal(stdout, 'EMFILE false 3\n');
  });
});
