import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it } from 'node:test';

const SCRIPT = `
  import { watchReader } from ${JSON.stringify(new URL('../../src/system/pipe-reader.ts', import.meta.url).href)};
  process.stdout.write('first line\\n');
  setTimeout(() => process.exit(3), 20_000);
  watchReader(1, () => process.exit(42));`;

describe('a reader that leaves', () => {
  it('is noticed without another line, and one that stays is waited for', async () => {
    const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', SCRIPT], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    const stays = await Promise.race([ended, new Promise((resolve) => setTimeout(() => resolve('runs'), 1500))]);
    assert.equal(stays, 'runs');
    child.stdout.destroy();
    assert.deepEqual(await ended, [42, null]);
  });
});
