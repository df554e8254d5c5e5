import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createConnection, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it, type TestContext } from 'node:test';
import fc from 'fast-check';
import { BangerError } from '../../src/errors.ts';
import { isOpenBy } from '../../src/nethelper/host-view.ts';
import { createHelperServer, type Limits, parseRequest } from '../../src/nethelper/server.ts';
import { chooseWay, createHelperPort, greetHelper, helperAccess } from '../../src/network/helper-client.ts';
import { type HelperRequest, MAX_FRAME_BYTES } from '../../src/network/helper-protocol.ts';
import { peerReader } from '../../src/system/socket-peer.ts';
import { tempDir } from '../support/temp-dir.ts';
import { rules, SmallHost, scope, vmAt } from './support/small-host.ts';

const HELLO = '{"op":"hello"}\n';

interface Options {
  handle?: (uid: number, request: HelperRequest) => Promise<unknown>;
  peerOf?: (connection: Socket) => { uid: number; pid: number } | undefined;
  limits?: Partial<Limits>;
}

async function start(t: TestContext, options: Options = {}) {
  const path = join(await tempDir(t), 'net.sock');
  const log: string[] = [];
  const peerOf = options.peerOf ?? (() => ({ uid: 1000, pid: 42 }));
  const handle = options.handle ?? (async (uid) => ({ uid }));
  const server: Server = createHelperServer({
    ...{ helper: { handle }, peerOf, log: (line) => log.push(line) },
    limits: options.limits ?? {},
  });
  server.listen(path);
  await once(server, 'listening');
  t.after(() => server.close());
  return { path, log, server };
}

/** What is answered to these bytes, line by line, until the end. */
async function say(path: string, bytes: string | Buffer): Promise<Record<string, unknown>[]> {
  const socket = createConnection({ path, allowHalfOpen: true });
  socket.on('error', () => {});
  socket.end(bytes);
  const answers: Record<string, unknown>[] = [];
  try {
    for await (const line of createInterface({ input: socket })) answers.push(JSON.parse(line));
  } catch {
    // closed before it had taken all
  }
  return answers;
}

