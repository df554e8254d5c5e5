/** vsock over one serial port: the protocol against an agent in this process, and the socket of a real VMM. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeFrame, OP } from '../../fcqemu/vmm/vsock/frames.ts';
import { join as joinStreams, WINDOW_BYTES } from '../../fcqemu/vmm/vsock/multiplexer.ts';
import { Vsock } from '../../fcqemu/vmm/vsock/vsock.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { firecrackerBin, guestSkipReason, startVmm, waitFor } from './support/vmm-process.ts';
import { attachedAgent, type FakeAgent } from './support/vsock-agent.ts';

import { connect, line, repeated, withEcho } from './support/vsock-clients.ts';

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
