import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Event } from '../../src/api/event.ts';
import type { StatsFrame, VmPort, VmStats } from '../../src/api/stats.ts';
import { renderEvent } from '../../src/cli/commands/host/events.ts';
import { cli } from './cli.ts';
import { stats } from './sample-stats.ts';

const frame = (...vms: VmStats[]): StatsFrame => ({ at: '2026-01-02T03:04:05.000Z', vms });

describe('stats', () => {
  it('shows a line for each VM, with a dash for what is not known', async () => {
    const stopped = stats('db', {
      ...{ state: 'stopped', uptimeMs: null, cpuPercent: null, cpuMs: null, threads: null, rssBytes: null },
      ...{ guestUsedBytes: null, guestTotalBytes: null, diskReadBytes: null, diskWrittenBytes: null },
      ...{ netReceivedBytes: null, netSentBytes: null },
    });
    const { status, stdout } = await cli('stats', { listStats: () => [stats('web'), stopped] });
    assert.equal(status, 0);
    assert.equal(
      stdout,
      `NAME  STATE    CPU     MEMORY             IN GUEST          DISK              READ   WRITTEN  NET IN  NET OUT  UPTIME
web   running  12.5 %  200 MiB / 512 MiB  96 MiB / 488 MiB  256 MiB / 16 GiB  4 KiB  8 KiB    100 B   200 B    1 m 2 s
db    stopped  -       -                  -                 256 MiB / 16 GiB  -      -        -       -        -
`,
    );
  });

  it('asks for the VMs that are named, and prints JSON for programs', async () => {
    const asked: unknown[] = [];
    const { stdout } = await cli('stats web db --json', {
      listStats: ({ query }) => {
        asked.push(query);
        return [stats('web')];
      },
    });
    assert.deepEqual(asked, [{ names: 'web,db' }]);
    assert.deepEqual(JSON.parse(stdout), [stats('web')]);
  });

  it('says how to make a VM when there is none', async () => {
    const { stdout, stderr } = await cli('stats', { listStats: () => [] });
    assert.deepEqual([stdout, stderr], ['', 'No VMs yet. Make one with: banger run NAME\n']);
    assert.equal((await cli('stats --json', { listStats: () => [] })).stdout, '[]\n');
  });

  it('watches: a table after the other, a line of JSON each, or in place on a terminal', async () => {
    const asked: unknown[] = [];
    const watchStats = ({ query }: { query?: unknown }) => {
      asked.push(query);
      return [frame(stats('web', { cpuPercent: 1 })), frame(stats('web', { cpuPercent: 99 }))];
    };
    const plain = await cli('stats --watch', { watchStats });
    assert.equal(plain.stdout.match(/^NAME /gm)?.length, 2);
    assert.match(plain.stdout, /1\.0 %[\s\S]*99\.0 %/);
    const json = await cli('stats web -w --json --interval 10s', { watchStats });
    const values = json.stdout.trimEnd().split('\n');
    assert.deepEqual(
      values.map((line) => JSON.parse(line).vms[0].cpuPercent),
      [1, 99],
    );
    const terminal = await cli('stats --watch', { watchStats }, { terminal: true });
    assert.ok(terminal.stdout.includes('\u001b['), 'the frame before is taken away');
    assert.deepEqual(asked, [{}, { names: 'web', intervalMs: 10_000 }, {}]);
  });

  it('ends at Ctrl-C without an error', async () => {
    async function* forever() {
      yield frame(stats('web'));
      await new Promise(() => {});
    }
    const { status, stdout, stderr } = await cli(
      'stats --watch',
      { watchStats: forever },
      { signals: (send) => setTimeout(() => send('SIGINT'), 100) },
    );
    assert.deepEqual([status, stderr], [0, '']);
    assert.match(stdout, /^NAME /);
  });

  it('refuses an interval that only costs', async () => {
    const { status, stderr } = await cli('stats --watch --interval 100ms', {});
    assert.equal(status, 2);
    assert.equal(stderr, 'banger: --interval: 100 ms is too short.\n  The shortest is 500 ms.\n');
  });

  it('exits with 3 when the daemon cannot be reached', async () => {
    assert.equal((await cli('stats', { unreachable: true })).status, 3);
    assert.equal((await cli('stats --watch', { unreachable: true })).status, 3);
  });
});

