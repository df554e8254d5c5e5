/** Commands through the agent, which is a process of this machine here, and what becomes of them when it fails. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { before, describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import {
  createFrameDecoder,
  decodeCredit,
  encodeFrame,
  FRAME,
  type Frame,
  INPUT_WINDOW_BYTES,
} from '../../../src/api/exec-frames.ts';
import type { ExecRequest } from '../../../src/api/vm.ts';
import type { Host } from '../../../src/control/host.ts';
import { execInVm } from '../../../src/control/vm/exec.ts';
import { connectAgent, type GuestAgent } from '../../../src/guest/agent/agent.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createVmStore } from '../../../src/state/vms.ts';
import { agentSkip, compileAgent, runOverSocket } from '../../support/agent-program.ts';
import { fakeAgent } from '../../support/fake-agent.ts';
import { paced } from '../../support/pace.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { socketPair } from '../../support/socket-pair.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** A host with one VM whose agent is this one; over SSH it would fail. */
function hostWith(agent: GuestAgent) {
  const vms = createVmStore(openDatabase(':memory:'));
  const vm = sampleVm({ phase: 'running', startedAt: new Date().toISOString(), ready: { ms: 1, failedUnits: [] } });
  vms.insert(vm);
  const failures: unknown[] = [];
  const host = {
    stores: { vms, sessions: { begin: () => ({ [Symbol.dispose]: () => {} }) } },
    agents: {
      get: async () => (failures.length > 0 ? undefined : agent),
      failed: (_vm: unknown, error: unknown) => failures.push(error),
    },
    guests: {
      get: async () => {
        throw new Error('it went to SSH');
      },
      extra: async (_vm: unknown, error: unknown) => {
        throw error;
      },
    },
    operations: { activeOn: () => undefined },
    config: { limits: { readyTimeoutMs: 60_000 } },
    now: () => new Date(),
    log: { info: () => {}, warn: () => {}, error: () => {} },
  } as unknown as Host;
  const life = { resume: () => assert.fail('it runs') };
  const begin = (
    request: ExecRequest,
    [client, daemon]: readonly [Duplex, Duplex] = duplexPair(),
  ): { client: Duplex; run: Promise<void> } => ({ client, run: execInVm(host, life, vm, request, daemon) });
  return { begin, failures };
}

const framesOf = async (client: Duplex): Promise<Frame[]> => [...createFrameDecoder()(await buffer(client))];

const outputOf = (frames: Frame[], type: number) =>
  Buffer.concat(frames.filter((frame) => frame.type === type).map(({ payload }) => payload)).toString();

