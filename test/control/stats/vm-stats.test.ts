import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import type { ClientChannel } from 'ssh2';
import { VmStats } from '../../../src/api/stats.ts';
import type { Config } from '../../../src/config/schema.ts';
import type { Guests } from '../../../src/control/host.ts';
import { createGuestUsage } from '../../../src/control/stats/guest-usage.ts';
import { groupByPort } from '../../../src/control/stats/ports.ts';
import { createStatsSampler, type StatsSampler } from '../../../src/control/stats/vm-stats.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import type { SshConnection } from '../../../src/guest/ssh.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createStores } from '../../../src/state/stores.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { identifyProcess } from '../../../src/system/processes.ts';
import { paced } from '../../support/pace.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

const MEMINFO = 'MemTotal: 1000 kB\nMemAvailable: 600 kB\n';

/** Guests that answer every command with this text, after the same pause; counts the questions. */
function guests(text: string, pauseMs = 0): Pick<Guests, 'get'> & { asked: number } {
  const connections = {
    asked: 0,
    async get(): Promise<SshConnection> {
      connections.asked += 1;
      return {
        closed: false,
        onClose: () => {},
        [Symbol.asyncDispose]: async () => {},
        async exec() {
          const channel = new PassThrough({ autoDestroy: false });
          setTimeout(() => channel.end(text), pauseMs);
          channel.once('end', () => channel.emit('close', 0));
          // what is asked of a channel here, a PassThrough and these members do
          return Object.assign(channel, { stderr: new PassThrough(), close: () => {} }) as unknown as ClientChannel;
        },
      };
    },
  };
  return connections;
}

interface Bench {
  sampler: StatsSampler;
  vm: VmRecord;
  connections: ReturnType<typeof guests>;
}

/** A VM whose VMM is a process of this test. */
async function bench(t: TestContext, script: string, changes: Partial<VmRecord> = {}): Promise<Bench> {
  const store = await tempDir(t);
  const vm = sampleVm({ phase: 'running', startedAt: new Date(Date.now() - 5000).toISOString(), ...changes });
  const stores = createStores(openDatabase(':memory:'));
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const identity = await identifyProcess(child.pid ?? 0);
  assert.ok(identity);
  stores.ledger.record(vm.id, { kind: 'vmm', name: '/run/x.sock', identity });
  const files = vmFiles(store, vm.id);
  await mkdir(files.directory, { recursive: true });
  await writeFile(files.rootDisk, Buffer.alloc(64 * 1024, 1));
  await truncate(files.rootDisk, 2 ** 30);
  const connections = guests(MEMINFO);
  // of the configuration and the connections, nothing else is looked at
  const host = { config: { paths: { store } } as Config, stores, now: () => new Date() };
  const health = { silent: new Set<string>(), emulatedMeanwhile: new Set<string>(), processes: new Map() };
  const sampler = createStatsSampler({ ...host, health, guests: connections as unknown as Guests });
  return { sampler, vm, connections };
}

describe('a sample of a VM', () => {
  it('has the processor, memory and disks of a VMM that works', async (t) => {
    const { sampler, vm } = await bench(t, 'console.log(1); for (;;);');
    const [first] = await sampler.sample([vm]);
    assert.ok(first);
    assert.deepEqual(VmStats.parse(first), first);
    assert.ok(first.cpuPercent !== null && first.cpuPercent >= 0);
    // on a busy machine it may get no turn for a moment
    let most = first.cpuPercent;
    for (let look = 0; look < 40 && most < 5; look++) {
      await new Promise((resolve) => setTimeout(resolve, 260));
      most = Math.max(most, (await sampler.sample([vm]))[0]?.cpuPercent ?? 0);
    }
    assert.ok(most >= 5, `${most} %`);
    assert.ok(first.rssBytes !== null && first.rssBytes > 10 * 2 ** 20);
    assert.ok(first.threads !== null && first.threads > 1);
    assert.ok(first.uptimeMs !== null && first.uptimeMs >= 5000);
    assert.equal(first.memoryBytes, 512 * 2 ** 20);
    assert.deepEqual([first.guestUsedBytes, first.guestTotalBytes], [400 * 1024, 1000 * 1024]);
    assert.equal(first.diskBytes, 2 ** 30);
    assert.ok(first.diskAllocatedBytes >= 64 * 1024 && first.diskAllocatedBytes < 2 ** 20);
    const [second] = await sampler.sample([vm]);
    assert.ok((second?.cpuMs ?? 0) >= (first.cpuMs ?? 0));
  });

  it('shows an idle VMM as idle', async (t) => {
    const { sampler, vm } = await bench(t, 'console.log(1); setInterval(() => {}, 10_000)');
    await sampler.sample([vm]); // its start counts as work
    await new Promise((resolve) => setTimeout(resolve, 600));
    const [stats] = await sampler.sample([vm]);
    assert.ok(stats?.cpuPercent !== null && (stats?.cpuPercent ?? 100) < 20, `${stats?.cpuPercent} %`);
  });

  it('looks twice only when nobody has looked lately', async (t) => {
    const { sampler, vm } = await bench(t, 'console.log(1); setInterval(() => {}, 10_000)');
    const time = async () => {
      const began = performance.now();
      const [stats] = await sampler.sample([vm]);
      return { ms: performance.now() - began, percent: stats?.cpuPercent };
    };
    const [first, atOnce] = [await time(), await time()];
    assert.ok(first.ms > 240, `${first.ms} ms`);
    assert.equal(atOnce.percent, first.percent, 'too soon for a new difference: what was found holds');
    assert.ok(atOnce.ms < first.ms, `${atOnce.ms} ms`);
  });

  it('knows nothing of a VM that is stopped, or whose number now is another process’s', async (t) => {
    const { sampler, vm, connections } = await bench(t, 'console.log(1); for (;;);');
    const stopped = { ...vm, id: '00000001', phase: 'stopped' as const, startedAt: null };
    const [stats] = await sampler.sample([stopped]);
    assert.ok(stats);
    const unknown = Object.entries(stats).filter(([, value]) => value === null);
    assert.deepEqual(
      unknown.map(([name]) => name),
      [
        ...['problem', 'uptimeMs', 'cpuPercent', 'cpuMs', 'threads', 'rssBytes', 'guestUsedBytes', 'guestTotalBytes'],
        ...['suspendedBytes', 'diskReadBytes', 'diskWrittenBytes', 'netReceivedBytes', 'netSentBytes'],
      ],
    );
    assert.equal(connections.asked, 0, 'a stopped guest is not asked');
  });

  it('is called off when the client leaves', async (t) => {
    const { sampler, vm } = await bench(t, 'console.log(1); for (;;);');
    await assert.rejects(sampler.sample([vm], AbortSignal.timeout(20)), { code: 'cancelled' });
  });
});

