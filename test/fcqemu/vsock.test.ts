/** vsock over one serial port: the protocol against an agent in this process, and the socket of a real VMM. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeFrame, type Frame, FrameDecoder, OP } from '../../fcqemu/vmm/vsock/frames.ts';
import { join as joinStreams, Multiplexer, WINDOW_BYTES } from '../../fcqemu/vmm/vsock/multiplexer.ts';
import { Vsock } from '../../fcqemu/vmm/vsock/vsock.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { firecrackerBin, guestSkipReason, startVmm, waitFor } from './support/vmm-process.ts';
import { attachedAgent, FakeAgent } from './support/vsock-agent.ts';

/** A vsock with an agent that accepts port 52 and echoes what it gets there. */
async function withEcho(t: TestContext): Promise<{ path: string; agent: FakeAgent }> {
  const { path, agent } = await attachedAgent(t);
  agent.onFrame = ({ op, stream, argument, payload }) => {
    if (op === OP.connect) agent.send(argument === 52 ? OP.accept : OP.reset, stream);
    if (op === OP.data) agent.send(OP.data, stream, 0, payload);
    if (op === OP.finish) agent.send(OP.finish, stream);
  };
  await agent.hello();
  return { path, agent };
}

const sockets: Socket[] = [];
after(() => {
  for (const socket of sockets) socket.destroy();
});

async function connect(path: string, request: string): Promise<Socket> {
  const socket = createConnection({ path, allowHalfOpen: true });
  sockets.push(socket);
  await once(socket, 'connect');
  socket.write(request);
  return socket;
}

/** @returns how many frames waited at most to be read by the guest, as far as its port was asked to take them */
function watchQueue(port: Duplex): () => number {
  let [waiting, most] = [0, 0];
  const write = port.write.bind(port) as (bytes: Buffer, done: () => void) => boolean;
  port.write = ((bytes: Buffer, done?: () => void) => {
    waiting += 1;
    most = Math.max(most, waiting);
    return write(bytes, () => {
      waiting -= 1;
      done?.();
    });
  }) as Duplex['write'];
  return () => most;
}

function repeated(count: number, op: number, stream: number, argument = 0): Buffer {
  return Buffer.concat(Array.from({ length: count }, () => encodeFrame(op, stream, argument)));
}

/** Both ends of one connection. */
async function socketPair(t: TestContext, path: string): Promise<{ guest: Socket; host: Socket }> {
  const server = createServer();
  server.listen(path);
  await once(server, 'listening');
  const guest = createConnection(path);
  const [host] = (await once(server, 'connection')) as [Socket];
  t.after(() => {
    guest.destroy();
    host.destroy();
    server.close();
  });
  return { guest, host };
}

async function line(socket: Socket): Promise<string> {
  let seen = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    seen += chunk.toString();
    if (seen.includes('\n')) break;
  }
  return seen;
}

