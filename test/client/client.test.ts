import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ADDRESSES } from '../../src/api/addresses.ts';
import { contract } from '../../src/api/contract.ts';
import { createClient } from '../../src/client/client.ts';
import { BangerError } from '../../src/errors.ts';
import { tempDir } from '../support/temp-dir.ts';
import { fakeDaemon } from './fake-daemon.ts';

describe('the client', () => {
  it('knows every route of the contract by its method and address', () => {
    const expected = Object.entries(contract).map(([name, { method, url }]) => [name, [method, url]]);
    assert.deepEqual(ADDRESSES, Object.fromEntries(expected));
  });

  it('asks for JSON and returns it', async (t) => {
    const { socketPath } = await fakeDaemon(t, { 'GET /v1/vms': { body: [{ name: 'web' }] } });
    assert.deepEqual(await createClient({ socketPath }).call('listVms', {}), [{ name: 'web' }]);
  });

  it('puts names and queries into the address, safely, and the body into the request', async (t) => {
    const { socketPath, requests } = await fakeDaemon(t, {
      'DELETE /v1/vms/a%2Fb?force=true': { body: {} },
      'POST /v1/vms/web/start': { body: {} },
    });
    const client = createClient({ socketPath });
    await client.call('deleteVm', { params: { name: 'a/b' }, query: { force: true } });
    await client.call('startVm', { params: { name: 'web' }, body: { timeoutMs: 5000 } });
    assert.deepEqual(requests, ['DELETE /v1/vms/a%2Fb?force=true', 'POST /v1/vms/web/start {"timeoutMs":5000}']);
  });

  it('turns a problem document into the error the daemon had', async (t) => {
    const problem = { code: 'conflict', message: 'web is running.', hint: 'banger stop web', details: { a: 1 } };
    const { socketPath } = await fakeDaemon(t, { 'GET /v1/vms': { status: 409, body: problem } });
    await assert.rejects(createClient({ socketPath }).call('listVms', {}), (error) => {
      assert.ok(error instanceof BangerError);
      assert.deepEqual(
        [error.code, error.message, error.hint, error.details, error.exitStatus],
        ['conflict', 'web is running.', 'banger stop web', { a: 1 }, 5],
      );
      return true;
    });
  });

  it('says so when something else than a daemon answers', async (t) => {
    const { socketPath } = await fakeDaemon(t, {});
    await assert.rejects(createClient({ socketPath }).call('listVms', {}), {
      code: 'internal',
      message: 'The daemon answered with HTTP status 500 and no explanation.',
    });
  });

  it('reports a missing daemon with the command that starts one', async (t) => {
    const socketPath = join(await tempDir(t), 'none.sock');
    await assert.rejects(createClient({ socketPath }).call('listVms', {}), {
      code: 'daemon_unreachable',
      message: `No daemon answers on ${socketPath}.`,
      hint: 'banger daemon start',
    });
  });

  it('starts a daemon when nobody listens, then asks again', async (t) => {
    const { socketPath: later } = await fakeDaemon(t, { 'GET /v1/vms': { body: [] } });
    let starts = 0;
    const options = { socketPath: join(await tempDir(t), 'none.sock') };
    const client = createClient({
      ...options,
      get socketPath() {
        return starts === 0 ? options.socketPath : later;
      },
      startDaemon: async () => {
        starts += 1;
      },
    });
    assert.deepEqual(await client.call('listVms', {}), []);
    assert.equal(starts, 1);
  });

  it('starts a daemon over the socket file that a killed one left', async (t) => {
    const socketPath = join(await tempDir(t), 'stale.sock');
    // a file nobody listens on refuses connections just as a dead daemon's socket does
    await writeFile(socketPath, '');
    const starts: string[] = [];
    const client = createClient({
      socketPath,
      startDaemon: async () => {
        starts.push('start');
        throw new BangerError('daemon_unreachable', 'it did not come up');
      },
    });
    await assert.rejects(client.call('listVms', {}), { message: 'it did not come up' });
    assert.deepEqual(starts, ['start']);
  });

  it('does not start another daemon when one ends in the middle of an answer', async (t) => {
    const socketPath = join(await tempDir(t), 'd.sock');
    const server = createServer((socket) => socket.once('data', () => socket.destroy()));
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
    t.after(() => server.close());
    const client = createClient({ socketPath, startDaemon: () => assert.fail('started a daemon') });
    await assert.rejects(client.call('listVms', {}), {
      code: 'daemon_unreachable',
      message: 'The daemon ended before it answered.',
    });
  });

  it('notices an answer that breaks off', async (t) => {
    const { socketPath } = await fakeDaemon(t, {
      'GET /v1/vms': (_request, response) => {
        response.writeHead(200, { 'content-length': '100' }).write('[');
        setTimeout(() => response.destroy(), 10);
      },
    });
    await assert.rejects(createClient({ socketPath }).call('listVms', {}), { code: 'daemon_unreachable' });
  });

  it('tells which version answered', async (t) => {
    const { socketPath } = await fakeDaemon(t, { 'GET /v1/vms': { body: [] } });
    const versions: string[] = [];
    await createClient({ socketPath, onVersion: (version) => versions.push(version) }).call('listVms', {});
    assert.deepEqual(versions, ['9.9.9']);
  });

  it('ends a request with its signal', async (t) => {
    const { socketPath } = await fakeDaemon(t, { 'GET /v1/vms': () => {} });
    const signal = AbortSignal.timeout(20);
    await assert.rejects(createClient({ socketPath }).call('listVms', { signal }), { code: 'cancelled' });
  });

  it('waits for no answer for ever: not for a body, a stream, a change of protocol', async (t) => {
    const { socketPath } = await fakeDaemon(t, { 'GET /v1/vms': () => {}, 'GET /v1/events': () => {} }, () => {});
    const client = createClient({ socketPath, answerLimitMs: 50 });
    const silent = { code: 'timeout', message: `The daemon on ${socketPath} accepts connections and does not answer.` };
    await assert.rejects(client.call('listVms', {}), silent);
    await assert.rejects(client.stream('watchEvents', {}), silent);
    await assert.rejects(client.exec('web', { argv: ['true'] }), silent);
  });

  it('gives a question that is to wait the time it asks for', async (t) => {
    const { socketPath } = await fakeDaemon(t, {
      'GET /v1/vms/web/wait?timeoutMs=400': (_request, response) => void setTimeout(() => response.end('{}'), 200),
    });
    const client = createClient({ socketPath, answerLimitMs: 100 });
    await client.call('waitVm', { params: { name: 'web' }, query: { timeoutMs: 400 } });
  });

  it('waits for longer than a timer of Node can', async (t) => {
    const { socketPath } = await fakeDaemon(t, {
      'GET /v1/vms/web/wait?timeoutMs=2592000000': (_request, response) =>
        void setTimeout(() => response.end('{}'), 100),
    });
    const month = 30 * 24 * 3_600_000;
    await createClient({ socketPath }).call('waitVm', { params: { name: 'web' }, query: { timeoutMs: month } });
  });

  it('upgrades an exec connection and sends the request as its first line', async (t) => {
    const { socketPath, requests } = await fakeDaemon(t, {}, (_request, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-exec\r\n\r\nearly ');
      socket.on('data', (chunk: Buffer) => socket.end(`got ${chunk}`));
    });
    const stream = await createClient({ socketPath }).exec('web', { argv: ['true'] });
    let text = '';
    for await (const chunk of stream) text += chunk;
    assert.equal(text, 'early got {"argv":["true"]}\n');
    assert.deepEqual(requests, ['POST /v1/vms/web/exec upgrade banger-exec']);
  });

  it('reports why an exec connection was refused', async (t) => {
    const { socketPath } = await fakeDaemon(t, {}, (_request, socket) => {
      const body = JSON.stringify({ code: 'not_found', message: 'There is no VM named web.' });
      socket.end(`HTTP/1.1 404 Refused\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
    });
    await assert.rejects(createClient({ socketPath }).exec('web', { argv: ['true'] }), {
      code: 'not_found',
      message: 'There is no VM named web.',
    });
  });
});
