import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createServer as createPlainServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { ask, askStream, askUpgrade, openConnection } from '../../src/system/short-http.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('a question', () => {
  it('sends a body and reads an answer of any size, whatever its characters', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const answer = 'ü€😀'.repeat(200_000);
    const server = createServer(async (request, response) => {
      assert.equal(request.headers['content-type'], 'application/json');
      let body = '';
      for await (const chunk of request) body += chunk;
      response.setHeader('X-Seen', body);
      // as a stream: to a client of HTTP/1.1 it would go in chunks
      response.write(answer);
      response.end('end');
    });
    await listening(t, server, socketPath);
    const { status, headers, text } = await ask(socketPath, { method: 'PUT', path: '/x?y=1', body: { a: 1 } });
    assert.deepEqual([status, headers.get('x-seen')], [200, '{"a":1}']);
    assert.equal(text, `${answer}end`);
  });

  const cut: [string, string][] = [
    ['nothing', ''],
    ['half a head', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n'],
    ['half a body', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab'],
    ['a length that is no number', 'HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n'],
    ['pieces, which were not asked for', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n\r\n'],
  ];
  for (const [what, bytes] of cut) {
    it(`takes ${what} for no answer`, async (t) => {
      const socketPath = join(await tempDir(t), 's');
      await listening(
        t,
        createPlainServer((socket) => void socket.on('error', () => {}).end(bytes)),
        socketPath,
      );
      await assert.rejects(ask(socketPath, { method: 'GET', path: '/' }), { code: /^(ECONNRESET|EPIPE)$/ });
    });
  }

  it('ends when it is called off', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    await listening(t, createPlainServer(), socketPath);
    const abort = new AbortController();
    const request = ask(socketPath, { method: 'GET', path: '/', signal: abort.signal });
    abort.abort();
    await assert.rejects(request, { name: 'AbortError' });
  });

  it('is given up after its limit', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    await listening(t, createPlainServer(), socketPath);
    await assert.rejects(ask(socketPath, { method: 'GET', path: '/', timeoutMs: 20 }), {
      code: 'ETIMEDOUT',
      message: 'no answer within 20 ms',
    });
  });
});

describe('a kept connection', () => {
  it('asks one question after another, and again on a new one when the peer has closed it', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const connections: Socket[] = [];
    let open = 0;
    const server = createServer((request, response) => {
      assert.equal(++open, 1, 'two questions at the same time');
      setImmediate(() => {
        open--;
        response.end(request.url);
      });
    });
    server.on('connection', (socket: Socket) => connections.push(socket));
    await listening(t, server, socketPath);
    using connection = openConnection(socketPath);
    const paths = Array.from({ length: 20 }, (_, n) => `/${n}`);
    const answers = await Promise.all(paths.map((path) => connection.ask({ method: 'GET', path })));
    assert.deepEqual(
      answers.map(({ text }) => text),
      paths,
    );
    assert.equal(connections.length, 1);
    connections[0]?.end();
    await once(connections[0] as Socket, 'close');
    assert.equal((await connection.ask({ method: 'GET', path: '/again' })).text, '/again');
    assert.equal(connections.length, 2);
  });

  it('is another one after a question that had no answer in time', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    await listening(
      t,
      createServer((request, response) => void (request.url === '/late' || response.end('now'))),
      socketPath,
    );
    using connection = openConnection(socketPath);
    const late = connection.ask({ method: 'GET', path: '/late', timeoutMs: 20 });
    const next = connection.ask({ method: 'GET', path: '/next' });
    await assert.rejects(late, { code: 'ETIMEDOUT' });
    assert.equal((await next).text, 'now');
  });
});

describe('a change of protocol', () => {
  it('hands over the connection with everything that came after the answer', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const server = createServer();
    server.on('upgrade', (request, socket) => {
      const { upgrade, connection } = request.headers;
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${upgrade}\r\nConnection: ${connection}\r\n\r\nfirst `,
      );
      socket.on('data', (chunk) => socket.end(chunk));
    });
    await listening(t, server, socketPath);
    const { status, headers, stream } = await askUpgrade(socketPath, { method: 'POST', path: '/x' }, 'echo');
    assert.deepEqual([status, headers.get('upgrade')], [101, 'echo']);
    assert.ok(stream);
    let text = '';
    stream.on('data', (chunk) => {
      text += chunk;
    });
    stream.write('second');
    await once(stream, 'end');
    assert.equal(text, 'first second');
  });

  it('may be refused with an ordinary answer', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const server = createServer((_request, response) => {
      response.writeHead(409, { 'Content-Length': 2 }).end('no');
    });
    await listening(t, server, socketPath);
    const { status, text, stream } = await askUpgrade(socketPath, { method: 'POST', path: '/x' }, 'echo');
    assert.deepEqual([status, text, stream], [409, 'no', undefined]);
  });
});

describe('an answer that is read while it comes', () => {
  it('is that, from the first byte on', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const goOn = Promise.withResolvers<void>();
    const server = createServer(async (_request, response) => {
      response.write('first ');
      await goOn.promise;
      response.end('last');
    });
    await listening(t, server, socketPath);
    const { status, stream } = await askStream(socketPath, { method: 'GET', path: '/x' });
    assert.equal(status, 200);
    assert.ok(stream);
    let text = '';
    for await (const chunk of stream) {
      text += chunk;
      if (text === 'first ') goOn.resolve();
    }
    assert.equal(text, 'first last');
  });

  it('is read as a whole when it is a refusal', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const server = createServer((_request, response) => {
      response.writeHead(404);
      response.write('not ');
      response.end('here');
    });
    await listening(t, server, socketPath);
    const { status, text, stream } = await askStream(socketPath, { method: 'GET', path: '/x' });
    assert.deepEqual([status, text, stream], [404, 'not here', undefined]);
  });

  it('ends when it is called off, before its head and after', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    const server = createServer((request, response) => {
      if (request.url === '/begun') response.write('first ');
    });
    await listening(t, server, socketPath);
    const early = AbortSignal.timeout(20);
    await assert.rejects(askStream(socketPath, { method: 'GET', path: '/silent', signal: early }), {
      name: 'AbortError',
    });
    const stop = new AbortController();
    const { stream } = await askStream(socketPath, { method: 'GET', path: '/begun', signal: stop.signal });
    assert.ok(stream);
    await assert.rejects(
      async () => {
        for await (const _chunk of stream) stop.abort();
      },
      { name: 'AbortError' },
    );
  });
});

async function listening(t: TestContext, server: ReturnType<typeof createPlainServer>, path: string): Promise<void> {
  server.listen(path);
  await once(server, 'listening');
  t.after(() => server.close());
}