describe('a host connection to the guest', { timeout: 30_000 }, () => {
  it('is answered with OK and a host port, then carries bytes both ways until both sides close', async (t) => {
    const { path, agent } = await withEcho(t);
    assert.equal(agent.received(OP.hello)[0]?.argument, 42);
    for (const [request, port] of [
      ['CONNECT 52\n', 1073741824],
      ['connect 52\n', 1073741825],
    ] as const) {
      const socket = await connect(path, request);
      assert.equal(await line(socket), `OK ${port}\n`);
      socket.end('hello guest');
      assert.equal(await text(socket), 'hello guest');
    }
    await waitFor(() => agent.received(OP.finish).length === 2, 'the half closes');
    assert.equal(agent.received(OP.reset).length, 0);
  });

  it('may send its first bytes with the request, and the request in pieces', async (t) => {
    const { path } = await withEcho(t);
    const eager = await connect(path, 'CONNECT 52\nearly');
    eager.end();
    assert.match(await text(eager), /^OK \d+\nearly$/);
    const slow = await connect(path, 'CONN');
    await delay(20);
    slow.write('ECT 5');
    await delay(20);
    slow.end('2\n');
    assert.match(await text(slow), /^OK \d+\n$/);
  });

  for (const request of [
    'CONNECT 53\n',
    'CONNECT x\n',
    'HELLO\n',
    'CONNECT 4294967296\n',
    `CONNECT ${'0'.repeat(40)}`,
  ]) {
    it(`is closed without a word after ${JSON.stringify(request.slice(0, 20))}`, async (t) => {
      const { path } = await withEcho(t);
      assert.equal(await text(await connect(path, request)), '');
    });
  }

  it('is closed without a word while no agent runs', async (t) => {
    const path = join(await tempDir(t), 'v.sock');
    const vsock = new Vsock();
    await vsock.put({ guest_cid: 3, uds_path: path });
    assert.equal(await text(await connect(path, 'CONNECT 52\n')), '');
    const [, host] = duplexPair();
    vsock.attach(host);
    assert.equal(await text(await connect(path, 'CONNECT 52\n')), '');
  });

  it('waits for the agent of a machine that was restored, which does not know that yet', async (t) => {
    const { path, vsock, host, agent } = await attachedAgent(t);
    vsock.announceRestore();
    const socket = await connect(path, 'CONNECT 52\n');
    await waitFor(() => agent.received(OP.restored).length === 1, 'word of the restore');
    assert.equal(agent.received(OP.connect).length, 0, 'nothing is asked of an agent that would drop it');
    agent.onFrame = ({ op, stream }) => {
      if (op === OP.connect) agent.send(OP.accept, stream);
    };
    await agent.hello();
    assert.match(await line(socket), /^OK \d+\n$/);
    // from then on it is as ever, and one whose machine ends is closed
    agent.onFrame = () => {};
    vsock.announceRestore();
    const late = await connect(path, 'CONNECT 52\n');
    host.destroy();
    assert.equal(await text(late), '');
  });

  it('waits for no agent of a restored machine that has none more than once', async (t) => {
    const { path, vsock } = await attachedAgent(t);
    vsock.announceRestore();
    const both = await Promise.all([connect(path, 'CONNECT 52\n'), connect(path, 'CONNECT 52\n')]);
    assert.deepEqual(await Promise.all(both.map(text)), ['', '']);
    const began = performance.now();
    assert.equal(await text(await connect(path, 'CONNECT 52\n')), '');
    assert.ok(performance.now() - began < paced(1000));
  });

  it('breaks when the guest resets it, and when the agent starts anew', async (t) => {
    const { path, agent } = await withEcho(t);
    const first = await connect(path, 'CONNECT 52\n');
    const second = await connect(path, 'CONNECT 52\n');
    await line(first);
    await line(second);
    const streams = agent.received(OP.connect).map(({ stream }) => stream);
    agent.send(OP.reset, streams[0] ?? 0);
    await once(first.resume(), 'end');
    agent.send(OP.hello, 0);
    await once(second.resume(), 'end');
    const third = await connect(path, 'CONNECT 52\n');
    assert.match(await line(third), /^OK/);
    third.destroy();
  });

  it('is closed when the guest accepts it and resets it in one breath', async (t) => {
    const { path, agent } = await withEcho(t);
    agent.onFrame = ({ op, stream }) => {
      if (op === OP.connect) agent.raw(Buffer.concat([encodeFrame(OP.accept, stream), encodeFrame(OP.reset, stream)]));
    };
    const socket = await connect(path, 'CONNECT 52\n');
    socket.resume();
    await once(socket, 'end', { signal: AbortSignal.timeout(paced(1000)) });
    // also when all that the guest has to say comes with it
    agent.onFrame = ({ op, stream }) => {
      if (op !== OP.connect) return;
      const data = encodeFrame(OP.data, stream, 0, Buffer.from('bye'));
      const end = [OP.finish, OP.reset].map((end) => encodeFrame(end, stream));
      agent.raw(Buffer.concat([encodeFrame(OP.accept, stream), data, ...end]));
    };
    assert.match(await text(await connect(path, 'CONNECT 52\n')), /^OK \d+\nbye$/);
  });

  it('tells the guest when the host breaks off', async (t) => {
    const { path, agent } = await withEcho(t);
    const socket = await connect(path, 'CONNECT 52\n');
    await line(socket);
    socket.destroy();
    await waitFor(() => agent.received(OP.reset).length + agent.received(OP.finish).length > 0, 'a word to the guest');
  });

  it('stops at its window while the guest does not read, and lets others pass', async (t) => {
    const { path, agent } = await withEcho(t);
    const reply = agent.onFrame;
    const stalled: number[] = [];
    agent.onFrame = (frame) => {
      // the first stream is accepted but never acknowledged
      if (frame.op === OP.connect && stalled.length === 0) stalled.push(frame.stream);
      if (frame.op === OP.data && frame.stream === stalled[0]) return;
      reply(frame);
    };
    const slow = await connect(path, 'CONNECT 52\n');
    await line(slow);
    slow.write(Buffer.alloc(4 * WINDOW_BYTES));
    const sent = () =>
      agent
        .received(OP.data)
        .filter(({ stream }) => stream === stalled[0])
        .reduce((sum, { payload }) => sum + payload.length, 0);
    await waitFor(() => sent() === WINDOW_BYTES, 'a full window');
    await delay(50);
    assert.equal(sent(), WINDOW_BYTES);

    const quick = await connect(path, 'CONNECT 52\nhi');
    quick.end();
    assert.match(await text(quick), /hi$/);

    agent.send(OP.credit, stalled[0] ?? 0, 1000);
    await waitFor(() => sent() === WINDOW_BYTES + 1000, 'the credit to be used');
    slow.destroy();
  });

  it('gives the guest credit as the host reads, for any amount of data', async (t) => {
    const { path, agent } = await withEcho(t);
    const total = 8 * WINDOW_BYTES;
    let credit = WINDOW_BYTES;
    let left = total;
    const pump = (stream: number) => {
      for (; left > 0 && credit >= 32_768; left -= 32_768, credit -= 32_768) {
        agent.send(OP.data, stream, 0, Buffer.alloc(32_768, 'd'));
      }
      if (left === 0) {
        left = -1;
        agent.send(OP.finish, stream);
      }
    };
    agent.onFrame = ({ op, stream, argument }) => {
      if (op === OP.connect) agent.send(OP.accept, stream);
      if (op === OP.credit) credit += argument;
      if (op === OP.connect || op === OP.credit) pump(stream);
    };
    const socket = await connect(path, 'CONNECT 52\n');
    socket.end();
    const answer = await text(socket);
    assert.equal(answer.length - answer.indexOf('\n') - 1, total);
  });

  it('breaks when the guest gives credit for what it was never sent', async (t) => {
    const { path, agent } = await withEcho(t);
    const socket = await connect(path, 'CONNECT 52\n');
    await line(socket);
    const [{ stream } = assert.fail()] = agent.received(OP.connect);
    agent.send(OP.credit, stream, 0xffff_ffff);
    socket.resume();
    await once(socket, 'end');
  });

  it('is given up when the guest gives credit for what it leaves unread, instead of being kept for it', async (t) => {
    const { path, guest, host, agent } = await attachedAgent(t);
    agent.onFrame = ({ op, stream }) => {
      if (op !== OP.connect) return;
      agent.send(OP.accept, stream);
      guest.pause();
    };
    await agent.hello();
    const socket = await connect(path, 'CONNECT 52\n');
    await line(socket);
    const [{ stream } = assert.fail()] = agent.received(OP.connect);
    let most = 0;
    let sent = 0;
    let closed = false;
    socket.on('error', () => {}).resume();
    socket.once('close', () => {
      closed = true;
    });
    while (!closed && sent < 64 * WINDOW_BYTES * 4) {
      socket.write(Buffer.alloc(WINDOW_BYTES / 4));
      sent += WINDOW_BYTES / 4;
      await delay(1);
      agent.send(OP.credit, stream, WINDOW_BYTES / 4);
      most = Math.max(most, host.writableLength);
    }
    await waitFor(() => closed, 'its end');
    assert.ok(most < 70 * WINDOW_BYTES, `${most} bytes were kept`);
  });

  it('is given up when the guest asks for answers that it does not read, and nothing is kept for it', async (t) => {
    const path = join(await tempDir(t), 'v.sock');
    const { guest, host } = await socketPair(t, `${path}.port`);
    const vsock = new Vsock();
    await vsock.put({ guest_cid: 3, uds_path: path });
    vsock.attach(host);
    guest.on('error', () => {}).pause();
    const most = watchQueue(host);
    guest.write(repeated(200_000, OP.connect, 2));
    await waitFor(() => host.closed, 'the end of the port');
    assert.ok(most() < 40_000, `${most()} answers were kept`);
    assert.equal(host.writableLength, 0);
    assert.equal(await text(await connect(path, 'CONNECT 52\n')), '');
  });

  it('is not asked for, nor the port given up for it, while much waits for a guest that stands still', async (t) => {
    const { path, guest, host, agent } = await attachedAgent(t);
    await agent.hello();
    guest.pause();
    agent.raw(repeated(20_000, OP.connect, 2));
    const most = watchQueue(host);
    assert.equal(await text(await connect(path, 'CONNECT 52\n')), '');
    assert.deepEqual([most(), host.destroyed], [0, false]);
  });

  it('sends no small pieces into a port that is full', async () => {
    const [guest, host] = duplexPair();
    const multiplexer = new Multiplexer(host, { guestCid: 3, onGuestConnect: () => Promise.reject(new Error()) });
    const agent = new FakeAgent(guest);
    agent.onFrame = ({ op, stream }) => {
      if (op === OP.connect) agent.send(OP.accept, stream);
    };
    await agent.hello();
    const stream = await multiplexer.connect(52);
    guest.pause();
    const most = watchQueue(host);
    for (let at = 0; at < 40_000; at++) stream.write('x');
    assert.ok(most() < 10_000, `${most()} frames wait`);
    guest.resume();
    const arrived = () => agent.received(OP.data).reduce((sum, { payload }) => sum + payload.length, 0);
    await waitFor(() => arrived() === 40_000, 'all of them');
    assert.ok(!host.destroyed);
    host.destroy();
  });

  it('takes frames in any pieces, in time that grows with their length alone', () => {
    const whole = encodeFrame(OP.data, 2, 0, Buffer.alloc(64 * 1024, 7));
    const decoder = new FrameDecoder();
    const found: Frame[] = [];
    const before = process.cpuUsage();
    for (let at = 0; at < whole.length; at++) found.push(...decoder.push(whole.subarray(at, at + 1)));
    const { user, system } = process.cpuUsage(before);
    assert.equal(found.length, 1);
    assert.ok(found[0]?.payload.equals(whole.subarray(16)));
    assert.ok(user + system < 400_000, `${(user + system) / 1000} ms`);
  });

  it('survives an agent that breaks the protocol, without trusting it any more', async (t) => {
    const { path, agent } = await withEcho(t);
    agent.send(OP.data, 4711, 0, Buffer.from('to nobody'));
    agent.send(OP.credit, 4711, 5);
    agent.send(99, 1);
    const socket = await connect(path, 'CONNECT 52\n');
    assert.match(await line(socket), /^OK/);
    const tooLong = encodeFrame(OP.data, 2);
    tooLong.writeUInt32LE(0x7fff_ffff, 12);
    agent.raw(tooLong);
    await once(socket.resume(), 'end');
    assert.equal(await text(await connect(path, 'CONNECT 52\n')), '');
  });
});

