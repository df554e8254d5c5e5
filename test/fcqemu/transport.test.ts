/** What goes over the API socket, byte for byte. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { paced } from '../support/pace.ts';
import { exchange, firecrackerBin, readAnswer, startVmm, type Vmm } from './support/vmm-process.ts';

const cleanups: (() => unknown)[] = [];
let vmm: Vmm;

before(async () => {
  vmm = await startVmm({ after: (fn) => void cleanups.push(fn as () => unknown) });
});
after(async () => {
  for (const cleanup of cleanups) await cleanup();
});

const send = (request: string | Buffer) => exchange(vmm.socket, request);

async function connect(): Promise<Socket> {
  const socket = createConnection(vmm.socket);
  await once(socket, 'connect');
  return socket;
}

function transportError(message: string): string {
  const body = `{ "error": "${message}\nAll previous unanswered requests will be dropped." }`;
  return [
    'HTTP/1.1 400 ',
    'Server: Firecracker API',
    'Connection: keep-alive',
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    '',
    body,
  ].join('\r\n');
}

describe('the API socket', () => {
  it('answers with a status line without reason and a fixed set of headers', async () => {
    const raw = await send('GET /version HTTP/1.1\r\n\r\n');
    const [head, body = ''] = raw.split('\r\n\r\n');
    assert.equal(
      head,
      'HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n' +
        `Content-Type: application/json\r\nContent-Length: ${body.length}`,
    );
  });

  it('sends neither type nor length with 204', async () => {
    const body = '{"vcpu_count":1,"mem_size_mib":128}';
    assert.equal(
      await send(`PUT /machine-config HTTP/1.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`),
      'HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n',
    );
  });

  const malformed: [title: string, request: string, message: string][] = [
    ['another method', 'POST / HTTP/1.1\r\n\r\n', 'Invalid HTTP Method: Unsupported HTTP method.'],
    ['a method in lower case', 'get / HTTP/1.1\r\n\r\n', 'Invalid HTTP Method: Unsupported HTTP method.'],
    ['another version', 'GET / HTTP/2.0\r\n\r\n', 'Invalid HTTP Version: Unsupported HTTP version.'],
    ['an empty target', 'GET  HTTP/1.1\r\n\r\n', 'Invalid URI: Empty URI not allowed.'],
    ['half a request line', 'GET /\r\n\r\n', 'Invalid request.'],
    ['a request line above 1024 bytes', `GET /${'a'.repeat(1100)} HTTP/1.1\r\n\r\n`, 'Invalid request.'],
    [
      'a length that is no number',
      'PUT / HTTP/1.1\r\nContent-Length: many\r\n\r\n',
      'Invalid header. Reason: Invalid value. Key:Content-Length; Value: many',
    ],
    [
      'a header without a colon',
      'GET / HTTP/1.1\r\nfoo\r\n\r\n',
      'Invalid header. Reason: Header is incorrectly formatted. Key: foo',
    ],
    [
      'a refused identity encoding',
      'GET / HTTP/1.1\r\nAccept-Encoding: gzip, identity;q=0\r\n\r\n',
      'Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value: identity;q=0',
    ],
    [
      'a body above the limit',
      'PUT /mmds HTTP/1.1\r\nContent-Length: 51201\r\n\r\n',
      'Request payload with size 51201 is larger than the limit of 51200 allowed by server.',
    ],
  ];
  for (const [title, request, message] of malformed) {
    it(`answers ${title} with its own kind of error`, async () => {
      assert.equal(await send(request), transportError(message));
    });
  }

  it('goes on serving a connection after such an error', async () => {
    const socket = await connect();
    socket.write('POST / HTTP/1.1\r\n\r\n');
    assert.match(await readAnswer(socket), /^HTTP\/1.1 400 /);
    socket.write('GET /version HTTP/1.1\r\n\r\n');
    assert.match(await readAnswer(socket), /^HTTP\/1.1 200 /);
    socket.destroy();
  });

  it('takes a body without Content-Length for none', async () => {
    const raw = await send('PUT /machine-config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n');
    assert.match(raw, /\{"fault_message":"Empty PUT request\."\}$/);
  });

  it('gives leave to clients that ask before sending a body', async () => {
    const socket = await connect();
    const body = '{"vcpu_count":1,"mem_size_mib":128}';
    socket.write(`PUT /machine-config HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n`);
    assert.match(await readAnswer(socket), /^HTTP\/1.1 100 \r\n/);
    socket.write(body);
    assert.match(await readAnswer(socket), /^HTTP\/1.1 204 \r\n/);
    socket.destroy();
  });

  it('reads requests however they are cut, and several on one connection', async () => {
    const socket = await connect();
    const body = '{"vcpu_count":2,"mem_size_mib":128}';
    const request = `PUT /machine-config HTTP/1.1\r\ncontent-length: ${body.length}\r\nX-Other: 1\r\n\r\n${body}`;
    for (const byte of Buffer.from(request)) {
      socket.write(Buffer.from([byte]));
      if (byte === 0x0d) await new Promise(setImmediate);
    }
    assert.match(await readAnswer(socket), /^HTTP\/1.1 204 /);
    socket.write('GET /machine-config HTTP/1.1\r\n\r\n');
    assert.match(await readAnswer(socket), /"vcpu_count":2/);
    socket.destroy();
  });

  it('answers pipelined requests in order', async () => {
    const socket = await connect();
    socket.write('GET /version HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n');
    let text = '';
    for await (const chunk of socket.iterator({ destroyOnReturn: true })) {
      text += (chunk as Buffer).toString('utf8');
      if (text.includes('app_name')) break;
    }
    assert.ok(text.indexOf('firecracker_version') < text.indexOf('app_name'));
  });

  it('answers a client that has closed its sending side', async () => {
    const socket = createConnection({ path: vmm.socket, allowHalfOpen: true });
    await once(socket, 'connect');
    socket.end('GET /version HTTP/1.1\r\n\r\n');
    assert.match(await readAnswer(socket), /firecracker_version/);
    socket.destroy();
  });

  it('accepts an absolute target', async () => {
    assert.match(await send('GET http://localhost/version HTTP/1.1\r\n\r\n'), /firecracker_version/);
    assert.match(await send('GET http://localhost HTTP/1.1\r\n\r\n'), /app_name/);
  });

  it('turns the eleventh connection away', async () => {
    const open = await Promise.all(Array.from({ length: 10 }, connect));
    const eleventh = await connect();
    const answer = await readAnswer(eleventh);
    assert.match(answer, /^HTTP\/1.1 503\b/);
    assert.match(answer, /\{ "error": "Too many open connections" \}$/);
    for (const socket of [...open, eleventh]) socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.match(await send('GET / HTTP/1.1\r\n\r\n'), /^HTTP\/1.1 200 /);
  });

  it('judges bodies by --http-api-max-payload-size', async (t) => {
    const small = await startVmm(t, { args: ['--http-api-max-payload-size', '250'] });
    assert.equal(
      await exchange(small.socket, 'PUT /mmds/config HTTP/1.1\r\nContent-Length: 260\r\n\r\nsome body'),
      transportError('Request payload with size 260 is larger than the limit of 250 allowed by server.'),
    );
  });

  it('keeps the socket quick', { skip: firecrackerBin ? 'about fcqemu itself' : false }, async () => {
    const begin = performance.now();
    for (let i = 0; i < 50; i++) await vmm.get('/');
    assert.ok(performance.now() - begin < paced(2500), '50 requests took longer than 2.5 s');
  });
});
