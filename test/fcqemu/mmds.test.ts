/** The metadata service as a guest's network sees it: frames in, frames out, without a guest. */
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import fc from 'fast-check';
import { GuestApi } from '../../fcqemu/vmm/mmds/guest-api.ts';
import { checksum, FLAG, MMDS_MAC, type Segment } from '../../fcqemu/vmm/mmds/packets.ts';
import { MmdsStack } from '../../fcqemu/vmm/mmds/stack.ts';
import { Mmds } from '../../fcqemu/vmm/mmds/store.ts';
import { Tokens } from '../../fcqemu/vmm/mmds/tokens.ts';

const SERVICE = Buffer.from([169, 254, 169, 254]);
const GUEST = Buffer.from([10, 0, 0, 2]);
const GUEST_MAC = Buffer.from('020000000002', 'hex');
const NONE = Buffer.alloc(0);

const DATA = {
  latest: {
    'meta-data': { 'ami-id': 'ami-1', list: ['one', 'two'], nested: { a: 1 }, empty: '' },
    'a/b': { '~': 'odd' },
    number: 12.5,
  },
};

interface Setup {
  version?: 'V1' | 'V2';
  imdsCompat?: boolean;
  isEmpty?: boolean;
}

const tokens = new Tokens();

function guestApi({ version = 'V1', imdsCompat = false, isEmpty = false }: Setup = {}) {
  const store = new Mmds(51_200);
  const config = { version, network_interfaces: ['eth0'], ipv4_address: null, imds_compat: imdsCompat };
  store.configure(config, ['eth0']);
  if (!isEmpty) store.put(DATA);
  const counted: string[] = [];
  const api = new GuestApi(store, tokens, (counter) => counted.push(counter));
  const ask = (text: string) => {
    const raw = api.answer(Buffer.from(`${text}\r\n\r\n`)).toString();
    const [head = '', body = ''] = raw.split('\r\n\r\n');
    const [statusLine = '', ...headers] = head.split('\r\n');
    return { status: Number(statusLine.split(' ')[1]), statusLine, headers, body };
  };
  return { api, ask, counted };
}