describe('the socket of the network helper', () => {
  it('answers one request after another, as the user whom the kernel names', async (t) => {
    const peerOf = await peerReader();
    if (!peerOf) return t.skip('no ffi here');
    const { path } = await start(t, { peerOf });
    const answer = { ok: true, result: { uid: process.getuid?.() } };
    assert.deepEqual(await say(path, HELLO + HELLO), [answer, answer]);
  });

  it('does nothing for whom it does not know', async (t) => {
    const { path, log } = await start(t, { peerOf: () => undefined });
    assert.deepEqual(await say(path, HELLO), []);
    assert.match(log[0] ?? '', /closed/);
  });

  it('writes down who asked what and how it ended, each in one line that nobody can make up', async (t) => {
    const { path, log } = await start(t, {
      handle: async (_uid, { op }) => {
        if (op === 'set-up') throw new BangerError('conflict', 'no\nuid 0 pid 1: attach', { hint: 'none' });
      },
    });
    const detach = { op: 'detach', ...scope('172.30.0.0/16\nuid 0'), vm: '0000000a', rules: rules([]) };
    const setUp = { op: 'set-up', ...scope(), vm: '0000000b', mtu: 1500 };
    await say(path, `${JSON.stringify(detach)}\n${JSON.stringify(setUp)}\n${HELLO}`);
    const said = log.map((line) => line.replace(/ \(\d+ ms\)$/, ''));
    assert.match(said[0] ?? '', /invalid_input/); // longer than a range can be
    assert.equal(said[1], 'uid 1000 pid 42: set-up 0000000b (172.30.0.0/16): conflict: no?uid 0 pid 1: attach');
    assert.equal(said.length, 2, 'a greeting is not worth a line');
  });

  it('refuses whatever is no request, says so, and answers the next', async (t) => {
    const { path } = await start(t, { limits: { burst: 10_000 } });
    const good = { op: 'rules', ...scope(), rules: rules([vmAt(1)]) };
    const bad: unknown[] = [
      null,
      [],
      'hello',
      {},
      { op: 'shell' },
      { op: '__proto__' },
      { ...good, uid: 0 },
      { ...good, table: 'banger' },
      { ...good, instance: '../../etc' },
      { ...good, rules: { ...rules([]), text: 'flush ruleset' } },
      { ...good, rules: rules([{ ...vmAt(1), vm: 'eth0' }]) },
      { ...good, rules: rules([{ ...vmAt(1), address: '1.2.3.4; drop' }]) },
      { ...good, rules: rules([{ ...vmAt(1), address: '01.2.3.4' }]) },
      { ...good, rules: rules([], { canaryPort: 53 }) },
      { ...good, rules: rules(Array.from({ length: 2049 }, (_, at) => vmAt(at % 250))) },
      { op: 'forwarding', ...scope(), device: '../eth0', value: '2' },
      { op: 'forwarding', ...scope(), device: 'eth0" drop', value: '2' },
      { op: 'forwarding', ...scope(), device: 'eth0', value: 2 },
      { op: 'set-up', ...scope(), vm: '0000000A', mtu: 1500 },
      { op: 'set-up', ...scope(), vm: '0000000a', mtu: 1e9 },
    ];
    const answers = await say(path, `${[...bad, good].map((value) => JSON.stringify(value)).join('\n')}\n`);
    assert.deepEqual(
      answers.map(({ ok, code }) => code ?? ok),
      [...bad.map(() => 'invalid_input'), true],
    );
  });

  it('takes any bytes for what they are', async (t) => {
    let handled = 0;
    const { path } = await start(t, {
      handle: async () => void handled++,
      limits: { burst: 100_000, connectionsPerUser: 1000, connections: 1000 },
    });
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
      fc.json().map((text) => Buffer.from(`${text}\n`)),
      fc.constantFrom('\n', '{', '"op":', HELLO.slice(0, 5), '{"op":"state"}\n', '\0').map((text) => Buffer.from(text)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 8 }), async (pieces) => {
        for (const { ok, code } of await say(path, Buffer.concat(pieces))) {
          assert.equal(ok, false);
          assert.equal(code, 'invalid_input');
        }
      }),
      { numRuns: 150 },
    );
    assert.equal(handled, 0);
    assert.deepEqual(await say(path, HELLO), [{ ok: true }]);
  });

  it('is no place to keep bytes: a request that is too long ends its connection', async (t) => {
    const { path } = await start(t);
    for (const end of ['', '\n', `\n${HELLO}`]) {
      const socket = createConnection(path);
      const closed = once(socket, 'close');
      socket.on('error', () => {});
      const line = once(createInterface({ input: socket }), 'line');
      socket.write(`"${'x'.repeat(MAX_FRAME_BYTES + 1)}"${end}`);
      assert.match(String(await line), /at most 262144 bytes/);
      await closed;
    }
  });

  it('lets no user have all connections, and keeps none that says nothing', async (t) => {
    let uid = 1;
    const { path } = await start(t, {
      peerOf: () => ({ uid, pid: 1 }),
      limits: { connectionsPerUser: 2, connections: 3, silenceMs: 300 },
    });
    const held = [createConnection(path), createConnection(path)];
    await Promise.all(held.map((socket) => once(socket, 'connect')));
    const refusal = [{ ok: false, code: 'conflict' }];
    assert.partialDeepStrictEqual(await say(path, HELLO), refusal);
    uid = 2;
    assert.partialDeepStrictEqual(await say(path, HELLO), [{ ok: true }]);
    const ends = held.map((socket) => once(socket.resume(), 'close'));
    await Promise.all(ends);
    uid = 1;
    assert.partialDeepStrictEqual(await say(path, HELLO), [{ ok: true }]);
  });

  it('answers a user who asks without end only as often as others can bear', async (t) => {
    const { path } = await start(t, { limits: { burst: 5, perSecond: 20 } });
    const begun = performance.now();
    assert.equal((await say(path, HELLO.repeat(11))).length, 11);
    // 5 at once, and 6 at 20 a second
    assert.ok(performance.now() - begun >= 290);
  });

  it('lets a user whose request takes long keep nobody else waiting', async (t) => {
    let uid = 1;
    const slow = Promise.withResolvers<void>();
    const { path } = await start(t, {
      peerOf: () => ({ uid, pid: 1 }),
      handle: (who) => (who === 1 ? slow.promise : Promise.resolve()),
      limits: { silenceMs: 100 },
    });
    const first = say(path, HELLO);
    const socket = createConnection(path);
    await once(socket, 'connect');
    socket.destroy();
    uid = 2;
    assert.deepEqual(await say(path, HELLO), [{ ok: true }]);
    slow.resolve();
    assert.deepEqual(await first, [{ ok: true }]);
  });
});