describe('ports', () => {
  const port = (number: number, values: Partial<VmPort> = {}): VmPort => ({
    port: number,
    addresses: ['0.0.0.0'],
    reach: 'network',
    exposed: false,
    processes: [],
    url: null,
    ...values,
  });

  it('shows what listens and where it can be reached', async () => {
    const listPorts = () => [
      port(22, { addresses: ['0.0.0.0', '::'], processes: [{ name: 'sshd', pid: 1 }] }),
      port(80, {
        processes: [
          { name: 'nginx', pid: 7 },
          { name: 'nginx', pid: 8 },
        ],
        url: 'http://web.vm:80',
      }),
      port(2375, { addresses: ['172.17.0.1'], reach: 'other' }),
      port(5432, { addresses: ['127.0.0.1'], reach: 'loopback' }),
    ];
    const { stdout } = await cli('ports web', { listPorts });
    assert.equal(
      stdout,
      `PORT  PROCESS  LISTENS ON   REACH IT AT
22    sshd     0.0.0.0, ::  port 22
80    nginx    0.0.0.0      http://web.vm:80
2375  -        172.17.0.1   only on that address
5432  -        127.0.0.1    only inside the VM (loopback)
`,
    );
    assert.deepEqual(JSON.parse((await cli('ports web --json', { listPorts })).stdout), listPorts());
  });

  it('says so when nothing listens', async () => {
    const { stdout, stderr } = await cli('ports web', { listPorts: () => [] });
    assert.deepEqual([stdout, stderr], ['', 'Nothing listens on a TCP port.\n']);
  });
});

describe('events', () => {
  const base = { seq: 1, at: '2026-01-02T03:04:05.678Z', vm: 'web', id: '0a1b2c3d' };
  const failed: Event = { ...base, type: 'vm.state', from: 'starting', to: 'failed', reason: 'no SSH\n  console: …' };

  it('are a line each, for people or as JSON', async () => {
    const watchEvents = () => [{ ...base, type: 'vm.created', state: 'creating' } as const, failed];
    assert.equal(
      (await cli('events', { watchEvents })).stdout,
      '2026-01-02T03:04:05Z  web: created\n2026-01-02T03:04:05Z  web: starting -> failed: no SSH\n',
    );
    const lines = (await cli('events --json', { watchEvents })).stdout.trimEnd().split('\n');
    assert.deepEqual(lines.map((line) => JSON.parse(line))[1], failed);
  });

  it('can be followed, and limited to the last minutes', async () => {
    const asked: { follow?: boolean; since?: string }[] = [];
    const watchEvents = ({ query }: { query?: { follow?: boolean | undefined; since?: string | undefined } }) => {
      asked.push({ ...(query?.follow ? { follow: true } : {}), ...(query?.since ? { since: query.since } : {}) });
      return [];
    };
    await cli('events --follow --since 10m', { watchEvents });
    await cli('events', { watchEvents });
    const [limited, all] = asked;
    const agoMs = Date.now() - Date.parse(limited?.since ?? '');
    assert.ok(limited?.follow && Math.abs(agoMs - 600_000) < 5000, `${agoMs} ms`);
    assert.deepEqual(all, {});
  });

  it('have words for every kind', () => {
    const operation = { seq: 1, at: base.at, operation: 'a1b2', kind: 'vm.start', target: 'web' };
    const events: Event[] = [
      { ...base, type: 'vm.renamed', from: 'shop' },
      { ...base, type: 'vm.changed', fields: ['vcpus', 'nat'] },
      { ...base, type: 'vm.deleted' },
      { ...operation, type: 'operation.begun' },
      { ...operation, type: 'operation.ended', state: 'failed', durationMs: 1500, error: 'no KVM\nmore' },
      { seq: 1, at: base.at, type: 'dropped', count: 7 },
    ];
    const plain = (_: string, text: string) => text;
    assert.deepEqual(
      events.map((event) => renderEvent(event, plain).slice('2026-01-02T03:04:05Z  '.length)),
      [
        'web: renamed, was shop',
        'web: changed vcpus, nat',
        'web: deleted',
        'web: vm.start begun (operation a1b2)',
        'web: vm.start failed after 1.5 s: no KVM',
        '7 events are not shown: they came faster than they were read',
      ],
    );
  });

  it('of a newer daemon are shown as they are', () => {
    const unknown = { seq: 1, at: base.at, type: 'vm.cloned', vm: 'web' } as unknown as Event;
    assert.match(
      renderEvent(unknown, (_, text) => text),
      /vm\.cloned .*"vm":"web"/,
    );
  });
});
