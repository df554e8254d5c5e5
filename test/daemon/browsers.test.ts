import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { pino } from 'pino';
import { contract } from '../../src/api/contract.ts';
import type { Host } from '../../src/control/host.ts';
import { acceptExec } from '../../src/daemon/exec-upgrade.ts';
import { listenForScrapes } from '../../src/daemon/metrics-listener.ts';
import { createServer, type Handlers } from '../../src/daemon/server.ts';
import { freePort } from '../support/free-port.ts';
import { tempDir } from '../support/temp-dir.ts';

type Headers = Record<string, string>;

/** What browsers add to requests of pages, each enough to be refused. */
const PAGES: Headers[] = [
  { host: 'evil.example' },
  { host: 'localhost.evil.example:8000' },
  { origin: 'http://evil.example' },
  { origin: 'null' },
  { 'sec-fetch-site': 'cross-site' },
  { 'sec-fetch-mode': 'no-cors', host: 'localhost:8000' },
  { referer: 'http://localhost:8000/' },
];

/** A daemon's socket, and which of its handlers were reached. */
async function daemon(t: TestContext) {
  const reached: string[] = [];
  const handlers = Object.keys(contract).map((name) => [
    name,
    async () => {
      reached.push(name);
      throw new Error('reached');
    },
  ]);
  const server = createServer(Object.fromEntries(handlers) as Handlers, pino({ level: 'silent' }));
  const get = () => {
    reached.push('exec');
    throw new Error('reached');
  };
  const life = { resume: () => assert.fail('nobody resumes') };
  acceptExec(server, { stores: { vms: { get } } } as unknown as Host, life);
  const socketPath = join(await tempDir(t), 'bangerd.sock');
  await server.listen({ path: socketPath });
  t.after(() => server.close());
  return { socketPath, reached };
}

async function ask(to: object, method: string, path: string, headers: Headers): Promise<number | undefined> {
  const asked = request({ ...to, method, path, headers, agent: false }).end();
  const [response] = await once(asked, 'response');
  response.resume();
  return response.statusCode;
}

const upgrade = { connection: 'Upgrade', upgrade: 'banger-exec' };

describe('a web page that reaches the daemon', () => {
  for (const headers of PAGES) {
    it(`is refused before any handler: ${JSON.stringify(headers)}`, async (t) => {
      const { socketPath, reached } = await daemon(t);
      const asks: [string, string, Headers][] = [
        ['GET', '/v1/vms', headers],
        ['POST', '/v1/vms/web/stop', headers],
        ['POST', '/v1/shutdown', headers],
        ['GET', '/v1/openapi.json', headers],
        ['GET', '/nowhere', headers],
        ['POST', '/v1/vms/web/exec', { ...headers, ...upgrade }],
      ];
      for (const [method, path, all] of asks) assert.equal(await ask({ socketPath }, method, path, all), 400, path);
      assert.deepEqual(reached, []);
      const port = await freePort();
      await using _scrapes = await listenForScrapes(port, { scrape: async () => 'm 1\n' });
      assert.equal(await ask({ host: '127.0.0.1', port }, 'GET', '/metrics', headers), 421);
    });
  }

  it('reaches no route at all, and clients reach every one', async (t) => {
    const { socketPath, reached } = await daemon(t);
    const routes = Object.values(contract).map(({ method, url }) => [method, url.replaceAll(/:\w+/g, 'web')] as const);
    assert.ok(routes.length > 70, `${routes.length} routes`);
    for (const [method, path] of routes) {
      for (const headers of [{ origin: 'http://evil.example' }, { host: 'evil.example' }]) {
        assert.equal(await ask({ socketPath }, method, path, headers), 400, `${method} ${path}`);
      }
    }
    assert.deepEqual(reached, []);
    for (const [method, path] of routes) {
      const status = await ask({ socketPath }, method, path, {});
      // what a client has to say besides is missing
      assert.ok(status === 500 || status === 400, `${method} ${path}: ${status}`);
    }
    assert.ok(reached.length > 50, `${reached.length} handlers`);
  });

  it('is told from clients, by whatever name they call the daemon', async (t) => {
    const { socketPath, reached } = await daemon(t);
    for (const host of ['banger', 'localhost', 'localhost:8000', '127.0.0.1:8000', '[::1]:8000', 'LOCALHOST']) {
      assert.equal(await ask({ socketPath }, 'GET', '/v1/vms', { host }), 500, host);
    }
    assert.equal(await ask({ socketPath }, 'POST', '/v1/vms/web/exec', upgrade), 500);
    assert.deepEqual(new Set(reached), new Set(['listVms', 'exec']));
  });
});
