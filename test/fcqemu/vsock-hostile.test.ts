/** vsock and a guest that means harm, or breaks the protocol: what it may make the host keep, open and wait for. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeFrame, type Frame, FrameDecoder, OP } from '../../fcqemu/vmm/vsock/frames.ts';
import { Multiplexer, WINDOW_BYTES } from '../../fcqemu/vmm/vsock/multiplexer.ts';
import { Vsock } from '../../fcqemu/vmm/vsock/vsock.ts';
import { socketPair } from '../support/socket-pair.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitFor } from './support/vmm-process.ts';
import { attachedAgent, FakeAgent } from './support/vsock-agent.ts';
import { connect, line, repeated, watchQueue, withEcho } from './support/vsock-clients.ts';

describe('a port of a guest', { timeout: 30_000 }, () => {
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
    const [guest, host] = await socketPair(t);
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
