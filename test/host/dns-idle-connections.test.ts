/** Ten thousand clients that connect and say nothing. */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { DnsServer } from '../../src/dns/server.ts';
import { askTcp, askUdp } from '../dns/support/clients.ts';
import { exampleZone, query } from '../dns/support/packets.ts';

const CLIENTS = 10_000;

/** Every connection is a file descriptor at both ends, so the ends are in two processes. */
const fileLimit = Number(
  /^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Number.POSITIVE_INFINITY,
);
const skip = fileLimit < CLIENTS + 500 ? `a process may open only ${fileLimit} files here` : false;

async function openIdle(t: TestContext, port: number): Promise<ChildProcess> {
  const child = fork(new URL('../dns/support/idle-clients.ts', import.meta.url), [String(port), String(CLIENTS)]);
  t.after(() => child.kill('SIGKILL'));
  await once(child, 'message');
  return child;
}

async function closedAt(child: ChildProcess): Promise<number> {
  child.send('count');
  const [message] = (await once(child, 'message')) as [{ closed: number }];
  return message.closed;
}

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `${what}: not within 10 s`);
    await delay(20);
  }
}

describe('ten thousand idle TCP connections', { skip }, () => {
  it('cost no more than the limit of connections, and nobody else notices', async (t) => {
    await using server = new DnsServer({ zone: exampleZone(), address: '127.0.0.1', port: 0 });
    await server.start();
    const child = await openIdle(t, server.status.port);
    assert.ok(await askUdp(server.status, query({ name: 'web.vm' })));
    assert.equal((await askTcp(server.status, query({ name: 'web.vm' }))).answers?.length, 1);
    assert.ok(server.status.tcpConnections <= 256);
    await until('the others are closed', async () => (await closedAt(child)) >= CLIENTS - 257);
  });

  it('are all held where the limit allows it, and cost little each', async (t) => {
    const options = { address: '127.0.0.1', port: 0, maxConnections: 2 * CLIENTS, idleMs: 60_000 };
    await using server = new DnsServer({ zone: exampleZone(), ...options });
    await server.start();
    const before = process.memoryUsage();
    const child = await openIdle(t, server.status.port);
    await until('all are held', () => server.status.tcpConnections === CLIENTS);
    const now = process.memoryUsage();
    const each = (now.heapUsed - before.heapUsed + now.external - before.external) / CLIENTS;
    assert.ok(each < 16 * 1024, `${Math.round(each)} bytes each`);
    for (let round = 0; round < 100; round++) assert.ok(await askUdp(server.status, query({ name: 'web.vm' })));
    assert.equal((await askTcp(server.status, query({ name: 'web.vm' }))).answers?.length, 1);
    child.kill('SIGKILL');
    await until('all are gone', () => server.status.tcpConnections === 0);
  });
});