describe('a guest connection to the host', () => {
  it('reaches the socket with the port behind its name', async (t) => {
    const { path, agent } = await withEcho(t);
    agent.onFrame = () => {};
    const server = createServer((socket) => socket.on('data', (bytes) => socket.end(`got ${bytes}`)));
    server.listen(`${path}_5000`);
    await once(server, 'listening');
    t.after(() => server.close());
    agent.send(OP.connect, 1, 5000);
    await waitFor(() => agent.received(OP.accept).some(({ stream }) => stream === 1), 'the accept');
    agent.send(OP.data, 1, 0, Buffer.from('ping'));
    await waitFor(
      () => Buffer.concat(agent.received(OP.data).map(({ payload }) => payload)).toString() === 'got ping',
      'the answer',
    );
    await waitFor(() => agent.received(OP.finish).length === 1, 'the end');
  });

  it('is reset when nobody listens, and when it claims a stream of the host', async (t) => {
    const { agent } = await withEcho(t);
    agent.send(OP.connect, 1, 5000);
    agent.send(OP.connect, 2, 5000);
    await waitFor(() => agent.received(OP.reset).length === 2, 'two resets');
    assert.deepEqual(
      agent
        .received(OP.reset)
        .map(({ stream }) => stream)
        .sort(),
      [1, 2],
    );
  });
});

