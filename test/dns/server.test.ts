/** The server on real sockets of the loopback interface. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { DnsServer, type DnsServerOptions } from '../../src/dns/server.ts';
import { paced } from '../support/pace.ts';
import { askTcp, askUdp, freePort, openTcp } from './support/clients.ts';
import { readCorpus } from './support/corpus.ts';
import { exampleZone, lines, query, rcodeOf } from './support/packets.ts';

async function startServer(options: Partial<DnsServerOptions> = {}): Promise<DnsServer> {
  const server = new DnsServer({ zone: exampleZone(), address: '127.0.0.1', port: 0, ...options });
  await server.start();
  return server;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `${what}: not within 5 s`);
    await delay(10);
  }
}

describe('the DNS server', () => {
  it('answers by UDP and by TCP on one port', async () => {
    await using server = await startServer();
    const byUdp = await askUdp(server.status, query({ name: 'web.vm' }));
    const byTcp = await askTcp(server.status, query({ name: 'web.vm' }));
    assert.deepEqual(byUdp && lines(byUdp).answers, ['web.vm A 172.30.0.2']);
    assert.deepEqual(lines(byTcp).answers, ['web.vm A 172.30.0.2']);
  });

  it('listens on IPv6 too', async () => {
    await using server = await startServer({ address: '::1' });
    assert.equal(server.status.state, 'listening');
    assert.deepEqual(lines(await askTcp(server.status, query({ name: 'db.vm' }))).answers, ['db.vm A 172.30.1.3']);
  });

  it('shows a change to the very next query', async () => {
    const zone = exampleZone();
    await using server = await startServer({ zone });
    zone.set({ name: 'late', ipv4: '172.30.0.9' });
    const found = await askUdp(server.status, query({ name: 'late.vm' }));
    zone.delete('late');
    const gone = await askUdp(server.status, query({ name: 'late.vm' }));
    assert.deepEqual(found && lines(found).answers, ['late.vm A 172.30.0.9']);
    assert.equal(gone && rcodeOf(gone), 'NXDOMAIN');
  });

  it('counts queries by how they ended and tells what it serves', async () => {
    await using server = await startServer();
    const target = server.status;
    await askUdp(target, query({ name: 'web.vm' }));
    await askTcp(target, query({ name: 'web.vm' }));
    await askUdp(target, query({ name: 'nobody.vm' }));
    await askUdp(target, query({ name: 'example.com' }));
    await askUdp(target, query({ name: 'vm', type: 'AXFR' }));
    await askUdp(target, Buffer.alloc(12));
    await askUdp(target, Buffer.alloc(3), 50);
    const { queries, zone, reverseZones, vms, records, lastError } = server.status;
    const counted = Object.fromEntries(Object.entries(queries).filter(([, count]) => count > 0));
    assert.deepEqual(counted, { answer: 2, nxdomain: 1, outside: 1, refused: 1, formerr: 1, ignored: 1 });
    assert.deepEqual(
      { zone, reverseZones: reverseZones.length, vms, lastError },
      { zone: 'vm', reverseZones: 2, vms: 3, lastError: undefined },
    );
    // SOA and NS of three zones, name server, probe, four addresses and their pointers
    assert.equal(records, 16);
  });

  it('never answers responses', async () => {
    await using server = await startServer();
    const response = query({ name: 'web.vm' });
    response[2] = (response[2] ?? 0) | 0x80;
    assert.equal(await askUdp(server.status, response, 100), undefined);
    assert.equal(server.status.queries.ignored, 1);
  });

  it('goes on answering after every packet of the corpus, by UDP and by TCP', async () => {
    await using server = await startServer();
    const corpus = readCorpus();
    const udp = createSocket('udp4');
    for (const { bytes } of corpus) udp.send(bytes, server.status.port, '127.0.0.1');
    using client = await openTcp(server.status);
    client.send(...corpus.map(({ bytes }) => bytes), query({ name: 'db.vm', id: 999 }));
    let last = await client.next();
    while (last.id !== 999) last = await client.next();
    assert.deepEqual(lines(last).answers, ['db.vm A 172.30.1.3']);
    const counted = () => Object.values(server.status.queries).reduce((sum, count) => sum + count, 0);
    await until('all packets counted', () => counted() === 2 * corpus.length + 1);
    assert.deepEqual(
      await askUdp(server.status, query({ name: 'web.vm' })).then((answer) => answer?.answers?.length),
      1,
    );
    udp.close();
  });

  it('starts again on the same port after a stop', async () => {
    const port = await freePort();
    await using server = await startServer({ port });
    await server.stop();
    assert.equal(server.status.state, 'stopped');
    await using again = await startServer({ port });
    assert.equal(again.status.state, 'listening');
  });

  it('stops although clients hold connections open', async () => {
    const server = await startServer();
    using client = await openTcp(server.status);
    client.send(query({ name: 'web.vm' }));
    await client.next();
    await server.stop();
    await client.closed;
  });
});

describe('a port in use', () => {
  for (const protocol of ['udp', 'tcp'] as const) {
    it(`by another ${protocol} socket is a status with its holder, and is tried again`, async () => {
      const port = await freePort();
      const holder =
        protocol === 'udp' ? createSocket('udp4').bind(port, '127.0.0.1') : createServer().listen(port, '127.0.0.1');
      await once(holder, 'listening');
      const asked: unknown[] = [];
      await using server = await startServer({
        port,
        retryMs: 20,
        findHolder: async (...where) => {
          asked.push(where);
          return 'dnsmasq (pid 812)';
        },
      });
      assert.equal(server.status.state, 'waiting');
      assert.equal(server.status.holder, 'dnsmasq (pid 812)');
      assert.equal(server.status.lastError?.message, `127.0.0.1 port ${port} is in use by dnsmasq (pid 812).`);
      assert.deepEqual(asked[0], ['127.0.0.1', port]);
      holder.close();
      await until('listening', () => server.status.state === 'listening');
      assert.equal(server.status.holder, undefined);
      assert.ok(await askUdp(server.status, query({ name: 'web.vm' })));
    });
  }

  it('is told with its holder also while it is tried again', async (t) => {
    const holder = createSocket('udp4').bind(0, '127.0.0.1');
    t.after(() => holder.close());
    await once(holder, 'listening');
    const { port } = holder.address();
    const again = Promise.withResolvers<void>();
    const look = Promise.withResolvers<string>();
    let looks = 0;
    await using server = await startServer({
      port,
      retryMs: 5,
      findHolder: async () => {
        looks++;
        if (looks === 1) return 'dnsmasq (pid 812)';
        again.resolve();
        return await look.promise;
      },
    });
    await again.promise;
    assert.equal(server.status.holder, 'dnsmasq (pid 812)');
    assert.equal(server.status.lastError?.message, `127.0.0.1 port ${port} is in use by dnsmasq (pid 812).`);
    look.resolve('named (pid 9)');
    await until('the next answer is told', () => server.status.holder === 'named (pid 9)');
  });

  it('does not keep a stopped server trying', async () => {
    const holder = createSocket('udp4').bind(0, '127.0.0.1');
    await once(holder, 'listening');
    const { port } = holder.address();
    let tries = 0;
    const server = await startServer({
      port,
      retryMs: 5,
      findHolder: async () => {
        tries++;
        throw new Error('may not look');
      },
    });
    assert.equal(server.status.lastError?.message, `127.0.0.1 port ${port} is in use by another process.`);
    await server.stop();
    const before = tries;
    await delay(50);
    assert.equal(tries, before);
    holder.close();
  });

  it('is told apart from an address this host does not have', async () => {
    await using server = await startServer({ address: '192.0.2.1' });
    assert.equal(server.status.state, 'waiting');
    assert.equal(server.status.lastError?.message, '192.0.2.1 is not an address of this host at the moment.');
  });
});

describe('TCP connections', () => {
  it('carry many queries, answered in order', async () => {
    await using server = await startServer();
    using client = await openTcp(server.status);
    const names = Array.from({ length: 500 }, (_, index) => (index % 2 === 0 ? 'web.vm' : 'nobody.vm'));
    client.send(...names.map((name, id) => query({ name, id })));
    for (const [id, name] of names.entries()) {
      const answer = await client.next();
      assert.equal(answer.id, id);
      assert.equal(rcodeOf(answer), name === 'web.vm' ? 'NOERROR' : 'NXDOMAIN');
    }
    assert.equal(server.status.tcpConnections, 1);
  });

  it('are closed when no query comes', async () => {
    await using server = await startServer({ idleMs: 100 });
    using client = await openTcp(server.status);
    client.send(query({ name: 'web.vm' }));
    await client.next();
    await client.closed;
    assert.equal(server.status.tcpConnections, 0);
  });

  it('are closed when a query comes too slowly, while others are answered', async () => {
    await using server = await startServer({ idleMs: 300 });
    using slow = await openTcp(server.status);
    const bytes = Buffer.concat([Buffer.from([0, 200]), Buffer.alloc(200)]);
    let sent = 0;
    const drip = setInterval(() => slow.socket.write(bytes.subarray(sent, ++sent)), 20);
    const started = performance.now();
    const others = await Promise.all(
      Array.from({ length: 20 }, () => askTcp(server.status, query({ name: 'web.vm' }))),
    );
    await slow.closed;
    clearInterval(drip);
    assert.ok(others.every((answer) => answer.answers?.length === 1));
    assert.ok(performance.now() - started < paced(3500));
    assert.ok(sent < 200, 'it was closed before the query was complete');
  });

  it('above the limit close the one that was quiet longest', async () => {
    await using server = await startServer({ maxConnections: 3 });
    using first = await openTcp(server.status);
    using second = await openTcp(server.status);
    using third = await openTcp(server.status);
    for (const client of [second, third, first]) {
      client.send(query({ name: 'web.vm' }));
      await client.next();
    }
    using fourth = await openTcp(server.status);
    await second.closed;
    for (const client of [first, third, fourth]) {
      client.send(query({ name: 'web.vm' }));
      assert.equal((await client.next()).answers?.length, 1);
    }
    assert.equal(server.status.tcpConnections, 3);
  });

  it('above the limit close one of the client that has the most', async () => {
    await using server = await startServer({ maxConnections: 3 });
    using lone = await openTcp(server.status);
    const greedy = [];
    for (let opened = 0; opened < 5; opened++) greedy.push(await openTcp(server.status, '127.0.0.2'));
    await Promise.all(greedy.slice(0, 3).map(({ closed }) => closed));
    lone.send(query({ name: 'web.vm' }));
    assert.equal((await lone.next()).answers?.length, 1);
    for (const client of greedy) client[Symbol.dispose]();
  });

  it('refuse a frame of 64 KiB and go on with the next query', async () => {
    await using server = await startServer();
    using client = await openTcp(server.status);
    const huge = Buffer.concat([query({ name: 'web.vm', id: 1 }), Buffer.alloc(65_535)]).subarray(0, 65_535);
    client.send(huge, query({ name: 'web.vm', id: 2 }));
    const refused = await client.next();
    const answered = await client.next();
    assert.deepEqual([refused.id, rcodeOf(refused)], [1, 'FORMERR']);
    assert.deepEqual([answered.id, rcodeOf(answered)], [2, 'NOERROR']);
  });

  it('stop being read when their answers are not', async () => {
    await using server = await startServer({ idleMs: 2000 });
    using client = await openTcp(server.status);
    client.socket.pause();
    const before = process.memoryUsage().arrayBuffers;
    const chunk = Buffer.concat(
      Array.from({ length: 1000 }, () => {
        const bytes = query({ name: 'web.vm' });
        return Buffer.concat([Buffer.from([0, bytes.length]), bytes]);
      }),
    );
    let taken = 0;
    let stuck = false;
    while (!stuck && taken < 64 * 1024 * 1024) {
      stuck =
        !client.socket.write(chunk) &&
        (await Promise.race([once(client.socket, 'drain').then(() => false), delay(300, true)]));
      taken += chunk.length;
    }
    const grown = process.memoryUsage().arrayBuffers - before;
    assert.ok(stuck, 'the server stopped reading');
    assert.ok(grown < 32 * 1024 * 1024, `${grown} bytes were kept for a client that does not read`);
    assert.ok(await askUdp(server.status, query({ name: 'web.vm' })), 'others are answered');
  });

  it('may be reset at any moment', async () => {
    await using server = await startServer();
    for (let round = 0; round < 20; round++) {
      using client = await openTcp(server.status);
      client.send(query({ name: 'web.vm' }), query({ name: 'web.vm' }));
      if (round % 2 === 0) client.socket.resetAndDestroy();
    }
    await until('all gone', () => server.status.tcpConnections === 0);
    assert.ok(await askTcp(server.status, query({ name: 'web.vm' })));
  });
});