describe('the metadata service', () => {
  it('answers with the names of an object or with a string, and with JSON when asked for it', () => {
    const { ask } = guestApi();
    const names = ask('GET /latest/meta-data/ HTTP/1.1\r\nAccept: */*');
    assert.deepEqual(
      [names.status, names.body, names.statusLine],
      [200, 'ami-id\nempty\nlist\nnested/', 'HTTP/1.1 200 '],
    );
    assert.ok(names.headers.includes('Content-Type: text/plain'));
    const json = ask('GET //latest///meta-data HTTP/1.0\r\nAccept: application/json');
    assert.equal(json.body, '{"ami-id":"ami-1","empty":"","list":["one","two"],"nested":{"a":1}}');
    assert.equal(json.statusLine, 'HTTP/1.0 200 ');
    assert.ok(json.headers.includes('Content-Type: application/json'));
    assert.equal(ask('GET /latest/meta-data/list/1/ HTTP/1.1').body, 'two');
    assert.equal(ask('GET http://169.254.169.254/latest/a~1b/~0 HTTP/1.1').body, 'odd');
    assert.equal(ask('GET /latest/meta-data/empty HTTP/1.1').body, '');
  });

  const refusals: [request: string, status: number, body: string][] = [
    ['GET /latest/none HTTP/1.1', 404, 'Resource not found: /latest/none.'],
    ['GET /latest/meta-data/list/01 HTTP/1.1', 404, 'Resource not found: /latest/meta-data/list/01.'],
    ['GET /latest/number HTTP/1.1', 501, 'Cannot retrieve value. The value has an unsupported type.'],
    ['GET /latest/meta-data/list HTTP/1.1', 501, 'Cannot retrieve value. The value has an unsupported type.'],
    ['GET http:// HTTP/1.0', 400, 'Invalid URI.'],
    ['PATCH / HTTP/1.1', 405, 'Not allowed HTTP method.'],
    ['POST / HTTP/1.1', 501, 'Unsupported HTTP method.'],
    ['GET / HTTP/2.0', 501, 'Unsupported HTTP version.'],
    ['GET / HTTP/1.1\r\nContent-Length: 100', 400, 'Invalid request.'],
    ['PUT /latest/api/toke HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60', 404, 'Resource not found: /latest/api/toke.'],
    [
      'PUT /x HTTP/1.1\r\nX-Forwarded-For: foo',
      400,
      'Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For',
    ],
    [
      'PUT /latest/api/token HTTP/1.1',
      400,
      "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.",
    ],
    [
      'PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: soon',
      400,
      'Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:soon',
    ],
    ...[0, 21_601].map((ttl): [string, number, string] => [
      `PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: ${ttl}`,
      400,
      `Invalid time to live value provided for token: ${ttl}. Please provide a value between 1 and 21600.`,
    ]),
  ];
  for (const [request, status, body] of refusals) {
    it(`refuses ${JSON.stringify(request.slice(0, 60))} with ${status}`, () => {
      const answer = guestApi().ask(request);
      assert.deepEqual([answer.status, answer.body], [status, body]);
      assert.equal(answer.headers.includes('Allow: GET, PUT'), status === 405);
    });
  }

  it('insists on a token in version 2, by either name, and only counts it in version 1', () => {
    const second = guestApi({ version: 'V2' });
    const created = second.ask('PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60');
    assert.equal(created.status, 200);
    assert.ok(created.headers.includes('X-aws-ec2-metadata-token-ttl-seconds: 60'));
    const get = 'GET /latest/meta-data/ami-id HTTP/1.1';
    assert.equal(second.ask(`${get}\r\nX-Metadata-Token: ${created.body}`).body, 'ami-1');
    assert.equal(second.ask(`${get}\r\nX-aws-ec2-metadata-token: ${created.body}`).body, 'ami-1');
    const without = second.ask(get);
    assert.deepEqual(
      [without.status, without.body],
      [
        401,
        'No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.',
      ],
    );
    const wrong = second.ask(`${get}\r\nX-metadata-token: foo`);
    assert.deepEqual([wrong.status, wrong.body], [401, 'MMDS token not valid.']);
    assert.deepEqual(second.counted, ['rx_no_token', 'rx_invalid_token']);

    const first = guestApi();
    assert.equal(first.ask(get).body, 'ami-1');
    assert.equal(first.ask(`${get}\r\nX-metadata-token: foo`).body, 'ami-1');
    assert.deepEqual(first.counted, ['rx_no_token', 'rx_invalid_token']);
  });

  it('speaks the form of EC2 whatever is asked for, when that is configured', () => {
    const { ask } = guestApi({ imdsCompat: true });
    const answer = ask('GET /latest/meta-data/ami-id HTTP/1.1\r\nAccept: application/json');
    assert.equal(answer.body, 'ami-1');
    assert.ok(answer.headers.includes('Content-Type: text/plain'));
  });

  it('has nothing to say before there is data', () => {
    const empty = guestApi({ isEmpty: true });
    assert.equal(empty.ask('GET / HTTP/1.1\r\nAccept: application/json').body, 'null');
    assert.equal(empty.ask('GET / HTTP/1.1').status, 501);
  });
});

describe('session tokens', () => {
  it('expire, and are worth nothing to another process, changed, or in other words', () => {
    const token = tokens.create(1, 1000);
    assert.ok(tokens.isValid(token, 1999));
    assert.ok(!tokens.isValid(token, 2000));
    assert.ok(!new Tokens().isValid(token, 1500));
    const last = token.at(-3) === 'A' ? 'B' : 'A';
    assert.ok(!tokens.isValid(`${token.slice(0, -3)}${last}${token.slice(-2)}`, 1500));
    assert.ok(!tokens.isValid(`${token} `, 1500));
    assert.ok(!tokens.isValid('', 1500));
  });

  it('are limited in number, and the oldest goes first', () => {
    const many = new Tokens();
    const made = Array.from({ length: 4100 }, (_, at) => many.create(at === 2 ? 1 : 60, 1000));
    assert.deepEqual(
      [0, 1, 2, 3, 4, 4099].map((at) => many.isValid(made[at] ?? '', 1500)),
      [false, false, false, false, true, true],
    );
    many.create(60, 3000);
    assert.ok(many.isValid(made[5] ?? '', 3000));
  });
});

/** The guest's side of the wire: sends segments and collects what comes back. */
class Guest {
  readonly stack: MmdsStack;
  readonly frames: Buffer[] = [];
  readonly counted: Record<string, number> = {};
  seq = 1000;
  ack = 0;
  port = 40_000;

