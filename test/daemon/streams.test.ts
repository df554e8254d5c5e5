import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { contract } from '../../src/api/contract.ts';
import type { Event } from '../../src/api/event.ts';
import type { StatsFrame } from '../../src/api/stats.ts';
import { type Client, createClient } from '../../src/client/client.ts';
import { readLines } from '../../src/client/watch.ts';
import { createEvents, type Events } from '../../src/control/events.ts';
import type { Host } from '../../src/control/host.ts';
import { createOperations, type Operations } from '../../src/control/operations.ts';
import type { StatsSampler } from '../../src/control/stats/vm-stats.ts';
import type { Metrics } from '../../src/daemon/metrics.ts';
import { eventHandlers } from '../../src/daemon/routes/events.ts';
import { operationHandlers } from '../../src/daemon/routes/operations.ts';
import { statsHandlers } from '../../src/daemon/routes/stats.ts';
import { createServer, type Handlers } from '../../src/daemon/server.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createOperationStore } from '../../src/state/operations.ts';
import { createStores } from '../../src/state/stores.ts';
import type { VmStore } from '../../src/state/vms.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

interface Daemon {
  client: Client;
  socketPath: string;
  vms: VmStore;
  events: Events;
  operations: Operations;
  /** names sampled, one entry a sample */
  samples: string[];
}

/** A daemon with two VMs that serves only what this test is about, on a real socket. */
async function daemon(t: TestContext): Promise<Daemon> {
  const stores = createStores(openDatabase(':memory:'));
  const { vms } = stores;
  vms.insert(sampleVm());
  vms.insert(sampleVm({ id: '00000002', name: 'db', address: '172.30.0.3' }));
  const events = createEvents(() => new Date());
  const operations = createOperations(createOperationStore(openDatabase(':memory:')), () => new Date());
  const samples: string[] = [];
  const sampler: StatsSampler = {
    async sample(chosen) {
      samples.push(chosen.map(({ name }) => name).join(' '));
      return [];
    },
  };
  // of the host, nothing else is looked at
  const host = { stores, events, operations, now: () => new Date() } as unknown as Host;
  const metrics = { scrape: async () => 'm 1\n' } as Metrics;
  const rest = Object.keys(contract).map((name) => [name, async () => assert.fail(`${name} was called`)]);
  const handlers = {
    ...Object.fromEntries(rest),
    ...statsHandlers(host, sampler, metrics),
    ...eventHandlers(host),
    ...operationHandlers(host),
  };
  const server = createServer(handlers as Handlers, pino({ level: 'silent' }));
  const socketPath = join(await tempDir(t), 'd.sock');
  await server.listen({ path: socketPath });
  t.after(async () => {
    const closed = server.close();
    server.server.closeAllConnections();
    await closed;
  });
  return { client: createClient({ socketPath }), socketPath, vms, events, operations, samples };
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!holds()) {
    assert.ok(performance.now() < deadline, `not within 10 s: ${holds}`);
    await sleep(20);
  }
}

describe('watching what VMs use', () => {
  it('samples while somebody looks, and not a moment longer', async (t) => {
    const { client, samples } = await daemon(t);
    await sleep(50);
    assert.equal(samples.length, 0);
    const leave = new AbortController();
    const frames: StatsFrame[] = [];
    for await (const frame of readLines(client, 'watchStats', { query: { intervalMs: 500 } }, leave.signal)) {
      frames.push(frame);
      if (frames.length === 2) leave.abort();
    }
    assert.deepEqual(samples.slice(0, 2), ['db web', 'db web']);
    const taken = samples.length;
    await sleep(1200);
    assert.equal(samples.length, taken, 'sampling went on after the client had left');
  });

  it('follows those that are named, through a rename, and ends when they are gone', async (t) => {
    const { client, vms, samples } = await daemon(t);
    const query = { names: 'web', intervalMs: 500 };
    let frames = 0;
    for await (const _ of readLines(client, 'watchStats', { query }, new AbortController().signal)) {
      frames += 1;
      if (frames === 1) vms.update(sampleVm().id, { name: 'shop' });
      if (frames === 2) vms.remove(sampleVm().id);
    }
    assert.deepEqual(samples, ['web', 'shop']);
  });

  it('refuses names that do not exist and intervals that are too short', async (t) => {
    const { client, samples } = await daemon(t);
    await assert.rejects(client.call('listStats', { query: { names: 'web,nope' } }), { code: 'not_found' });
    await assert.rejects(client.stream('watchStats', { query: { names: 'nope' } }), { code: 'not_found' });
    await assert.rejects(client.stream('watchStats', { query: { intervalMs: 10 } }), {
      code: 'invalid_input',
      message: /intervalMs/,
    });
    assert.deepEqual(samples, []);
  });
});

