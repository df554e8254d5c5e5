/** What guests see: names of VMs from the zone, everything else from the host's resolvers. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import dnsPacket, { type DecodedPacket } from 'dns-packet';
import { GuestListener, type GuestListenerOptions } from '../../src/dns/guest-listener.ts';
import { followResolvConf, parseNameservers } from '../../src/dns/resolv-conf.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { askTcp, askUdp, openTcp } from './support/clients.ts';
import { exampleZone, lines, query, rcodeOf } from './support/packets.ts';
import { type FakeUpstream, manyRecords, respond, startUpstream, type UpstreamQuery } from './support/upstream.ts';

const FOREIGN = query({ name: 'example.com' });

async function startGuests(upstreams: FakeUpstream[], options: Partial<GuestListenerOptions> = {}) {
  const listener = new GuestListener({
    zone: exampleZone(),
    address: '127.0.0.1',
    port: 0,
    isVm: () => true,
    upstreams: async () => upstreams,
    ...options,
  });
  await listener.start();
  return listener;
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `${what}: not within 5 s`);
    await delay(5);
  }
}

const addressOf = (data: string) => (asked: UpstreamQuery) => {
  asked.send(respond(asked.bytes, [{ type: 'A', name: 'example.com', ttl: 60, data }]));
};
const failing = (rcode: number) => (asked: UpstreamQuery) => asked.send(respond(asked.bytes, [], rcode));
const silent = () => {};

function answersOf(packet: DecodedPacket | undefined): string[] | undefined {
  return packet && lines(packet).answers;
}

describe('the guest listener', () => {
  it('refuses a VM without NAT what is not in the zone: no query leaves the host', async () => {
    await using upstream = await startUpstream(addressOf('192.0.2.7'));
    await using guests = await startGuests([upstream], { mayAskOutside: (address) => address !== '127.0.0.1' });
    for (const ask of [askUdp, askTcp]) {
      assert.deepEqual(answersOf(await ask(guests.status, query({ name: 'db.vm' }))), ['db.vm A 172.30.1.3']);
      const other = await ask(guests.status, FOREIGN);
      assert.equal(other && rcodeOf(other), 'REFUSED');
      assert.equal(other?.id, 4711);
    }
    assert.deepEqual(guests.status.forwarded, { answered: 0, failed: 0, busy: 0 });
  });

  it('answers names of VMs itself and the rest as the host would', async () => {
    await using upstream = await startUpstream(addressOf('192.0.2.7'));
    await using guests = await startGuests([upstream]);
    for (const ask of [askUdp, askTcp]) {
      const vm = await ask(guests.status, query({ name: 'db.vm' }));
      const other = await ask(guests.status, FOREIGN);
      assert.deepEqual(answersOf(vm), ['db.vm A 172.30.1.3']);
      assert.deepEqual(answersOf(other), ['example.com A 192.0.2.7']);
      assert.equal(other?.id, 4711);
      assert.ok(vm?.flag_ra && other?.flag_ra, 'recursion is on offer');
    }
    const back = await askUdp(guests.status, query({ name: '3.1.30.172.in-addr.arpa', type: 'PTR' }));
    assert.deepEqual(answersOf(back), ['3.1.30.172.in-addr.arpa PTR db.vm']);
    assert.equal(upstream.queries.length, 2, 'the host hears nothing of the zone');
    assert.deepEqual(guests.status.forwarded, { answered: 2, failed: 0, busy: 0 });
    assert.equal(guests.status.inFlight, 0);
  });

  it('does not serve anyone but VMs', async () => {
    await using upstream = await startUpstream(addressOf('192.0.2.7'));
    const seen: string[] = [];
    const isVm = (address: string) => seen.push(address) === 0;
    await using guests = await startGuests([upstream], { isVm });
    assert.equal(await askUdp(guests.status, FOREIGN, 100), undefined);
    assert.equal(await askUdp(guests.status, query({ name: 'web.vm' }), 100), undefined);
    await assert.rejects(askTcp(guests.status, query({ name: 'web.vm' })), /closed the connection/);
    assert.deepEqual(seen, ['127.0.0.1', '127.0.0.1', '127.0.0.1']);
    assert.equal(upstream.queries.length, 0);
  });

  it('passes on only queries that ask for it', async () => {
    await using upstream = await startUpstream(addressOf('192.0.2.7'));
    await using guests = await startGuests([upstream]);
    const answer = await askUdp(guests.status, query({ name: 'example.com', recursion: false }));
    assert.equal(answer && rcodeOf(answer), 'REFUSED');
    const transfer = await askTcp(guests.status, query({ name: 'example.com', type: 'AXFR' }));
    assert.equal(rcodeOf(transfer), 'REFUSED');
    assert.equal(upstream.queries.length, 0);
  });

  it('waits while its address does not exist', async () => {
    await using guests = await startGuests([], { address: '192.0.2.1', port: 53 });
    assert.equal(guests.status.state, 'waiting');
    await guests.retryNow();
    assert.match(guests.status.lastError?.message ?? '', /not an address of this host/);
  });

  it('ends queries under way when it stops, and can start again', async () => {
    await using upstream = await startUpstream(silent);
    await using guests = await startGuests([upstream]);
    using client = await openTcp(guests.status);
    client.send(FOREIGN);
    const asking = askUdp(guests.status, FOREIGN, 300);
    await until('both are under way', () => guests.status.inFlight === 2);
    const started = performance.now();
    await guests.stop();
    assert.ok(performance.now() - started < paced(2000));
    assert.equal(await asking, undefined);
    await guests.start();
    assert.ok(await askUdp(guests.status, query({ name: 'web.vm' })));
  });
});

describe('forwarding', () => {
  it('uses an id and a port of its own for every query', async () => {
    await using upstream = await startUpstream(addressOf('192.0.2.7'));
    await using guests = await startGuests([upstream]);
    for (let round = 0; round < 40; round++) await askUdp(guests.status, query({ name: 'example.com', id: 1 }));
    const ids = new Set(upstream.queries.map(({ bytes }) => bytes.readUInt16BE(0)));
    const ports = new Set(upstream.queries.map(({ port }) => port));
    assert.ok(ids.size > 35, `${ids.size} ids`);
    assert.ok(ports.size > 35, `${ports.size} ports`);
  });

  it('believes only the answer to its own question', async () => {
    const stranger = createSocket('udp4');
    await using upstream = await startUpstream((asked) => {
      const good = respond(asked.bytes, [{ type: 'A', name: 'example.com', ttl: 60, data: '192.0.2.7' }]);
      const forged = respond(asked.bytes, [{ type: 'A', name: 'example.com', ttl: 60, data: '192.0.2.66' }]);
      stranger.send(forged, asked.port, '127.0.0.1', () => {
        const wrongId = Buffer.from(forged);
        wrongId.writeUInt16BE(wrongId.readUInt16BE(0) ^ 1, 0);
        asked.send(wrongId);
        asked.send(asked.bytes);
        const { id = 0 } = dnsPacket.decode(asked.bytes);
        asked.send(respond(query({ name: 'example.org', id }), []));
        asked.send(Buffer.alloc(3));
        asked.send(good);
      });
    });
    await using guests = await startGuests([upstream]);
    assert.deepEqual(answersOf(await askUdp(guests.status, FOREIGN)), ['example.com A 192.0.2.7']);
    stranger.close();
  });

  it('asks the next server when one is not there, fails or stays silent', async () => {
    const gone = await startUpstream(silent);
    await gone[Symbol.asyncDispose]();
    await using refusing = await startUpstream(failing(5));
    await using broken = await startUpstream(failing(2));
    await using mute = await startUpstream(silent);
    await using good = await startUpstream(addressOf('192.0.2.7'));
    for (const bad of [gone, refusing, mute]) {
      await using guests = await startGuests([bad, good], { tryMs: 500 });
      assert.deepEqual(answersOf(await askUdp(guests.status, FOREIGN)), ['example.com A 192.0.2.7']);
    }
    await using guests = await startGuests([broken, good]);
    assert.deepEqual(answersOf(await askTcp(guests.status, FOREIGN)), ['example.com A 192.0.2.7']);
  });

  it('asks a silent server last for a while', async () => {
    await using mute = await startUpstream(silent);
    await using good = await startUpstream(addressOf('192.0.2.7'));
    await using guests = await startGuests([mute, good], { tryMs: 400 });
    for (let round = 0; round < 5; round++) await askUdp(guests.status, FOREIGN);
    assert.equal(mute.queries.length, 1);
    assert.equal(good.queries.length, 5);
  });

  it('sends a lost datagram once more', async () => {
    let times = 0;
    await using upstream = await startUpstream((asked) => {
      if (++times === 2) addressOf('192.0.2.7')(asked);
    });
    await using guests = await startGuests([upstream], { tryMs: 400 });
    assert.deepEqual(answersOf(await askUdp(guests.status, FOREIGN)), ['example.com A 192.0.2.7']);
  });

  it('passes a failure on when every server fails, and says SERVFAIL when none answers', async () => {
    await using broken = await startUpstream(failing(2));
    await using mute = await startUpstream(silent);
    await using one = await startGuests([broken]);
    const failed = await askUdp(one.status, FOREIGN);
    assert.equal(failed && rcodeOf(failed), 'SERVFAIL');
    assert.deepEqual(one.status.forwarded, { answered: 1, failed: 0, busy: 0 });
    await using two = await startGuests([mute], { tryMs: 50, totalMs: 120 });
    for (const ask of [askUdp, askTcp]) {
      const answer = await ask(two.status, FOREIGN);
      assert.equal(answer && rcodeOf(answer), 'SERVFAIL');
      assert.equal(answer?.id, 4711);
    }
    assert.deepEqual(two.status.forwarded, { answered: 0, failed: 2, busy: 0 });
    await using three = await startGuests([]);
    const nobody = await askUdp(three.status, FOREIGN);
    assert.equal(nobody && rcodeOf(nobody), 'SERVFAIL');
  });

  it('keeps one guest from using up all places, and VM names out of the queue', async () => {
    await using mute = await startUpstream(silent);
    await using guests = await startGuests([mute], { maxPerClient: 4, maxInFlight: 8, totalMs: 5000, tryMs: 5000 });
    const client = createSocket('udp4');
    for (let id = 0; id < 20; id++) client.send(query({ name: 'example.com', id }), guests.status.port, '127.0.0.1');
    await until('all but four are dropped', () => guests.status.forwarded.busy === 16);
    assert.equal(guests.status.inFlight, 4);
    assert.deepEqual(answersOf(await askUdp(guests.status, query({ name: 'db.vm' }))), ['db.vm A 172.30.1.3']);
    await guests.stop();
    await until('the four are ended', () => guests.status.forwarded.failed === 4);
    assert.equal(guests.status.inFlight, 0);
    client.close();
  });

  it('passes TC on, and the whole answer by TCP', async () => {
    const records = manyRecords('example.com', 80);
    await using upstream = await startUpstream((asked) => {
      const whole = asked.transport === 'tcp';
      asked.send(respond(asked.bytes, whole ? records : [], whole ? 0 : dnsPacket.TRUNCATED_RESPONSE));
    });
    await using guests = await startGuests([upstream]);
    const text = query({ name: 'example.com', type: 'TXT', edns: true });
    const short = await askUdp(guests.status, text);
    assert.equal(short?.flag_tc, true);
    const whole = await askTcp(guests.status, text);
    assert.equal(whole.answers?.length, 80);
    assert.deepEqual(
      upstream.queries.map(({ transport }) => transport),
      ['udp', 'tcp'],
    );
  });

  it('never sends a guest more than it takes over UDP', async () => {
    await using upstream = await startUpstream((asked) => {
      asked.send(respond(asked.bytes, manyRecords('example.com', 4)));
    });
    await using guests = await startGuests([upstream]);
    const plain = await askUdp(guests.status, query({ name: 'example.com', type: 'TXT' }));
    assert.deepEqual([plain?.flag_tc, plain?.answers?.length], [true, 0]);
    const roomy = await askUdp(guests.status, query({ name: 'example.com', type: 'TXT', edns: 4096 }));
    assert.deepEqual([roomy?.flag_tc, roomy?.answers?.length], [false, 4]);
  });

  it('survives servers that send rubbish by TCP or hang up', async () => {
    let times = 0;
    await using upstream = await startUpstream((asked) => {
      asked.send(Buffer.alloc(++times % 2 === 0 ? 0 : 40_000, 0xff));
    });
    await using guests = await startGuests([upstream], { tryMs: 100, totalMs: 150 });
    const answer = await askTcp(guests.status, FOREIGN);
    assert.equal(rcodeOf(answer), 'SERVFAIL');
  });
});

describe('the resolvers of resolv.conf', () => {
  it('are read in order, loopback included, three at most, rubbish left out', () => {
    const text = [
      '# made by hand',
      'search lan corp.example',
      'nameserver 127.0.0.53',
      ' nameserver  fe80::1%eth0 ',
      'nameserver example.com',
      '#nameserver 192.0.2.9',
      'nameserver 192.0.2.1',
      'nameserver 192.0.2.2',
      'options edns0',
    ].join('\n');
    assert.deepEqual(parseNameservers(text), ['127.0.0.53', 'fe80::1%eth0', '192.0.2.1']);
  });

  it('are followed when the file changes, and remembered when it goes away', async (t) => {
    const file = join(await tempDir(t), 'resolv.conf');
    const upstreams = followResolvConf(file);
    assert.deepEqual(await upstreams(), [{ address: '127.0.0.1', port: 53 }], 'what glibc does without a file');
    await writeFile(file, 'nameserver 192.0.2.1\n');
    await delay(1050);
    assert.deepEqual(await upstreams(), [{ address: '192.0.2.1', port: 53 }]);
    await writeFile(file, 'nameserver 127.0.0.53\nnameserver 192.0.2.2\n');
    await delay(1050);
    assert.deepEqual(
      (await upstreams()).map(({ address }) => address),
      ['127.0.0.53', '192.0.2.2'],
    );
  });
});