  constructor(answer: (head: Buffer) => Buffer = () => NONE) {
    this.stack = new MmdsStack({
      address: '169.254.169.254',
      answer,
      send: (frame) => this.frames.push(Buffer.from(frame)),
      count: (counter, amount = 1) => {
        this.counted[counter] = (this.counted[counter] ?? 0) + amount;
      },
    });
  }

  /** Sends a segment and returns what came back, checked. */
  send(
    flags: number,
    payload: Buffer | string = NONE,
    options: { window?: number; mss?: number; toPort?: number } = {},
  ) {
    const data = Buffer.from(payload);
    this.frames.length = 0;
    const consumed = this.stack.receive(this.#frame({ flags, payload: data, ...options }));
    assert.ok(consumed);
    this.seq += data.length + (flags & FLAG.syn ? 1 : 0) + (flags & FLAG.fin ? 1 : 0);
    return this.received();
  }

  received(): Segment[] {
    return this.frames.splice(0).map((frame) => readTcp(frame));
  }

  connect(options: { window?: number; mss?: number } = {}): void {
    const [synAck] = this.send(FLAG.syn, NONE, options);
    assert.equal(synAck?.flags, FLAG.syn | FLAG.ack);
    this.ack = ((synAck?.seq ?? 0) + 1) >>> 0;
    assert.deepEqual(this.send(FLAG.ack, NONE, options), []);
  }

  #frame(segment: { flags: number; payload: Buffer; window?: number; mss?: number; toPort?: number }): Buffer {
    const { flags, payload, window = 60_000, mss, toPort = 80 } = segment;
    const options = mss === undefined ? 0 : 4;
    const frame = Buffer.alloc(14 + 20 + 20 + options + payload.length);
    MMDS_MAC.copy(frame, 0);
    GUEST_MAC.copy(frame, 6);
    frame.writeUInt16BE(0x0800, 12);
    frame[14] = 0x45;
    frame.writeUInt16BE(frame.length - 14, 16);
    frame[22] = 64;
    frame[23] = 6;
    GUEST.copy(frame, 26);
    SERVICE.copy(frame, 30);
    frame.writeUInt16BE(this.port, 34);
    frame.writeUInt16BE(toPort, 36);
    frame.writeUInt32BE(this.seq, 38);
    frame.writeUInt32BE(this.ack, 42);
    frame[46] = ((20 + options) / 4) << 4;
    frame[47] = flags;
    frame.writeUInt16BE(window, 48);
    if (mss !== undefined) {
      frame.set([2, 4], 54);
      frame.writeUInt16BE(mss, 56);
    }
    payload.copy(frame, 54 + options);
    return frame;
  }
}

/** A segment of the service; its addresses and checksums must be right. */
function readTcp(frame: Buffer): Segment {
  assert.deepEqual([frame.subarray(0, 6), frame.subarray(6, 12)], [GUEST_MAC, MMDS_MAC]);
  const ip = frame.subarray(14);
  assert.deepEqual([ip[8], ip[9], ip.subarray(12, 16), ip.subarray(16, 20)], [1, 6, SERVICE, GUEST]);
  assert.equal(checksum(ip.subarray(0, 20), 0), 0);
  const tcp = ip.subarray(20);
  const pseudo = [12, 14, 16, 18].reduce((sum, at) => sum + ip.readUInt16BE(at), 6 + tcp.length);
  assert.equal(checksum(tcp, pseudo), 0);
  return {
    seq: tcp.readUInt32BE(4),
    ack: tcp.readUInt32BE(8),
    flags: tcp[13] ?? 0,
    window: tcp.readUInt16BE(14),
    payload: tcp.subarray(((tcp[12] ?? 0) >> 4) * 4),
  };
}

const REQUEST = 'GET / HTTP/1.1\r\n\r\n';
const text = (segments: Segment[]) => Buffer.concat(segments.map(({ payload }) => payload)).toString();

