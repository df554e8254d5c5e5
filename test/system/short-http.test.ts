import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createServer as createPlainServer } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { plainRequest } from '../../src/system/short-http.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('plainRequest', () => {
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
    const { status, headers, text } = await plainRequest({ socketPath, method: 'PUT', path: '/x?y=1', body: { a: 1 } });
    assert.deepEqual([status, headers.get('x-seen')], [200, '{"a":1}']);
    assert.equal(text, `${answer}end`);
  });

  const cut: [string, string][] = [
    ['nothing', ''],
    ['half a head', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n'],
    ['half a body', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab'],
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
      await assert.rejects(plainRequest({ socketPath, method: 'GET', path: '/' }), { code: /^(ECONNRESET|EPIPE)$/ });
    });
  }

  it('ends when it is called off', async (t) => {
    const socketPath = join(await tempDir(t), 's');
    await listening(t, createPlainServer(), socketPath);
    const abort = new AbortController();
    const request = plainRequest({ socketPath, method: 'GET', path: '/', signal: abort.signal });
    abort.abort();
    await assert.rejects(request, { name: 'AbortError' });
  });
});

async function listening(t: TestContext, server: ReturnType<typeof createPlainServer>, path: string): Promise<void> {
  server.listen(path);
  await once(server, 'listening');
  t.after(() => server.close());
}
