import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { pino } from 'pino';
import { createServer, type Handlers } from '../../src/daemon/server.ts';
import { tempDir } from '../support/temp-dir.ts';

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url));

describe('an error on its way to the daemon', () => {
  it('of a connection that could not be accepted is logged', () => {
    const lines: string[] = [];
    const server = createServer({} as Handlers, pino({ level: 'error' }, { write: (line) => void lines.push(line) }));
    server.server.emit('error', Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' }));
    assert.match(lines.join(), /accept EMFILE/);
  });
});

describe('the lock of a daemon', () => {
  it('is taken by one process alone, and free when that is gone', async (t) => {
    const path = join(await tempDir(t), 'daemon.lock');
    const first = spawn(process.execPath, [
      '--input-type=module',
      '--eval',
      lock(path, 'await new Promise(() => setInterval(() => {}, 1000));'),
    ]);
    t.after(() => first.kill('SIGKILL'));
    await once(first.stdout, 'data');
    assert.equal(await outcome(path), 'conflict');
    first.kill('SIGKILL');
    await once(first, 'close');
    assert.equal(await outcome(path), 'taken');
  });
});

describe("the daemon's log", () => {
  it('is cut while the daemon writes it, and only where it is its own output', async (t) => {
    const path = await largeLog(t);
    const other = await largeLog(t);
    const program = `import { createLog, limitDaemonLog } from ${source('daemon/log.ts')};
      const log = createLog('info');
      const cut = [await limitDaemonLog(${JSON.stringify(other)}), await limitDaemonLog(${JSON.stringify(path)})];
      log.info({ cut }, 'and so on');`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
      stdio: ['ignore', openSync(path, 'a'), 'inherit'],
    });
    await once(child, 'close');
    const { size } = await stat(path);
    assert.ok(size < 1024 * 1024, `${size} bytes`);
    assert.match((await tail(path)).trim(), /the last line\n\{.*"cut":\[false,true\].*and so on"\}$/);
    assert.ok((await stat(other)).size > 16 * 1024 * 1024);
  });
});

function lock(path: string, then: string): string {
  return `import { takeDaemonLock } from ${source('daemon/lock.ts')};
    try { globalThis.held = takeDaemonLock(${JSON.stringify(path)}); console.log('taken'); ${then} }
    catch (error) { console.log(error.code); }`;
}

async function outcome(path: string): Promise<string> {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', lock(path, '')]);
  const [said] = await Promise.all([text(child.stdout), once(child, 'close')]);
  return said.trim();
}

async function largeLog(t: TestContext): Promise<string> {
  const path = join(await tempDir(t), 'bangerd.log');
  await writeFile(path, '');
  await truncate(path, 17 * 1024 * 1024);
  await writeFile(path, 'the last line\n', { flag: 'a' });
  return path;
}

async function tail(path: string): Promise<string> {
  const child = spawn('tail', ['-n', '2', path]);
  return await text(child.stdout);
}
