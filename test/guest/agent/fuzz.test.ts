/** Both ends of the agent’s protocol against whatever bytes: the agent in namespaces under sanitizers, the host’s parser here. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { AGENT_PROTOCOL, connectAgent } from '../../../src/guest/agent/agent.ts';
import {
  createAgentDecoder,
  DATA_BYTES,
  decodeFields,
  encodeAgentFrame,
  encodeFields,
  type FieldValue,
  TAG,
  TYPE,
} from '../../../src/guest/agent/frames.ts';
import { namespacesSkip, runInNamespaces } from '../../support/agent-namespaces.ts';
import { agentSkip, compileAgent, type RunningAgent, runOverSocket } from '../../support/agent-program.ts';
import { fakeAgent } from '../../support/fake-agent.ts';
import { paced } from '../../support/pace.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** The same each time, so that a failure can be had again. */
const SEED = 17;

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

/** Values that a field could have, and some that it could not. */
const value: fc.Arbitrary<FieldValue> = fc.oneof(
  bytes(80),
  fc.nat(0xffff_ffff),
  fc.constantFrom('same', 'new', 'again', 'true', 'cat', 'sh', '10.9.0.9', '/etc/x\x00644\x00y', 'A=b', 'x'.repeat(40)),
  fc.constant(Buffer.alloc(64, 7)),
);

const field: fc.Arbitrary<[number, FieldValue]> = fc.tuple(fc.integer({ min: 0, max: 40 }), value);

const fields = fc.array(field, { maxLength: 12 }).map(encodeFields);

/** A payload of fields with some of its bytes changed, or its end cut off. */
const bent = fc
  .tuple(fields, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 }), fc.nat(8))
  .map(([whole, changes, cut]) => {
    const payload = Buffer.from(whole.subarray(0, Math.max(0, whole.length - cut)));
    for (const [at, byte] of changes) if (payload.length > 0) payload[at % payload.length] = byte;
    return payload;
  });

const frame = fc
  .tuple(fc.oneof(fc.integer({ min: 0, max: 40 }), fc.nat(0xffff_ffff)), fc.nat(4), fc.oneof(fields, bent, bytes(64)))
  .map(([type, channel, payload]) => encodeAgentFrame(type, channel, payload));

/** One conversation: frames, or bytes that are none. */
const conversation = fc.array(fc.oneof({ weight: 9, arbitrary: frame }, { weight: 1, arbitrary: bytes(40) }), {
  minLength: 1,
  maxLength: 12,
});

/** Says it to the agent, in pieces that need not be frames, and goes away. */
async function tell({ directory }: RunningAgent, pieces: Buffer[]): Promise<void> {
  const { promise: closed, resolve } = Promise.withResolvers<void>();
  const socket = createConnection(join(directory, 'agent.sock'), () => {
    for (const piece of pieces) socket.write(piece);
    socket.end();
  });
  socket.on('error', () => {}); // it hangs up on whoever says nonsense
  socket.once('close', () => resolve());
  socket.resume();
  await closed;
}

describe('the agent', { skip: agentSkip || namespacesSkip() }, () => {
  let program: string;
  before(async () => {
    program = await compileAgent();
  });

  it('survives whatever it is told', { timeout: paced(120_000) }, async (t) => {
    const running = await runInNamespaces(t, program);
    await (await running.connect())[Symbol.asyncDispose]();
    await fc.assert(
      fc.asyncProperty(conversation, async (pieces) => {
        await tell(running, pieces);
        assert.equal(running.said(), '');
        assert.equal(running.process.exitCode, null);
      }),
      { seed: SEED, numRuns: 1500 },
    );
    const agent = await running.connect();
    await agent.ping();
  });

  it('takes a frame in any pieces, and none that is longer than it may be', async (t) => {
    const running = await runOverSocket(t, program);
    await running.connect();
    const whole = Buffer.concat([
      encodeAgentFrame(TYPE.exec, 1, encodeFields([[TAG.argument, 'cat']])),
      encodeAgentFrame(TYPE.stdin, 1, Buffer.from('hello')),
      encodeAgentFrame(TYPE.stdinEnd, 1),
    ]);
    const socket = createConnection(join(running.directory, 'agent.sock'));
    const decode = createAgentDecoder();
    let output = '';
    socket.on('data', (chunk: Buffer) => {
      for (const { type, payload } of decode(chunk)) if (type === TYPE.stdout) output += payload;
    });
    await once(socket, 'connect');
    for (const byte of whole) socket.write(Buffer.from([byte]));
    const deadline = performance.now() + paced(10_000);
    while (output !== 'hello') {
      assert.ok(performance.now() < deadline);
      await delay(10);
    }
    const tooLong = Buffer.alloc(12);
    tooLong.writeUInt32LE(TYPE.ping, 0);
    tooLong.writeUInt32LE(0x7fff_ffff, 8);
    socket.write(tooLong);
    await once(socket, 'close');
    await (await running.connect()).ping();
  });
});