describe('joined streams', { timeout: 10_000 }, () => {
  it('end with one that ended before they were joined', async () => {
    for (const isFirst of [true, false]) {
      const [gone, other] = [duplexPair()[0], duplexPair()[0]];
      gone.destroy();
      await once(gone, 'close');
      const closed = once(other, 'close');
      joinStreams(...(isFirst ? ([gone, other] as const) : ([other, gone] as const)));
      await closed;
    }
  });
});

describe('connections of the guest under way', { timeout: 30_000 }, () => {
  const serve = async (t: TestContext, path: string) => {
    const taken = new Set<Socket>();
    const server = createServer((socket) => {
      taken.add(socket.on('error', () => {}));
      socket.resume();
    });
    t.after(() => {
      for (const socket of taken) socket.destroy();
      server.close();
    });
    server.listen({ path, backlog: 4096 });
    await once(server, 'listening');
    return taken;
  };
  const connects = (ids: number[]) => Buffer.concat(ids.map((id) => encodeFrame(OP.connect, id, 5000)));

  it('count as streams: the rest is reset before anything is opened for it', async (t) => {
    const { path, agent } = await withEcho(t);
    agent.onFrame = () => {};
    const taken = await serve(t, `${path}_5000`);
    agent.raw(connects(Array.from({ length: 4096 }, (_, at) => 2 * at + 1)));
    const answers = () => agent.received(OP.accept).length + agent.received(OP.reset).length;
    await waitFor(() => answers() === 4096, 'an answer to each');
    await delay(50);
    assert.ok(taken.size <= 1023, `${taken.size} connections`);
    assert.ok(agent.received(OP.reset).length >= 4096 - 1023);
  });

  it('count until they end, also when the guest gives them up at once', async (t) => {
    const { path, agent } = await withEcho(t);
    const taken = await serve(t, `${path}_5000`);
    const both = [encodeFrame(OP.connect, 1, 5000), encodeFrame(OP.reset, 1)];
    agent.raw(Buffer.concat(Array.from({ length: 4096 }, () => both).flat()));
    await waitFor(() => agent.received(OP.reset).length === 4096 - 1023, 'resets');
    await delay(50);
    assert.ok(taken.size <= 1023, `${taken.size} connections`);
  });

  it('keep their number: a second one of the same is reset', async (t) => {
    const { path, agent } = await withEcho(t);
    const taken = await serve(t, `${path}_5000`);
    agent.raw(connects([1, 1]));
    await waitFor(() => agent.received(OP.accept).length > 0, 'the accept');
    await delay(50);
    assert.deepEqual([agent.received(OP.accept).length, agent.received(OP.reset).length, taken.size], [1, 1, 1]);
  });

  it('end with the agent that asked for them, and the next one hears nothing of them', async (t) => {
    const { path, agent } = await withEcho(t);
    const taken = await serve(t, `${path}_5000`);
    agent.raw(Buffer.concat([connects([1]), encodeFrame(OP.hello, 0)]));
    await waitFor(() => taken.size === 1, 'the connection');
    const [socket = assert.fail()] = taken;
    if (!socket.closed) await once(socket, 'close');
    assert.equal(agent.received(OP.accept).length, 0);
  });
});

