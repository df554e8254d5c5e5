/** HEALTHCHECK as the agent's program asks it: what it says of a process that is well, that is not, and that does not answer. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { describeProcess, type ProcessRequest, resolveProcess } from '../../../src/core/guest-process.ts';
import { agentSkip, compileAgent, workDirectory } from '../../support/agent-program.ts';
import { paced } from '../../support/pace.ts';

interface Asking {
  directory: string;
  /** Waits until the state is as wanted. */
  becomes(wanted: RegExp): Promise<void>;
  console(): Promise<string>;
  /** Waits until so many lines are on the console: what becomes of the state is told a moment later. */
  tells(lines: number): Promise<string[]>;
  end(): Promise<void>;
}

async function ask(
  t: TestContext,
  script: string,
  times: Record<string, number>,
  asked: ProcessRequest = {},
): Promise<Asking> {
  const directory = await workDirectory();
  const image = {
    entrypoint: ['/x'],
    cmd: [],
    env: [`PATH=${process.env.PATH}`, 'PLACE=here'],
    user: '',
    workdir: directory,
  };
  const checked = { healthcheck: ['CMD-SHELL', script], healthTimes: { intervalMs: 100, ...times } };
  await writeFile(
    join(directory, 'run/service'),
    describeProcess(resolveProcess({ ...image, stopSignal: '', ...checked }, asked)),
  );
  await writeFile(join(directory, 'run/console'), '');
  const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=0' };
  const child = spawn(await compileAgent(), ['--health'], { cwd: directory, env, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk) => {
    said += chunk;
  });
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill();
    assert.deepEqual(await ended, [0, null], said);
  };
  t.after(async () => {
    await end();
    await rm(directory, { recursive: true, force: true, maxRetries: 10 });
    assert.equal(said, '');
  });
  const state = async () => await readFile(join(directory, 'run/health-state'), 'utf8').catch(() => '');
  const console = async () => await readFile(join(directory, 'run/console'), 'utf8');
  const until = async (what: string, isTrue: () => Promise<boolean>) => {
    const limit = performance.now() + paced(10_000);
    while (!(await isTrue())) {
      assert.ok(performance.now() < limit, `${what}: ${await state()}${await console()}${said}`);
      await delay(20);
    }
  };
  const linesOf = (text: string) => text.split('\n').slice(0, -1);
  return {
    ...{ directory, end, console },
    becomes: async (wanted) => await until(String(wanted), async () => wanted.test(await state())),
    async tells(lines) {
      await until(`${lines} lines`, async () => linesOf(await console()).length >= lines);
      return linesOf(await console());
    },
  };
}

describe('a health check in a guest', { skip: agentSkip }, () => {
  it('says when it is well, and when it has failed often enough in a row', async (t) => {
    const asked = await ask(
      t,
      '[ "$PLACE $PWD" = "here $PWD" ] || exit 2; printf "one\\ntwo \\033[1m\\n"; [ -e well ]',
      {
        retries: 3,
      },
    );
    await asked.becomes(/^health=unhealthy\nfailures=3\nhealth-detail=status 1: two {2}\[1m\n$/);
    await writeFile(join(asked.directory, 'well'), '');
    await asked.becomes(/^health=healthy\nfailures=0\nhealth-detail=\n$/);
    await rm(join(asked.directory, 'well'));
    await asked.becomes(/^health=unhealthy\n/);
    assert.deepEqual(
      (await asked.tells(4)).map((line) => line.replace('banger-init: service is ', '')),
      ['starting', 'unhealthy: status 1: two  [1m', 'healthy', 'unhealthy: status 1: two  [1m'],
    );
  });

  it('gives up on one that does not answer, with all that it began', async (t) => {
    const asked = await ask(t, 'sleep 1000 & echo $! > pid; wait', { timeoutMs: 300, retries: 1 });
    await asked.becomes(/^health=unhealthy\nfailures=1\nhealth-detail=no answer for 300 ms\n$/);
    const pid = Number(await readFile(join(asked.directory, 'pid'), 'utf8'));
    await asked.end();
    await delay(100);
    // whoever takes it in may be slow to look
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => 'State:\tX');
    assert.match(status, /^State:\t[ZX]/m);
  });

  it('counts no failure while the process has time to begin, and asks more often then', async (t) => {
    const times = { startPeriodMs: 60_000, startIntervalMs: 100, intervalMs: 400, retries: 1 };
    const asked = await ask(t, 'echo x >> asked; [ $(wc -l < asked) -ge 5 ]', times);
    await asked.becomes(/^health=healthy\n/);
    assert.doesNotMatch(await asked.console(), /unhealthy/);
    await writeFile(join(asked.directory, 'asked'), '');
    await asked.becomes(/^health=unhealthy\n/);
  });

  it('says which user it should be and cannot, and which program it should run', async (t) => {
    const unknown = await ask(t, 'true', { retries: 1 }, { user: 'nobody-here' });
    await unknown.becomes(/health-detail=status 127: its user is none of the image's: No such file or directory\n/);
    const group = await ask(t, 'true', { retries: 1 }, { user: '1000:no-such-group' });
    await group.becomes(/its group is none of the image's/);
  });

  it('is not kept up by who holds its output, nor by one that says more than anybody reads', async (t) => {
    const asked = await ask(t, 'sleep 1000 & yes | head -c 3000000; exit 0', { retries: 1 });
    await asked.becomes(/^health=healthy\n/);
  });
});