describe('memory as the guest sees it', () => {
  const running = sampleVm({ phase: 'running', startedAt: '2026-01-01T00:00:00.000Z' });

  it('is asked once for all who want to know within seconds', async () => {
    const connections = guests(MEMINFO);
    const usage = createGuestUsage(connections);
    const answers = await Promise.all([usage.memory(running), usage.memory(running)]);
    const known = await usage.memory(running);
    assert.deepEqual(known, { totalBytes: 1000 * 1024, usedBytes: 400 * 1024 });
    assert.deepEqual([answers[0], answers[1]], [known, known]);
    assert.equal(connections.asked, 1);
    await usage.memory({ ...running, startedAt: '2026-01-01T00:01:00.000Z' });
    assert.equal(connections.asked, 2, 'another run is another guest');
  });

  it('is not waited for long, and is there for the next who asks', async () => {
    const usage = createGuestUsage(guests(MEMINFO, 1800));
    const began = performance.now();
    assert.equal(await usage.memory(running), null);
    assert.ok(performance.now() - began < paced(1750));
    await new Promise((resolve) => setTimeout(resolve, 600));
    assert.ok(await usage.memory(running));
  });

  it('is not known of a guest that talks nonsense or lets nobody in, which is then left alone', async () => {
    const connections = guests('I am no meminfo');
    const usage = createGuestUsage(connections);
    assert.deepEqual([await usage.memory(running), await usage.memory(running)], [null, null]);
    assert.equal(connections.asked, 1);
    const closed = createGuestUsage({ get: () => Promise.reject(new Error('no')) });
    assert.equal(await closed.memory(running), null);
  });
});

describe('ports of a guest', () => {
  const sshd = { name: 'sshd', pid: 1 };
  const nginx = { name: 'nginx', pid: 7 };

  it('are one entry each, with an address where the network leads to them', () => {
    const listeners = [
      { address: '127.0.0.1', port: 5432, processes: [] },
      { address: '0.0.0.0', port: 22, processes: [sshd] },
      { address: '::', port: 22, processes: [sshd] },
      { address: '127.0.0.1', port: 80, processes: [nginx] },
      { address: '*', port: 80, processes: [nginx] },
      { address: '172.17.0.1', port: 2375, processes: [] },
    ];
    assert.deepEqual(groupByPort(listeners, '172.30.0.2', 'web.vm'), [
      { port: 22, addresses: ['0.0.0.0', '::'], reach: 'network', exposed: false, processes: [sshd], url: null },
      {
        port: 80,
        addresses: ['127.0.0.1', '*'],
        reach: 'network',
        exposed: false,
        processes: [nginx],
        url: 'http://web.vm:80',
      },
      { port: 2375, addresses: ['172.17.0.1'], reach: 'other', exposed: false, processes: [], url: null },
      { port: 5432, addresses: ['127.0.0.1'], reach: 'loopback', exposed: false, processes: [], url: null },
    ]);
  });

  it('are no more than anybody reads, however many a guest claims', () => {
    const many = Array.from({ length: 60_000 }, (_, index) => ({ address: '*', port: index + 1, processes: [] }));
    assert.equal(groupByPort(many, '172.30.0.2', 'web.vm').length, 1000);
  });
});
