import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import type { VmStats } from '../../src/api/stats.ts';
import { createEvents } from '../../src/control/events.ts';
import type { Operations } from '../../src/control/operations.ts';
import { renderMetrics } from '../../src/daemon/exposition.ts';
import { createMetrics, type Metrics } from '../../src/daemon/metrics.ts';
import { listenForScrapes } from '../../src/daemon/metrics-listener.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createStores } from '../../src/state/stores.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { sampleVm } from '../support/sample-vm.ts';

const STATS: VmStats = {
  id: '5f3a9c01',
  name: 'web',
  state: 'running',
  problem: null,
  sampledAt: '2026-01-01T00:00:00.000Z',
  uptimeMs: 61_500,
  vcpus: 2,
  cpuPercent: 12.5,
  cpuMs: 4250,
  threads: 6,
  memoryBytes: 512 * 2 ** 20,
  rssBytes: 200 * 2 ** 20,
  suspendedBytes: null,
  guestUsedBytes: null,
  guestTotalBytes: null,
  diskBytes: 2 ** 34,
  diskAllocatedBytes: 2 ** 28,
  diskReadBytes: 4096,
  diskWrittenBytes: 8192,
  netReceivedBytes: 100,
  netSentBytes: 200,
};

/** Metrics of a daemon with one VM that runs, and how often it was sampled. */
function daemon(stats: readonly VmStats[] = [STATS]) {
  const stores = createStores(openDatabase(':memory:'));
  const { vms } = stores;
  const events = createEvents(() => new Date());
  vms.onChange(events.vmChanged);
  vms.insert(sampleVm({ phase: 'running', bootMs: 6250 }));
  const state = { samples: 0 };
  const sampler = {
    sample: async () => {
      state.samples += 1;
      return [...stats];
    },
  };
  // of the operations, nothing else is looked at
  const operations = { runningCount: () => 3 } as Operations;
  return { vms, events, state, metrics: createMetrics({ stores, events, operations }, sampler) };
}

/** Values by series; fails for anything the format does not allow. */
function parseExposition(text: string): Map<string, number> {
  const series = new Map<string, number>();
  const typed = new Map<string, string>();
  let described: string | undefined;
  assert.ok(text.endsWith('\n'));
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) \S.*$/.exec(line);
    const type = /^# TYPE (\S+) (counter|gauge)$/.exec(line);
    const sample =
      /^([a-zA-Z_:][\w:]*)(\{\w+="(?:[^"\\\n]|\\[\\n"])*"(?:,\w+="(?:[^"\\\n]|\\[\\n"])*")*\})? (\S+)$/.exec(line);
    if (help?.[1]) {
      assert.ok(!typed.has(help[1]), `${help[1]} stands twice`);
      described = help[1];
    } else if (type?.[1]) {
      assert.equal(type[1], described, 'help and type go together');
      assert.equal(type[2] === 'counter', type[1].endsWith('_total'), `${type[1]} is named as its type`);
      typed.set(type[1], type[2] ?? '');
    } else {
      assert.ok(sample?.[1] && typed.has(sample[1]) && sample[1] === described, `not in the format: ${line}`);
      const key = `${sample[1]}${sample[2] ?? ''}`;
      assert.ok(!series.has(key), `${key} stands twice`);
      assert.ok(sample[3] !== '' && !Number.isNaN(Number(sample[3])), line);
      series.set(key, Number(sample[3]));
    }
  }
  return series;
}

describe('metrics', () => {
  it('tell of VMs what is known of them, in base units', async () => {
    const series = parseExposition(await daemon().metrics.scrape());
    const expected: [string, number][] = [
      ['banger_vms{state="running"}', 1],
      ['banger_vms{state="failed"}', 0],
      ['banger_vm_cpu_seconds_total{vm="web"}', 4.25],
      ['banger_vm_uptime_seconds{vm="web"}', 61.5],
      ['banger_vm_resident_memory_bytes{vm="web"}', 200 * 2 ** 20],
      ['banger_vm_disk_allocated_bytes{vm="web"}', 2 ** 28],
      ['banger_vm_disk_written_bytes_total{vm="web"}', 8192],
      ['banger_vm_network_sent_bytes_total{vm="web"}', 200],
      ['banger_vm_last_boot_seconds{vm="web"}', 6.25],
      ['banger_operations_running', 3],
    ];
    for (const [name, value] of expected) assert.equal(series.get(name), value, name);
    assert.ok(![...series.keys()].some((name) => name.includes('guest_used')), 'what is not known has no sample');
    assert.ok((series.get('banger_daemon_resident_memory_bytes') ?? 0) > 2 ** 20);
    assert.ok((series.get('banger_daemon_event_loop_lag_seconds') ?? -1) >= 0);
  });

  it('count boots and operations as they end', async () => {
    const { vms, events, metrics } = daemon();
    const { id } = sampleVm();
    for (const phase of ['starting', 'running', 'stopped', 'starting', 'failed', 'starting', 'stopped'] as const) {
      vms.update(id, { phase });
    }
    const ended = { operation: 'a1', kind: 'vm.start', target: 'web', durationMs: 5, error: null };
    events.publish({ type: 'operation.begun', operation: 'a1', kind: 'vm.start', target: 'web' });
    for (const state of ['succeeded', 'succeeded', 'failed'] as const) {
      events.publish({ type: 'operation.ended', ...ended, state });
    }
    const series = parseExposition(await metrics.scrape());
    assert.equal(series.get('banger_vm_boots_total{result="succeeded"}'), 1);
    assert.equal(series.get('banger_vm_boots_total{result="failed"}'), 1);
    assert.equal(series.get('banger_operations_total{kind="vm.start",state="succeeded"}'), 2);
    assert.equal(series.get('banger_operations_total{kind="vm.start",state="failed"}'), 1);
  });

  it('sample nothing until somebody scrapes, and once for two who scrape together', async () => {
    const { state, metrics } = daemon();
    assert.equal(state.samples, 0);
    const [one, other] = await Promise.all([metrics.scrape(), metrics.scrape()]);
    assert.deepEqual([one === other, state.samples], [true, 1]);
    await metrics.scrape();
    assert.equal(state.samples, 2);
  });

  it('are accepted by promtool', { skip: lacking('promtool') }, async () => {
    const text = await daemon().metrics.scrape();
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
    assert.equal(status, 0, `${stdout}${stderr}`);
  });
});

