/** The daemon itself, without a VM: how it starts, what it refuses, how it ends. */
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { contract } from '../../src/api/contract.ts';
import { ask as askDaemon } from '../../src/system/short-http.ts';
import { daemonSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(60_000) };

describe('bangerd', { skip: daemonSkip() }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create();
  });
  after(() => host?.[Symbol.asyncDispose]());

  it('is started by the first command that needs it, once, however many come', LIMIT, async () => {
    await host.fails(3, ['daemon', 'status'], [/No daemon answers/, /banger daemon start/]);
    assert.equal(await host.ok('ls', '--names'), '');
    assert.match((await host.run(['daemon', 'stop'])).stdout, /No daemon runs/);
    const lists = await Promise.all(Array.from({ length: 4 }, () => host.run(['ls'])));
    // a slow host is told so
    const said = lists.map(({ status, stderr }) => [status, stderr.replace(/^The daemon is starting; .*\n/, '')]);
    for (const each of said) assert.deepEqual(each, [0, 'No VMs yet. Make one with: banger run NAME\n']);
    const running = async () => (await host.processes()).filter(({ command }) => command.endsWith('daemon run'));
    // those that came second leave by themselves
    await until('one daemon is left', async () => (await running()).length === 1, 10_000);
    const daemons = await running();
    assert.match(await host.ok('daemon', 'status'), new RegExp(`process +${daemons[0]?.pid}\\b`));
  });

  it('keeps its socket from other users', LIMIT, async () => {
    const { pid } = await host.daemon();
    assert.equal((await stat(dirname(host.socket))).mode & 0o777, 0o700);
    assert.equal((await stat(`${host.home}/state`)).mode & 0o077, 0);
    assert.match(await host.ok('daemon', 'start'), new RegExp(`process ${pid}`));
  });

  it('refuses to run twice in one place', LIMIT, async () => {
    const { pid } = await host.daemon();
    await host.fails(5, ['daemon', 'run'], [/Another bangerd serves .*state already/, /banger daemon status/]);
    assert.equal((await host.daemon()).pid, pid);
    assert.equal((await stat(host.socket)).isSocket(), true);
  });

  it('starts over a socket and an operation that a killed one left', LIMIT, async () => {
    await host.daemon();
    await host.killDaemon();
    assert.equal((await stat(host.socket)).isSocket(), true);
    await host.fails(3, ['daemon', 'status'], [/No daemon answers/]);
    await host.daemon();
    await host.ok('daemon', 'stop');
    await assert.rejects(stat(host.socket), /ENOENT/);
    await writeFile(host.socket, 'no socket at all');
    await host.daemon();
  });

  it('ends at SIGTERM, and says why when it cannot start', LIMIT, async () => {
    const { pid } = await host.daemon();
    process.kill(pid, 'SIGTERM');
    await until('it has ended', async () => (await host.processes()).length === 0, 10_000);
    await assert.rejects(stat(host.socket), /ENOENT/);
    const env = { BANGER_NETWORK_POOL: 'somewhere' };
    await host.fails(3, ['ls'], [/The daemon ended with status 2/, /somewhere/, /bangerd\.log/], { env });
    const long = `/tmp/${'x'.repeat(100)}`;
    await host.fails(3, ['ls'], [/longer than the 107 bytes/, /BANGER_HOME/], { env: { BANGER_PATHS_RUN: long } });
  });

  it('says what is wrong with its database, and starts again when that is gone', LIMIT, async () => {
    await host.run(['daemon', 'stop']);
    const file = `${host.home}/state/banger.db`;
    const good = await readFile(file);
    await writeFile(file, 'this is no database, whatever its name says'.repeat(100));
    await host.fails(3, ['ls'], [/The database .*banger\.db cannot be opened/]);
    await writeFile(file, good);
    await host.daemon();
  });

  it('answers nonsense with a problem, and goes on', LIMIT, async () => {
    await host.daemon();
    const ask = async (method: string, path: string, body?: unknown) => {
      const { status, text } = await askDaemon(host.socket, { method, path, body, timeoutMs: paced(5000) });
      return { status, problem: JSON.parse(text) as { code: string; message: string } };
    };
    const cases: [Awaited<ReturnType<typeof ask>>, number, string][] = [
      [await ask('POST', '/v1/vms', { name: 'web', colour: 'red' }), 400, 'invalid_input'],
      [await ask('PATCH', '/v1/vms'), 404, 'not_found'],
      [await ask('GET', '/v1/vms/nosuch'), 404, 'not_found'],
      [await ask('GET', '/v1/vms/%zz'), 400, 'invalid_input'],
      [await ask('GET', '/v1/operations/nosuch/events'), 404, 'not_found'],
      [await ask('POST', '/v1/vms/nosuch/exec'), 400, 'invalid_input'],
    ];
    for (const [{ status, problem }, wanted, code] of cases) assert.deepEqual([status, problem.code], [wanted, code]);
    const huge =
      'POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n{';
    for (const text of ['\0\u0001\r\n\r\n', 'GET / HTTP/9.9\r\n\r\n', `GET /${'x'.repeat(100_000)}\r\n\r\n`, huge]) {
      assert.match(await talk(text), /^HTTP\/1\.1 4\d\d /);
    }
    assert.equal(await host.ok('ls', '--names'), '');
  });

  it('refuses commands for VMs that are not there, over the upgraded connection too', LIMIT, async () => {
    await host.fails(4, ['exec', 'nosuch', '--', 'true'], [/There is no VM named "nosuch"/, /banger ls/]);
    const upgrade = (path: string, protocol = 'banger-exec') =>
      talk(`POST ${path} HTTP/1.1\r\nHost: banger\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`);
    assert.match(await upgrade('/v1/vms/nosuch/exec'), /^HTTP\/1\.1 404 [\s\S]*no VM named/);
    assert.match(await upgrade('/v1/vms'), /^HTTP\/1\.1 404 /);
    assert.match(await upgrade('/v1/vms/nosuch/exec', 'websocket'), /^HTTP\/1\.1 404 /);
    assert.match(await upgrade('/v1/vms/%zz/exec'), /^HTTP\/1\.1 4\d\d /);
  });

  it('describes every route it has', LIMIT, async () => {
    const { status, text } = await askDaemon(host.socket, { method: 'GET', path: '/v1/openapi.json' });
    assert.equal(status, 200);
    const document = JSON.parse(text) as { openapi: string; paths: Record<string, Record<string, object>> };
    assert.match(document.openapi, /^3\.1/);
    for (const { method, url } of Object.values(contract)) {
      const path = url.replace(/:(\w+)/g, '{$1}');
      assert.ok(document.paths[path]?.[method.toLowerCase()], `${method} ${path}`);
    }
  });

  /** Sends bytes and reads all that comes back until the daemon closes or says nothing more. */
  async function talk(text: string): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>();
    const socket = connect(host.socket);
    let answer = '';
    socket.setTimeout(1000, () => socket.destroy());
    socket.on('data', (chunk) => {
      answer += chunk.toString('utf8');
    });
    socket.on('error', () => {});
    socket.once('close', () => resolve(answer));
    socket.write(text);
    return await promise;
  }
});