describe('a daemon that asks the network helper', () => {
  it('asks for what it would do itself, in terms of VMs', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const asked: HelperRequest[] = [];
    const { path } = await start(t, {
      handle: async (uid, request) => {
        asked.push(request);
        return await helper.handle(uid, request);
      },
    });
    const port = createHelperPort(path, scope());
    const tap = {
      ...{ name: 'bgr-00000001', address: '172.30.0.2', mac: '06:00:ac:1e:00:02', hostMac: '02:00:ac:1e:00:02' },
      ...{ gateway: '172.30.0.1', mtu: 1500, ownerUid: 1000 },
    };
    const wanted = {
      ...{ table: 'banger_u1000', vmToVm: true, lent: ['eth0'], canaryPort: 4242 },
      members: [{ tap: tap.name, address: tap.address, nat: true, closed: undefined }],
    };
    await port.addPoolRoute('172.30.0.0/16');
    await port.attach(tap, wanted);
    assert.deepEqual(asked.at(-1), {
      ...{ op: 'attach', ...scope(), vm: '00000001', mtu: 1500 },
      rules: {
        members: [{ vm: '00000001', address: '172.30.0.2', nat: true }],
        ...{ vmToVm: true, vmToHost: false, guestDns: false, canaryPort: 4242 },
      },
    });
    const seen = await port.readRules(wanted);
    assert.equal(seen?.whole, true);
    assert.match(seen?.text ?? '', /^[0-9a-f]{64}$/);
    await port.writeRules({ ...wanted, vmToVm: false });
    assert.notEqual((await port.readRules(wanted))?.text, seen?.text);
    await port.setUpTap(tap);
    await port.addPoolRule('172.30.0.0/16');
    await port.deletePoolRule('172.30.0.0/16');
    await port.setForwarding('eth0', '2');
    await port.detach(tap.name, { ...wanted, members: [] });
    await port.deletePoolRoute('172.30.0.0/16');
    await port.setForwarding('eth0', '0');
    assert.equal(await port.readRules(wanted), undefined);
    assert.deepEqual([...host.taps, ...host.tables, ...host.pools], []);
    await assert.rejects(createHelperPort(path, scope('8.8.8.0/24')).writeRules(wanted), {
      code: 'invalid_input',
      message: 'The network helper does not give 8.8.8.0/24 to VMs of users.',
      hint: /bangernet --pools/,
    });
  });

  it('says what to look at when the helper does not answer as it should', async (t) => {
    const dir = await tempDir(t);
    const port = createHelperPort(join(dir, 'absent'), scope());
    await assert.rejects(port.addPoolRoute('172.30.0.0/16'), {
      code: 'host_unprepared',
      message: /cannot be reached at .*absent/,
      hint: /journalctl -u bangernet/,
    });
    const { path, server } = await start(t);
    server.removeAllListeners('connection');
    server.on('connection', (socket: Socket) => socket.end());
    await assert.rejects(greetHelper(path), /ended before it had answered/);
    server.on('connection', (socket: Socket) => socket.end('Hello!\n'));
    server.removeListener('connection', server.listeners('connection')[0] as () => void);
    await assert.rejects(greetHelper(path), /something else than JSON/);
  });

  it('asks it as soon as it is there, and somebody else before', async (t) => {
    const { path } = await start(t);
    const dir = await tempDir(t);
    assert.equal(await helperAccess(path), 'allowed');
    assert.equal(await helperAccess(join(dir, 'absent')), 'absent');
    assert.equal(await helperAccess('never'), 'absent');
    const [one, other] = [await SmallHost.create(t), await SmallHost.create(t)];
    let isThere = false;
    const port = chooseWay(one.port(), other.port(), async () => isThere);
    await port.addPoolRoute('a');
    isThere = true;
    await port.addPoolRoute('b');
    assert.deepEqual([one.done, other.done], [['route b'], ['route a']]);
  });
});

describe('a UDP port of the host', () => {
  it('is a user’s by the kernel’s table', () => {
    const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  301: 0100007F:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 17 2 0000000000000000 0
  302: 00000000:14EA 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 18 2 0000000000000000 0`;
    assert.equal(isOpenBy(table, 1000, 5353), true);
    assert.equal(isOpenBy(table, 1001, 5353), false);
    assert.equal(isOpenBy(table, 1000, 5354), false, 'of all addresses, and so perhaps of another program');
    assert.equal(isOpenBy('', 1000, 0), false);
  });
});

describe('a request', () => {
  it('is told what is wrong by its place, never by its content', () => {
    assert.throws(() => parseRequest('{"op":"state","instance":"\\n","pool":"x"}'), {
      message: 'The request is wrong at "instance": invalid_format.',
    });
    assert.throws(() => parseRequest('{'), { message: 'The request is not JSON.' });
  });
});