describe('its network', () => {
  it('answers ARP for its own address only, and leaves other frames alone', () => {
    const guest = new Guest();
    const request = Buffer.alloc(60);
    Buffer.from('ffffffffffff', 'hex').copy(request, 0);
    GUEST_MAC.copy(request, 6);
    Buffer.from('08060001080006040001', 'hex').copy(request, 12);
    GUEST_MAC.copy(request, 22);
    GUEST.copy(request, 28);
    SERVICE.copy(request, 38);
    assert.ok(guest.stack.receive(request));
    const reply = guest.frames[0] ?? NONE;
    assert.equal(reply.subarray(12, 22).toString('hex'), '08060001080006040002');
    assert.deepEqual([reply.subarray(22, 28), reply.subarray(28, 32)], [MMDS_MAC, SERVICE]);
    assert.deepEqual([reply.subarray(32, 38), reply.subarray(38, 42)], [GUEST_MAC, GUEST]);
    request[41] = 253;
    assert.ok(!guest.stack.receive(request));
    assert.ok(!guest.stack.receive(Buffer.alloc(60)));
    assert.ok(!guest.stack.receive(NONE));
  });

  it('serves requests on one connection until the guest ends it', () => {
    const heads: string[] = [];
    const guest = new Guest((head) => {
      heads.push(head.toString());
      return Buffer.from(`answer ${heads.length}`);
    });
    guest.connect();
    assert.equal(text(guest.send(FLAG.ack, REQUEST.slice(0, 7))), '');
    assert.equal(text(guest.send(FLAG.ack | FLAG.psh, REQUEST.slice(7))), 'answer 1');
    guest.ack = (guest.ack + 8) >>> 0;
    assert.equal(text(guest.send(FLAG.ack | FLAG.psh, REQUEST)), 'answer 2');
    assert.deepEqual(heads, [REQUEST, REQUEST]);
    guest.ack = (guest.ack + 8) >>> 0;
    const [end] = guest.send(FLAG.fin | FLAG.ack);
    assert.equal(end?.ack, guest.seq);
    const last = guest.received();
    assert.deepEqual(last, []);
    guest.ack = (guest.ack + 1) >>> 0;
    guest.send(FLAG.ack);
    assert.deepEqual([guest.counted.connections_created, guest.counted.connections_destroyed], [1, 1]);
  });

  it('sends no more than the window and the segment size the guest gave', () => {
    const guest = new Guest(() => Buffer.from('x'.repeat(250)));
    guest.connect({ window: 150, mss: 100 });
    const first = guest.send(FLAG.ack, REQUEST, { window: 150 });
    assert.deepEqual(
      first.map(({ payload }) => payload.length),
      [100, 50],
    );
    guest.ack = (guest.ack + 150) >>> 0;
    assert.deepEqual(
      guest.send(FLAG.ack, NONE, { window: 1000 }).map(({ payload }) => payload.length),
      [100],
    );
  });

  it('repeats what the guest did not acknowledge, and gives up at last', (t) => {
    mock.timers.enable({ apis: ['setTimeout'] });
    t.after(() => mock.timers.reset());
    const guest = new Guest(() => Buffer.from('answer'));
    guest.connect();
    assert.equal(text(guest.send(FLAG.ack, REQUEST)), 'answer');
    mock.timers.tick(1200);
    assert.equal(text(guest.received()), 'answer');
    for (let i = 0; i < 20; i++) mock.timers.tick(1200);
    assert.equal(guest.counted.connections_destroyed, 1);
  });

  it('sends a few segments at a time, however small, and all of them in the end', () => {
    const document = Buffer.alloc(51_200, 'metadata ');
    const guest = new Guest(() => document);
    const options = { window: 65_535, mss: 100 };
    guest.connect(options);
    let received = '';
    let segments = guest.send(FLAG.ack, REQUEST, options);
    while (segments.length > 0) {
      assert.ok(segments.length <= 32, `${segments.length} at a time`);
      received += text(segments);
      guest.ack = (guest.ack + text(segments).length) >>> 0;
      segments = guest.send(FLAG.ack, NONE, options);
    }
    assert.equal(received, document.toString());
    guest.stack.close();
  });

  it('repeats one segment after a pause, and goes on from what the guest has by then', (t) => {
    mock.timers.enable({ apis: ['setTimeout'] });
    t.after(() => mock.timers.reset());
    const guest = new Guest(() => Buffer.alloc(10_000, 'x'));
    guest.connect({ mss: 1000 });
    assert.equal(guest.send(FLAG.ack, REQUEST).length, 10);
    mock.timers.tick(1200);
    assert.equal(text(guest.received()).length, 1000);
    const before = guest.ack;
    // nothing more before it is known to arrive
    assert.deepEqual(guest.send(FLAG.ack, REQUEST.slice(0, 3)), []);
    // what is said meanwhile does not look like something of before, which would be dropped
    guest.seq += 5;
    assert.deepEqual(
      guest.send(FLAG.ack, 'later').map(({ seq }) => (seq - before) >>> 0),
      [10_000],
    );
    guest.seq -= 10;
    mock.timers.tick(1200);
    assert.equal(text(guest.received()).length, 1000);
    // only the first one was lost
    guest.ack = (guest.ack + 10_000) >>> 0;
    assert.deepEqual(guest.send(FLAG.ack), []);
    for (let i = 0; i < 20; i++) mock.timers.tick(1200);
    assert.deepEqual([guest.received(), guest.counted.connections_destroyed], [[], undefined]);
    guest.stack.close();
  });

  it('takes no call with segments smaller than Firecracker’s smallest', () => {
    const guest = new Guest();
    assert.deepEqual(guest.send(FLAG.syn, NONE, { mss: 99 }), []);
    assert.equal(guest.counted.connections_created, undefined);
    guest.port += 1;
    guest.connect({ mss: 100 });
    guest.stack.close();
  });

  it('takes segments in order only, and says where it is', () => {
    const guest = new Guest(() => Buffer.from('answer'));
    guest.connect();
    const expected = guest.seq;
    guest.seq += 5;
    assert.deepEqual(
      guest.send(FLAG.ack, 'later').map(({ ack }) => ack),
      [expected],
    );
    guest.seq = expected;
    assert.equal(text(guest.send(FLAG.ack, REQUEST)), 'answer');
  });

  it('resets what is no connection, no request, or on another port', () => {
    const guest = new Guest();
    guest.ack = 77;
    const stray = guest.send(FLAG.ack, 'hello');
    assert.deepEqual([stray[0]?.flags, stray[0]?.seq], [FLAG.rst, 77]);
    const refused = guest.send(FLAG.syn, NONE, { toPort: 81 });
    assert.deepEqual([refused[0]?.flags, refused[0]?.ack], [FLAG.rst | FLAG.ack, guest.seq]);
    guest.connect();
    const tooLong = guest.send(FLAG.ack, 'y'.repeat(2600));
    assert.ok(tooLong.some(({ flags }) => flags & FLAG.rst));
    assert.equal(guest.counted.connections_destroyed, 1);
  });

  it('survives whatever a guest sends to its address', () => {
    const { api } = guestApi();
    const guest = new Guest((head) => api.answer(head));
    const anyFrame = fc.tuple(fc.constantFrom(0x0800, 0x0806), fc.uint8Array({ minLength: 20, maxLength: 120 }));
    fc.assert(
      fc.property(anyFrame, ([type, content]) => {
        const frame = Buffer.concat([Buffer.alloc(12), Buffer.from([type >> 8, type & 0xff]), content]);
        SERVICE.copy(frame, type === 0x0800 ? 30 : 38);
        guest.stack.receive(frame);
      }),
      { numRuns: 2000 },
    );
    guest.connect();
    const anySegment = fc.record({
      seq: fc.constantFrom(-3, 0, 0, 0, 2),
      ack: fc.integer({ min: -5, max: 400 }),
      flags: fc.nat({ max: 63 }),
      window: fc.nat({ max: 65_535 }),
      payload: fc.constantFrom('', REQUEST, 'GET /', '\r\n\r\n', 'PUT x y\r\n:\r\n\r\n'),
    });
    fc.assert(
      fc.property(fc.array(anySegment, { maxLength: 20 }), (segments) => {
        guest.port += 1;
        guest.connect();
        const [seq, ack] = [guest.seq, guest.ack];
        for (const segment of segments) {
          guest.seq = (seq + segment.seq) >>> 0;
          guest.ack = (ack + segment.ack) >>> 0;
          for (const { payload } of guest.send(segment.flags, segment.payload, { window: segment.window })) {
            assert.ok(payload.length <= 1460);
          }
        }
        guest.stack.close();
      }),
    );
  });

  it('has room for thirty connections', () => {
    const guest = new Guest();
    for (let i = 0; i < 30; i++) {
      guest.port += 1;
      guest.connect();
    }
    guest.port += 1;
    assert.equal(guest.send(FLAG.syn)[0]?.flags, FLAG.rst | FLAG.ack);
    guest.stack.close();
    assert.equal(guest.send(FLAG.syn)[0]?.flags, FLAG.syn | FLAG.ack);
  });
});
