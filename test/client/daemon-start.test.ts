import assert from 'node:assert/strict';
import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { answers, type DaemonStartOptions, EXIT_OTHER_DAEMON, startDaemon } from '../../src/client/daemon-start.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

/** A start of a daemon that is the given script; `pids` are ended after the test. */
async function startScript(t: TestContext, script: string, options: Partial<DaemonStartOptions> = {}) {
  const dir = await tempDir(t);
  const runner = createRunner();
  const pids: number[] = [];
  t.after(() => {
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // it ended by itself
      }
    }
  });
  const socketPath = join(dir, 'd.sock');
  const logFile = join(dir, 'state', 'bangerd.log');
  const start = () =>
    startDaemon({
      argv: [process.execPath, '-e', script],
      socketPath,
      logFile,
      env: { ...process.env, SOCKET: socketPath },
      runner: {
        async startDetached(...args) {
          const child = await runner.startDetached(...args);
          pids.push(child.pid);
          return child;
        },
      },
      ...options,
    });
  return { start, socketPath, logFile, pids };
}

const LISTEN = `require('node:net').createServer(() => {}).listen(process.env.SOCKET);`;

describe('starting the daemon', () => {
  it('returns when its socket answers, with what it writes in the log file', async (t) => {
    const { start, socketPath, logFile } = await startScript(
      t,
      `console.log('hello'); setTimeout(() => { ${LISTEN} }, 100)`,
    );
    assert.equal(await answers(socketPath), false);
    await start();
    assert.equal(await answers(socketPath), true);
    assert.equal(await readFile(logFile, 'utf8'), 'hello\n');
    assert.equal((await stat(logFile)).mode & 0o777, 0o600);
  });

  it('puts the daemon in a session of its own, so that it outlives the terminal', async (t) => {
    const { start, pids } = await startScript(t, LISTEN);
    await start();
    const [pid = 0] = pids;
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    const session = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3];
    assert.equal(session, String(pid));
  });

  it('shows the last lines of its log when it ends at once, log records as their message', async (t) => {
    const script = `console.error('older'); console.error('{"level":50,"msg":"no space left"}');
      console.error('    at somewhere (x.js:1:1)'); console.error('banger: cannot start'); process.exit(6)`;
    const { start, logFile } = await startScript(t, script);
    await start().catch(() => {}); // what an earlier start wrote is not shown again
    await assert.rejects(start(), {
      code: 'daemon_unreachable',
      message:
        'The daemon ended with status 6 while it was starting.\n  older\n  no space left\n  banger: cannot start',
      hint: `The whole log is in ${logFile}; \`banger daemon run\` starts it in the foreground.`,
    });
  });

  it('gives up after its limit', async (t) => {
    const { start } = await startScript(t, `console.log('busy'); setInterval(() => {}, 1000)`, { timeoutMs: 1000 });
    await assert.rejects(start(), { message: 'The daemon did not answer within 1 s.\n  busy' });
  });

  it('takes the daemon that another client started first', async (t) => {
    const { start, socketPath } = await startScript(t, `process.exit(${EXIT_OTHER_DAEMON})`);
    const other = createServer();
    t.after(() => other.close());
    const started = start();
    await new Promise<void>((resolve) => setTimeout(() => other.listen(socketPath, resolve), 150));
    await started;
    assert.equal(await answers(socketPath), true);
  });

  it('takes the place of the daemon that was there first when that one fails', async (t) => {
    const script = `const fs = require('node:fs'); const mark = process.env.SOCKET + '.tried';
      if (fs.existsSync(mark)) { ${LISTEN} } else { fs.writeFileSync(mark, ''); process.exit(${EXIT_OTHER_DAEMON}); }`;
    const { start, pids } = await startScript(t, script);
    await start();
    assert.equal(pids.length, 2);
  });

  it('shows why a daemon ended that met another kind of conflict', async (t) => {
    const { start } = await startScript(t, `console.error('banger: a newer database'); process.exit(5)`);
    await assert.rejects(start(), { message: /^The daemon ended with status 5 .*\n {2}banger: a newer database$/s });
  });

  it('waits for one that is slow and gets on, and says so once', async (t) => {
    const script = `setInterval(() => { for (const end = Date.now() + 60; Date.now() < end;); }, 100);
      setTimeout(() => { ${LISTEN} }, 4500);`;
    let told = 0;
    const { start } = await startScript(t, script, { stallMs: 2000, onSlow: () => told++ });
    await start();
    assert.equal(told, 1);
  });

  it('gives up one that does nothing, long before the limit', async (t) => {
    const { start } = await startScript(t, `console.log('stuck'); setInterval(() => {}, 100_000)`, { stallMs: 1500 });
    await assert.rejects(start(), { message: 'The daemon did not answer and did nothing for 1.5 s.\n  stuck' });
  });

  it('sets a large log aside', async (t) => {
    const { start, logFile } = await startScript(t, `console.log('new'); ${LISTEN}`);
    await start();
    await writeFile(logFile, 'old');
    await truncate(logFile, 9 * 1024 * 1024);
    await start();
    assert.equal((await stat(`${logFile}.1`)).size, 9 * 1024 * 1024);
    assert.ok((await stat(logFile)).size < 1000);
  });
});
