import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url));

const GUARDED = `
import { EventEmitter } from 'node:events';
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { catchStray } from ${source('daemon/last-resort.ts')};
const log = { error: (facts, message) => writeSync(1, message + ' | ' + facts.error + '\\n') };
using _ = catchStray(log, () => { writeSync(1, 'gave up\\n'); process.exit(1); });
`;

describe('what nobody caught', () => {
  it('is logged, and the daemon goes on', async () => {
    const { lines, exitCode } = await run(`
      Promise.reject(new Error('a promise'));
      setImmediate(() => new EventEmitter().emit('error', new Error('a stream')));
      setTimeout(() => { throw new TypeError('a timer'); }, 5);
      setImmediate(() => Promise.reject('no error at all'));
      await sleep(100);
      console.log('still here');
    `);
    assert.equal(exitCode, 0);
    assert.deepEqual(lines.toSorted(), [
      'nobody listened for an error; going on | a stream',
      'nobody listened for an error; going on | a timer',
      'nobody waited for what failed; going on | a promise',
      'nobody waited for what failed; going on | no error at all',
      'still here',
    ]);
  });

  it('ends a daemon that does nothing else', async () => {
    const { lines, exitCode } = await run(`
      setInterval(() => { throw new Error('again'); }, 1);
      await sleep(60_000);
    `);
    assert.equal(exitCode, 1);
    assert.equal(lines.at(-1), 'gave up');
    assert.ok(lines.length > 20 && lines.length < 100, `${lines.length} lines`);
  });

  it('does not come from a log that cannot be written', async () => {
    const { errors, exitCode } = await run(
      `
      import { createLog } from ${source('daemon/log.ts')};
      import { openSync, closeSync } from 'node:fs';
      const real = createLog('info');
      for (let n = 0; n < 100; n++) real.info({ n }, 'x'.repeat(1000));
      await sleep(20);
      process.exit(42);
    `,
      '/dev/full',
    );
    assert.equal(exitCode, 42, errors);
  });
});

async function run(
  program: string,
  output?: string,
): Promise<{ lines: string[]; errors: string; exitCode: number | null }> {
  const script = `exec "$@"${output === undefined ? '' : ` > ${output}`}`;
  const argv = ['-c', script, 'sh', process.execPath, '--input-type=module', '--eval', GUARDED + program];
  const child = spawn('sh', argv);
  const [said, errors] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { lines: said.trim().split('\n'), errors, exitCode: child.exitCode };
}