describe('the exposition format', () => {
  it('escapes what labels and texts may hold, and writes numbers that are none', () => {
    const sample = (value: number) => ({ labels: { a: 'x"y\\z\nw', b: 'ü' }, value });
    const text = renderMetrics([
      { name: 'm', help: 'one\\two\nthree', type: 'gauge', samples: [sample(1e21)] },
      { name: 'n', help: 'n', type: 'gauge', samples: [{ value: Number.POSITIVE_INFINITY }] },
      { name: 'left_out', help: 'n', type: 'gauge', samples: [] },
    ]);
    assert.equal(
      text,
      `# HELP m one\\\\two\\nthree\n# TYPE m gauge\nm{a="x\\"y\\\\z\\nw",b="ü"} 1e+21\n# HELP n n\n# TYPE n gauge\nn +Inf\n`,
    );
  });
});

describe('scraping over TCP', () => {
  const metrics: Pick<Metrics, 'scrape'> = { scrape: async () => 'm 1\n' };

  async function freePort(): Promise<number> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }

  async function ask(port: number, path: string, options: { method?: string; host?: string } = {}): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const headers = options.host === undefined ? {} : { Host: options.host };
    const asked = request({ host: '127.0.0.1', port, path, method: options.method ?? 'GET', headers }, (response) => {
      let body = '';
      response.on('data', (chunk) => {
        body += chunk;
      });
      response.once('end', () => resolve(`${response.statusCode} ${body}`));
    });
    asked.once('error', reject).end();
    return await promise;
  }

  async function listening(t: TestContext): Promise<number> {
    const port = await freePort();
    const listener = await listenForScrapes(port, metrics);
    t.after(() => listener[Symbol.asyncDispose]());
    return port;
  }

  it('serves metrics and nothing else', async (t) => {
    const port = await listening(t);
    assert.equal(await ask(port, '/metrics'), '200 m 1\n');
    assert.equal(await ask(port, '/v1/vms'), '404 ');
    assert.equal(await ask(port, '/metrics', { method: 'POST' }), '405 ');
  });

  it('does not answer a page that calls this machine by a name of its own', async (t) => {
    const port = await listening(t);
    assert.equal(await ask(port, '/metrics', { host: 'evil.example:80' }), '421 ');
    assert.equal(await ask(port, '/metrics', { host: `localhost:${port}` }), '200 m 1\n');
  });

  it('says which port is taken', async (t) => {
    const port = await listening(t);
    await assert.rejects(listenForScrapes(port, metrics), {
      code: 'conflict',
      message: new RegExp(`127\\.0\\.0\\.1:${port}: .*EADDRINUSE`),
    });
  });

  it('ends at once, whoever is connected', async () => {
    const port = await freePort();
    const listener = await listenForScrapes(port, { scrape: () => new Promise(() => {}) });
    const hanging = ask(port, '/metrics').catch((error: Error) => error.message);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await listener[Symbol.asyncDispose]();
    assert.match(await hanging, /hang up|reset/);
  });
});

describe('the metrics', () => {
  it('are all in docs/statistics.md', async () => {
    const { metrics, events } = daemon([{ ...STATS, guestUsedBytes: 1 }]);
    events.publish({
      type: 'operation.ended',
      operation: '1',
      kind: 'vm.start',
      target: 'web',
      state: 'succeeded',
      durationMs: 1,
      error: null,
    });
    const documentation = await readFile(new URL('../../docs/statistics.md', import.meta.url), 'utf8');
    const names = [...(await metrics.scrape()).matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
    assert.deepEqual(
      names.filter((name) => !documentation.includes(`\`${name}\``)),
      [],
    );
  });
});