describe('following events', () => {
  it('gives what is remembered, then what comes', async (t) => {
    const { client, events } = await daemon(t);
    const publish = (vm: string) => events.publish({ type: 'vm.deleted', vm, id: '5f3a9c01' });
    publish('a');
    const leave = new AbortController();
    const seen: string[] = [];
    for await (const event of readLines(client, 'watchEvents', { query: { follow: true } }, leave.signal)) {
      if (event.type === 'vm.deleted') seen.push(event.vm);
      if (seen.length === 3) leave.abort();
      else publish(`after ${event.seq}`);
    }
    assert.deepEqual(seen, ['a', 'after 1', 'after 2']);
    const query = { since: new Date(Date.now() + 1000).toISOString() };
    assert.deepEqual(await Array.fromAsync(readLines(client, 'watchEvents', { query }, leave.signal)), []);
  });

  it('keeps little for a reader that does not read, and tells it what it missed', { timeout: 60_000 }, async (t) => {
    const { client, events } = await daemon(t);
    const stream = await client.stream('watchEvents', { query: { follow: true } });
    const reason = 'x'.repeat(900);
    const state = { vm: 'web', id: '5f3a9c01', from: 'starting', to: 'failed', reason } as const;
    // 100 MB of events, while the client reads nothing; in turns, so that the server can send what it wants to
    for (let turn = 0; turn < 1000; turn++) {
      for (let count = 0; count < 100; count++) events.publish({ type: 'vm.state', ...state });
      await new Promise((resolve) => setImmediate(resolve));
    }
    let dropped = 0;
    let received = 0;
    let text = '';
    for await (const chunk of stream) {
      const lines = `${text}${chunk}`.split('\n');
      text = lines.pop() ?? '';
      for (const event of lines.map((line) => JSON.parse(line) as Event)) {
        if (event.type === 'dropped') dropped += event.count;
        else received += 1;
      }
      if (dropped + received === 100_000) break;
    }
    assert.equal(dropped + received, 100_000, 'each event was either sent or counted');
    // the ring of events, and what fits into the sockets: whatever else had been kept for it would come now
    assert.ok(received < 15_000, `${received} events of 1 KB were kept for a reader that did not read`);
  });

  it('leaves nothing behind when the client goes away in the middle', async (t) => {
    const { socketPath, events } = await daemon(t);
    for (let round = 0; round < 20; round++) {
      const socket = connect(socketPath);
      socket.write('GET /v1/events?follow=true HTTP/1.1\r\nHost: banger\r\n\r\n');
      await new Promise((resolve) => socket.once('data', resolve));
      socket.destroy();
    }
    await until(() => events.readers() === 0);
  });
});

describe('following an operation', () => {
  it('ends with the client: who has left keeps nobody from cancelling', async (t) => {
    const { client, operations } = await daemon(t);
    const { id } = operations.start({
      kind: 'vm.start',
      target: 'web',
      run: (_, signal) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    });
    const leave = new AbortController();
    const left = await client.stream('operationEvents', { params: { id }, signal: leave.signal });
    left.on('error', () => {});
    const stays = await client.stream('operationEvents', { params: { id } });
    assert.deepEqual(operations.cancel(id), { cancelled: false, watchers: 1 });
    leave.abort();
    await until(() => operations.cancel(id).cancelled);
    assert.match(String(await stays.toArray()), /"state":"cancelled"/);
  });
});

describe('metrics on the socket', () => {
  it('come as Prometheus expects them', async (t) => {
    const { client } = await daemon(t);
    const stream = await client.stream('metrics', {});
    assert.equal(String((await stream.toArray()).join('')), 'm 1\n');
  });
});