describe('a command through the agent', { skip: agentSkip }, () => {
  let program: string;
  before(async () => {
    program = await compileAgent();
  });

  async function guest(t: TestContext) {
    const running = await runOverSocket(t, program);
    return { running, ...hostWith(await running.connect()) };
  }

  async function say(t: TestContext, request: ExecRequest, input = '') {
    const { begin } = await guest(t);
    const { client } = begin(request);
    if (input !== '') client.write(encodeFrame(FRAME.stdin, input));
    client.write(encodeFrame(FRAME.stdinEnd));
    const frames = await framesOf(client);
    const exit = frames.find(({ type }) => type === FRAME.exit)?.payload.toString();
    return { out: outputOf(frames, FRAME.stdout), err: outputOf(frames, FRAME.stderr), exit, frames };
  }

  it('has its words, environment, directory and input, and says how it ended', async (t) => {
    const script = 'printf "[%s]" "$@"; echo; echo "$A"; pwd; cat; exit 3';
    const argv = ['sh', '-c', script, 'sh', 'two words', "it's", '', '$HOME', '\n'];
    const ran = await say(t, { argv, env: { A: "a 'b' $c" }, cwd: '/tmp' }, 'input');
    assert.equal(ran.out, `[two words][it's][][$HOME][\n]\na 'b' $c\n/tmp\ninput`);
    assert.equal(ran.exit, '{"code":3,"signal":null}');
    assert.equal(ran.err, '');
  });

  it('says by which signal it was ended', async (t) => {
    assert.equal((await say(t, { argv: ['sh', '-c', 'kill -9 $$'] })).exit, '{"code":null,"signal":"SIGKILL"}');
  });

  it('fails as in a shell when there is no such program or directory', async (t) => {
    const missing = await say(t, { argv: ['no-such-program'] });
    assert.match(missing.err, /no-such-program.*not found/);
    assert.equal(missing.exit, '{"code":127,"signal":null}');
    const nowhere = await say(t, { argv: ['pwd'], cwd: '/no/such' });
    assert.match(nowhere.err, /\/no\/such/);
    assert.equal(nowhere.exit, '{"code":1,"signal":null}');
  });

  it('has a terminal of the asked size, which changes with the client’s', async (t) => {
    const { begin } = await guest(t);
    const script = 'stty size; tty; echo $TERM; trap "stty size; exit 5" WINCH; echo go; while :; do sleep 0.05; done';
    const { client } = begin({ argv: ['sh', '-c', script], tty: true, columns: 99, rows: 33, term: 'xterm' });
    const frames: Frame[] = [];
    const decode = createFrameDecoder();
    client.on('data', (chunk: Buffer) => frames.push(...decode(chunk)));
    await until(() => outputOf(frames, FRAME.stdout).includes('go'));
    client.write(encodeFrame(FRAME.resize, JSON.stringify({ columns: 70, rows: 20 })));
    await until(() => frames.some(({ type }) => type === FRAME.exit));
    assert.match(outputOf(frames, FRAME.stdout), /^33 99\r\n\/dev\/pts\/\d+\r\nxterm\r\ngo\r\n20 70\r\n$/);
    assert.equal(frames.at(-1)?.payload.toString(), '{"code":5,"signal":null}');
  });

  it('gets signals with all it has started', async (t) => {
    const { begin } = await guest(t);
    const script =
      'trap "echo got; wait; exit 9" TERM; sh -c "trap \\"echo inner; exit\\" TERM; echo go; while :; do sleep 0.05; done" & wait';
    const { client } = begin({ argv: ['sh', '-c', script] });
    const frames: Frame[] = [];
    const decode = createFrameDecoder();
    client.on('data', (chunk: Buffer) => frames.push(...decode(chunk)));
    await until(() => outputOf(frames, FRAME.stdout).includes('go'));
    client.write(encodeFrame(FRAME.signal, 'TERM'));
    await until(() => frames.some(({ type }) => type === FRAME.exit));
    assert.match(outputOf(frames, FRAME.stdout), /got/);
    assert.match(outputOf(frames, FRAME.stdout), /inner/);
    assert.equal(frames.at(-1)?.payload.toString(), '{"code":9,"signal":null}');
  });

  it('is reached by signals, and by the end of its client, behind input that it does not take', async (t) => {
    const { running, begin } = await guest(t);
    const script = 'trap "echo hung up > mark; exit" HUP; trap "echo got" TERM; echo go; while :; do sleep 0.05; done';
    const command = { argv: ['sh', '-c', script], cwd: running.directory };
    const { client, run } = begin(command, await socketPair(t));
    const frames = collect(client);
    await until(() => outputOf(frames, FRAME.stdout).includes('go'));
    fill(client, frames);
    client.write(encodeFrame(FRAME.signal, 'TERM'));
    await until(() => outputOf(frames, FRAME.stdout).includes('got'));
    client.destroy();
    await run;
    await until(() => existsSync(join(running.directory, 'mark')));
  });

  it('is granted more input as it takes some, to the last byte', async (t) => {
    const { begin } = await guest(t);
    const { client } = begin({ argv: ['wc', '-c'] }, await socketPair(t));
    const frames = collect(client);
    const bytes = 40 * INPUT_WINDOW_BYTES + 1;
    let sent = 0;
    for (let granted = INPUT_WINDOW_BYTES; sent < bytes; ) {
      const size = Math.min(granted - sent, bytes - sent);
      client.write(encodeFrame(FRAME.stdin, Buffer.alloc(size)));
      sent += size;
      if (sent === bytes) break;
      await until(() => creditOf(frames) > granted);
      granted = creditOf(frames);
    }
    client.write(encodeFrame(FRAME.stdinEnd));
    await until(() => frames.some(({ type }) => type === FRAME.exit));
    assert.equal(outputOf(frames, FRAME.stdout).trim(), `${bytes}`);
    const most = Math.max(...frames.filter(({ type }) => type === FRAME.credit).map(({ payload }) => payload.length));
    assert.equal(most, 4);
  });

  it('gets all from a client that knows nothing of credit', async (t) => {
    const { begin } = await guest(t);
    const { client } = begin({ argv: ['sh', '-c', 'sleep 0.3; wc -c'] }, await socketPair(t));
    const frames = collect(client);
    const blocks = 200;
    for (let block = 0; block < blocks; block++) client.write(encodeFrame(FRAME.stdin, Buffer.alloc(65_536)));
    client.write(encodeFrame(FRAME.stdinEnd));
    await until(() => frames.some(({ type }) => type === FRAME.exit));
    assert.equal(outputOf(frames, FRAME.stdout).trim(), `${blocks * 65_536}`);
  });

  it('ends with its client', async (t) => {
    const { running, begin } = await guest(t);
    const mark = join(running.directory, 'mark');
    const { client, run } = begin({
      argv: ['sh', '-c', 'trap "echo hung up > mark; exit" HUP; echo go; while :; do sleep 0.05; done'],
      cwd: running.directory,
    });
    await new Promise((resolve) => client.once('data', resolve));
    client.destroy();
    await run;
    await until(() => existsSync(mark));
  });

  it('is many at once, and a slow reader holds up nobody else', async (t) => {
    const { begin } = await guest(t);
    const slow = begin({ argv: ['sh', '-c', 'head -c 2000000 /dev/zero; head -c 1000000 /dev/zero >&2'] });
    const others = Array.from({ length: 40 }, (_, number) => begin({ argv: ['echo', `${number}`] }));
    const said = await Promise.all(others.map(async ({ client }) => outputOf(await framesOf(client), FRAME.stdout)));
    assert.deepEqual(
      said,
      Array.from({ length: 40 }, (_, number) => `${number}\n`),
    );
    const frames = await framesOf(slow.client);
    assert.deepEqual(
      [outputOf(frames, FRAME.stdout).length, outputOf(frames, FRAME.stderr).length, frames.at(-1)?.type],
      [2_000_000, 1_000_000, FRAME.exit],
    );
  });

  it('keeps what it left in the background from ending it, until its output is closed', async (t) => {
    const ran = await say(t, { argv: ['sh', '-c', '(sleep 0.3; echo late) & echo early'] });
    assert.equal(ran.out, 'early\nlate\n');
  });

  it('is not known how it ended when the agent falls', async (t) => {
    const { running, begin } = await guest(t);
    const { client } = begin({ argv: ['sh', '-c', 'echo go; sleep 1000'] });
    await new Promise((resolve) => client.once('data', resolve));
    running.process.kill('SIGKILL');
    const frames = await framesOf(client);
    assert.equal(frames.at(-1)?.payload.toString(), '{"code":null,"signal":null}');
  });
});