describe('the host', () => {
  it('cuts frames the same in whatever pieces they come', () => {
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 6 }),
        fc.array(fc.integer({ min: 1, max: 50 }), { maxLength: 30 }),
        (frames, sizes) => {
          const whole = Buffer.concat(frames);
          const decode = createAgentDecoder();
          const found: Buffer[] = [];
          for (let at = 0, piece = 0; at < whole.length; piece++) {
            const size = sizes[piece] ?? 1000;
            for (const { type, channel, payload } of decode(whole.subarray(at, at + size))) {
              found.push(encodeAgentFrame(type, channel, payload));
            }
            at += size;
          }
          assert.ok(Buffer.concat(found).equals(whole));
        },
      ),
      { seed: SEED },
    );
  });

  it('reads fields or says that they are none, and gives no text that moves a cursor', () => {
    fc.assert(
      fc.property(fc.oneof(fields, bent, bytes(200)), (payload) => {
        try {
          const read = decodeFields(payload);
          for (let tag = 0; tag < 41; tag++) {
            assert.doesNotMatch(read.text(tag) ?? '', /\p{C}/u);
            assert.ok(read.texts(tag, 3).length <= 3);
            assert.ok((read.number(tag) ?? 0) >= 0);
          }
        } catch (error) {
          assert.ok(error instanceof RangeError, String(error));
        }
      }),
      { seed: SEED, numRuns: 500 },
    );
  });

  it('ends the connection or goes on, whatever an agent says, and every request ends', {
    timeout: paced(120_000),
  }, async (t) => {
    await fc.assert(
      fc.asyncProperty(conversation, async (pieces) => {
        const path = join(await tempDir(t), 'v.sock');
        const fake = await fakeAgent(t, path);
        const agent = await connectAgent(path, { timeoutMs: paced(5000) });
        const channel = agent.exec({ argv: ['cat'] });
        const asked = [
          agent.ping({ timeoutMs: 200 }),
          agent.quiesce('t', { timeoutMs: 200 }),
          agent.ready(AbortSignal.timeout(200)),
        ];
        for (const piece of pieces) fake.say(piece);
        await Promise.allSettled(asked);
        await agent[Symbol.asyncDispose]();
        await fake[Symbol.asyncDispose]();
        await channel.ended.catch(() => {});
      }),
      { seed: SEED, numRuns: 60 },
    );
  });

  it('hears nothing twice, and nothing for nothing: an agent could say that without end', async (t) => {
    const begun = encodeFields([[TAG.pid, 7]]);
    const cases: [string, number, Buffer][] = [
      ['has begun twice', TYPE.done, begun],
      ['has ended twice', TYPE.exit, encodeFields([[TAG.code, 0]])],
      ['output without any', TYPE.stdout, Buffer.alloc(0)],
      ['output without any', TYPE.stderr, Buffer.alloc(0)],
      ['credit that is none', TYPE.credit, Buffer.alloc(4)],
    ];
    for (const [what, type, payload] of cases) {
      const path = join(await tempDir(t), 'v.sock');
      const fake = await fakeAgent(t, path, { answer: ({ type }) => (type === TYPE.exec ? 'silence' : undefined) });
      const agent = await connectAgent(path, { timeoutMs: paced(5000) });
      const channel = agent.exec({ argv: ['yes'] });
      for (let said = 0; said < 2; said++) fake.say(encodeAgentFrame(type, 1, payload));
      await assert.rejects(channel.ended, { trouble: 'broken', message: new RegExp(what) });
      assert.equal(agent.closed, true);
    }
  });

  it('keeps little input for one that says its commands took it, and reads none', async (t) => {
    const path = join(await tempDir(t), 'v.sock');
    const credit = Buffer.alloc(4);
    credit.writeUInt32LE(DATA_BYTES);
    const server = createServer((socket) => {
      socket.on('error', () => {});
      t.after(() => socket.destroy());
      socket.once('data', () => {
        socket.write('OK 1073741824\n');
        const hello: [number, FieldValue][] = [
          [TAG.protocol, AGENT_PROTOCOL],
          [TAG.version, 'x'],
          [TAG.feature, 'exec'],
        ];
        socket.write(encodeAgentFrame(TYPE.hello, 0, encodeFields(hello)));
        socket.once('data', () => {
          socket.pause();
          socket.write(encodeAgentFrame(TYPE.done, 1, encodeFields([[TAG.pid, 7]])));
          const timer = setInterval(() => socket.write(encodeAgentFrame(TYPE.credit, 1, credit)), 1);
          t.after(() => clearInterval(timer));
        });
      });
    }).listen(path);
    await once(server, 'listening');
    t.after(() => server.close());
    const agent = await connectAgent(path, { timeoutMs: paced(5000) });
    t.after(() => agent[Symbol.asyncDispose]());
    const channel = agent.exec({ argv: ['cat'] });
    await channel.begun;
    let taken = 0;
    const block = Buffer.alloc(DATA_BYTES);
    for (let blocks = 0; blocks < 1000; blocks++) {
      channel.write(block, () => {
        if (!agent.closed) taken++;
      });
    }
    await delay(1500);
    assert.ok(taken > 2 && taken * DATA_BYTES < 4 * 1024 * 1024, `${taken} blocks of ${DATA_BYTES} bytes`);
    channel.destroy();
    await channel.ended.catch(() => {});
  });

  it('does not keep more than it granted of what floods it', async (t) => {
    const path = join(await tempDir(t), 'v.sock');
    const fake = await fakeAgent(t, path, { answer: ({ type }) => (type === TYPE.exec ? 'silence' : undefined) });
    const agent = await connectAgent(path, { timeoutMs: paced(5000) });
    const channel = agent.exec({ argv: ['yes'] });
    for (let sent = 0; sent < 16; sent++) fake.say(encodeAgentFrame(TYPE.stdout, 1, Buffer.alloc(32 * 1024)));
    await assert.rejects(channel.ended, { trouble: 'broken', message: /more output than it was granted/ });
    assert.equal(agent.closed, true);
    const other = await connectAgent(path, { timeoutMs: paced(5000) });
    for (let sent = 0; sent < 40; sent++) fake.say(encodeAgentFrame(TYPE.stdout, 7, Buffer.alloc(32 * 1024)));
    await assert.rejects(other.ping({ timeoutMs: paced(2000) }), {
      trouble: 'broken',
      message: /much that nobody asked for/,
    });
  });
});