describe('the socket of a vsock', () => {
  it('outlives a connection that it cannot take', async (t) => {
    const listen = t.mock.method(Server.prototype, 'listen');
    const { path, agent } = await withEcho(t);
    const server = listen.mock.calls[0]?.this as Server;
    server.emit('error', Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' }));
    assert.match(await line(await connect(path, 'CONNECT 52\n')), /^OK/);
    assert.equal(agent.received(OP.connect).length, 1);
  });
});

describe('the ports of the host', () => {
  const told = (agent: FakeAgent, op: number) => agent.received(op).map(({ argument }) => argument);
  const listenOn = async (t: TestContext, path: string) => {
    const server = createServer((socket) => socket.destroy());
    t.after(() => server.close());
    server.listen(path);
    await once(server, 'listening');
    return server;
  };

  it('are told to an agent that wants to know, as they come and go', async (t) => {
    const { path, agent } = await withEcho(t);
    await listenOn(t, `${path}_5000`);
    writeFileSync(`${path}_5001`, 'no socket');
    for (const name of [`${path}_05`, `${path}_x`, `${path}_4294967296`, `${path}5_2`]) await listenOn(t, name);
    agent.send(OP.hello, 0, 1);
    await waitFor(() => told(agent, OP.listen).length > 0, 'the first port');
    const late = await listenOn(t, `${path}_4294967295`);
    await waitFor(() => told(agent, OP.listen).length > 1, 'the second port');
    assert.deepEqual(told(agent, OP.listen), [5000, 4294967295]);
    late.close();
    await waitFor(() => told(agent, OP.unlisten).length > 0, 'the end of the second port');
    assert.deepEqual(told(agent, OP.unlisten), [4294967295]);
    // one that begins anew knows nothing
    agent.send(OP.hello, 0, 1);
    await waitFor(() => told(agent, OP.listen).length === 3, 'the first port again');
    assert.deepEqual(told(agent, OP.listen), [5000, 4294967295, 5000]);
  });

  it('are told a second time, not a thousand times, to an agent that begins anew a thousand times', async (t) => {
    const { path, agent } = await withEcho(t);
    await listenOn(t, `${path}_5000`);
    agent.frames.length = 0;
    agent.raw(repeated(1000, OP.hello, 0, 1));
    await waitFor(() => told(agent, OP.hello).length === 1000, 'an answer to each');
    await waitFor(() => agent.frames.at(-1)?.op === OP.listen, 'the port, after the last of them');
    await delay(300);
    assert.ok(told(agent, OP.listen).length <= 2, `${told(agent, OP.listen).length} times`);
  });

  it('are told no longer to an agent that does not ask for them', async (t) => {
    const { path, agent } = await withEcho(t);
    agent.send(OP.hello, 0, 1);
    await listenOn(t, `${path}_5000`);
    await waitFor(() => told(agent, OP.listen).length === 1, 'the port');
    agent.send(OP.hello, 0, 1);
    agent.send(OP.hello, 0, 0);
    await listenOn(t, `${path}_5001`);
    await delay(300);
    const afterLast = agent.frames.slice(agent.frames.findLastIndex(({ op }) => op === OP.hello));
    assert.deepEqual(
      afterLast.filter(({ op }) => op === OP.listen),
      [],
    );
  });

  it('are not told to one that does not', async (t) => {
    const { path, agent } = await withEcho(t);
    await listenOn(t, `${path}_5000`);
    await delay(100);
    assert.deepEqual(told(agent, OP.listen), []);
  });
});

describe('a guest program that closes its socket', () => {
  it('has what it sent delivered, and the host connection closed', async (t) => {
    const { path, agent } = await withEcho(t);
    const sizeBytes = WINDOW_BYTES - 100;
    agent.onFrame = ({ op, stream }) => {
      if (op !== OP.connect) return;
      agent.send(OP.accept, stream);
      for (let left = sizeBytes; left > 0; left -= 50_000) {
        agent.send(OP.data, stream, 0, Buffer.alloc(Math.min(left, 50_000), 'd'));
      }
      agent.send(OP.finish, stream);
      agent.send(OP.reset, stream);
    };
    const socket = await connect(path, 'CONNECT 52\n');
    socket.on('error', () => {});
    let received = 0;
    for await (const bytes of socket.iterator({ destroyOnReturn: false })) {
      received += bytes.length;
      // slow enough that the rest arrives before this is read
      await delay(5);
    }
    assert.equal(received, sizeBytes + 'OK 1073741824\n'.length);
    // nobody takes what is written now
    await waitFor(() => {
      socket.write('x');
      return socket.destroyed || socket.errored !== null;
    }, 'the end of the connection');
  });
});

describe('PUT /vsock', () => {
  it('binds the socket at once, replaces it, and reports a path in use', async (t) => {
    const vmm = await startVmm(t);
    const path = join(vmm.dir, 'v.sock');
    await vmm.put('/vsock', { guest_cid: 3, uds_path: path });
    assert.ok(existsSync(path));
    await vmm.put('/vsock', { guest_cid: 4, uds_path: path });
    const answer = await vmm.call('PUT', '/vsock', { vsock_id: 'old', guest_cid: 5, uds_path: path });
    assert.deepEqual([answer.status, answer.headers.Deprecation], [204, 'true']);
    const { vsock } = await vmm.get<{ vsock: unknown }>('/vm/config');
    assert.deepEqual(vsock, { guest_cid: 5, uds_path: path });
    const taken = await vmm.file('taken', '');
    assert.equal(
      await vmm.fault('PUT', '/vsock', { guest_cid: 3, uds_path: taken }),
      'Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: Address in use (os error 98)',
    );
  });

  const skip = guestSkipReason() ?? (firecrackerBin ? 'about QEMU' : false);
  it('gives the machine a port that a snapshot keeps, with another socket', { skip }, async (t) => {
    const vmm = await startVmm(t);
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
    await vmm.put('/vsock', { guest_cid: 3, uds_path: join(vmm.dir, 'v.sock') });
    await vmm.put('/actions', { action_type: 'InstanceStart' });
    assert.equal(await text(await connect(join(vmm.dir, 'v.sock'), 'CONNECT 1\n')), '');
    await vmm.patch('/vm', { state: 'Paused' });
    const body = { snapshot_path: join(vmm.dir, 's'), mem_file_path: join(vmm.dir, 'm') };
    await vmm.put('/snapshot/create', body);
    const clone = await startVmm(t);
    const uds_path = join(clone.dir, 'other.sock');
    await clone.put('/snapshot/load', { ...body, resume_vm: true, vsock_override: { uds_path } });
    const { vsock } = await clone.get<{ vsock: unknown }>('/vm/config');
    assert.deepEqual(vsock, { guest_cid: 3, uds_path });
    assert.ok(existsSync(uds_path));
  });
});