describe('an agent that does not do its part', () => {
  async function beside(t: TestContext, options: Parameters<typeof fakeAgent>[2]) {
    const path = join(await tempDir(t), 'v.sock');
    const fake = await fakeAgent(t, path, options);
    const agent = await connectAgent(path, { timeoutMs: paced(5000) });
    t.after(() => agent[Symbol.asyncDispose]());
    return { fake, ...hostWith(agent) };
  }

  it('is asked before it is given a command, and done without when it is silent', async (t) => {
    const { begin, failures, fake } = await beside(t, { answer: () => 'silence' });
    const frames = await framesOf(begin({ argv: ['true'] }).client);
    assert.match(outputOf(frames, FRAME.error), /it went to SSH/);
    assert.equal(failures.length, 1);
    assert.deepEqual(
      fake.requests.map(({ type }) => type),
      [1],
      'no command was begun that may begin later',
    );
  });

  it('is done without when it cannot run commands', async (t) => {
    const { begin } = await beside(t, { features: ['ready'] });
    assert.match(outputOf(await framesOf(begin({ argv: ['true'] }).client), FRAME.error), /it went to SSH/);
  });

  it('is believed when it says that it did not run the command', async (t) => {
    const { begin } = await beside(t, {
      answer: ({ type }) => (type === 6 ? { refused: '/bin/zsh: No such file' } : undefined),
    });
    const frames = await framesOf(begin({ argv: ['true'] }).client);
    assert.match(outputOf(frames, FRAME.error), /web did not run the command: \/bin\/zsh: No such file\./);
  });
});

function collect(client: Duplex): Frame[] {
  const frames: Frame[] = [];
  const decode = createFrameDecoder();
  client.on('data', (chunk: Buffer) => frames.push(...decode(chunk)));
  return frames;
}

/** Input that may be sent in all. */
function creditOf(frames: readonly Frame[]): number {
  return frames.reduce((sum, { type, payload }) => sum + (type === FRAME.credit ? decodeCredit(payload) : 0), 0);
}

/** Sends all that may be sent. */
function fill(client: Duplex, frames: readonly Frame[]): void {
  let sent = 0;
  const send = () => {
    const size = Math.max(INPUT_WINDOW_BYTES, creditOf(frames)) - sent;
    if (size > 0) client.write(encodeFrame(FRAME.stdin, Buffer.alloc(size)));
    sent += size;
  };
  send();
  client.on('data', send);
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + paced(15_000);
  while (!holds()) {
    assert.ok(performance.now() < deadline, 'it did not come about');
    await delay(20);
  }
}
