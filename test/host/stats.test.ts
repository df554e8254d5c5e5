/** Statistics, ports, metrics and events of a VM that really works, writes and listens. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Event } from '../../src/api/event.ts';
import type { VmPort, VmStats } from '../../src/api/stats.ts';
import { readProcessTree } from '../../src/system/process-stats.ts';
import { MIB } from '../../src/units.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(120_000) };

describe('statistics of a VM', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({ lean: true });
    await host.ok('run', '-q', 'web', '--memory', '256M', '--disk', '2G', '--work-disk', '1G');
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
  });

  async function sample(): Promise<VmStats> {
    const [stats] = await host.client.call('listStats', { query: { names: 'web' } });
    assert.ok(stats);
    return stats;
  }

  it('are all known while it runs, and agree with each other', LIMIT, async () => {
    await until('the guest tells its memory', async () => (await sample()).guestUsedBytes !== null);
    const stats = await sample();
    assert.deepEqual(
      Object.entries(stats).filter(([, value]) => value === null),
      Object.entries({ problem: null, suspendedBytes: null }),
    );
    assert.equal(stats.memoryBytes, 256 * MIB);
    assert.ok((stats.guestTotalBytes ?? 0) < 256 * MIB && (stats.guestUsedBytes ?? 0) < (stats.guestTotalBytes ?? 0));
    // QEMU's memory, not only that of fcqemu, which has some 60 MiB
    assert.ok((stats.rssBytes ?? 0) > 120 * MIB, `resident: ${stats.rssBytes}`);
    assert.equal(stats.diskBytes, 3 * 1024 * MIB);
    assert.ok(stats.diskAllocatedBytes > 50 * MIB && stats.diskAllocatedBytes < stats.diskBytes);
    assert.match(await host.ok('stats'), /^NAME .*\nweb +running +\d+\.\d % +\d.* \/ 256 MiB +\d.* MiB \/ /);
  });

  it('show what it does: processor, disk and network', LIMIT, async () => {
    // a guest may have something to do; one whose QEMU is held still has not
    const { pid } = await host.vm('web');
    const [, qemu] = await readProcessTree(pid ?? 0);
    assert.ok(qemu, 'the VMM has no QEMU');
    assert.match(qemu.name, /^qemu-system/);
    process.kill(qemu.pid, 'SIGSTOP');
    await sample();
    let idle = await sample();
    // the VMM itself collects garbage once it is quiet
    await until('one that is held still takes nothing', async () => {
      await sleep(500);
      idle = await sample();
      return (idle.cpuPercent ?? 100) < 15;
    });
    process.kill(qemu.pid, 'SIGCONT');
    await host.guest('web', '(while :; do :; done) > /dev/null 2>&1 & echo $! > /run/busy');
    let busy = await sample();
    await until('a loop in the guest is seen', async () => {
      busy = await sample();
      return (busy.cpuPercent ?? 0) > 30;
    });
    assert.ok((busy.cpuMs ?? 0) > (idle.cpuMs ?? 0));

    await host.guest(
      'web',
      'kill $(cat /run/busy); dd if=/dev/urandom of=/root/x bs=64k count=128 conv=fsync 2> /dev/null',
    );
    const written = await sample();
    const grown = (written.diskWrittenBytes ?? 0) - (busy.diskWrittenBytes ?? 0);
    assert.ok(grown >= 8 * MIB && grown < 64 * MIB, `written: ${grown}`);
    assert.ok(written.diskAllocatedBytes - busy.diskAllocatedBytes >= 8 * MIB);

    const input = Buffer.alloc(2 * MIB, 'x');
    // commands go through the guest's agent, which has no network
    const copied = await host.run(['ssh', 'web', '--', 'cat'], { input });
    assert.equal(copied.output.length, input.length);
    const moved = await sample();
    for (const counter of ['netReceivedBytes', 'netSentBytes'] as const) {
      const bytes = (moved[counter] ?? 0) - (written[counter] ?? 0);
      assert.ok(bytes >= 2 * MIB && bytes < 4 * MIB, `${counter}: ${bytes}`);
    }
  });

  it('name the ports its programs listen on', LIMIT, async () => {
    // its Perl has no library
    const listen = (address: string, port: number) =>
      `perl -e 'socket S, 2, 1, 6; bind S, pack "SnC4x8", 2, ${port}, split /\\./, "${address}" or die; listen S, 5; sleep 300' > /dev/null 2>&1 &`;
    await host.guest('web', `${listen('0.0.0.0', 8080)} ${listen('127.0.0.1', 9090)}`);
    let ports: VmPort[] = [];
    // ss looks at processes first and at sockets then: one that has just begun to listen may have no name yet
    await until('both ports are there with their programs', async () => {
      ports = await host.client.call('listPorts', { params: { name: 'web' } });
      return ports.length >= 3 && ports.every(({ processes }) => processes.length > 0);
    });
    const seen = ports.map(({ port, reach, url, processes }) => [port, reach, url, processes[0]?.name]);
    assert.deepEqual(seen, [
      [22, 'network', null, 'sshd'],
      [8080, 'network', 'http://web.vm:8080', 'perl'],
      [9090, 'loopback', null, 'perl'],
    ]);
    assert.match(await host.ok('ports', 'web'), /^8080 +perl +0\.0\.0\.0 +http:\/\/web\.vm:8080$/m);
  });

  it('are there for Prometheus', LIMIT, async () => {
    const text = String((await (await host.client.stream('metrics', {})).toArray()).join(''));
    const value = (series: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(`${series} `))
          ?.split(' ')[1],
      );
    assert.equal(value('banger_vms{state="running"}'), 1);
    assert.equal(value('banger_vm_boots_total{result="succeeded"}'), 1);
    assert.equal(value('banger_operations_total{kind="vm.run",state="succeeded"}'), 1);
    assert.ok(value('banger_vm_cpu_seconds_total{vm="web"}') > 1);
    assert.ok(value('banger_vm_network_sent_bytes_total{vm="web"}') > 2 * MIB);
  });

  it('end with the VM, whose stop and start are told as they happen', LIMIT, async () => {
    const follower = host.begin(['events', '--follow', '--json']);
    await follower.says(/"to":"running"/);
    await host.ok('kill', 'web');
    await follower.says(/"to":"stopped"/);
    const stopped = await sample();
    assert.deepEqual([stopped.cpuPercent, stopped.rssBytes, stopped.uptimeMs], [null, null, null]);
    await host.fails(5, ['ports', 'web'], [/web is not running \(stopped\)/, /banger start web/]);
    await host.ok('start', '-q', 'web');
    await follower.says(
      /"vm\.run","target":"web","state":"succeeded"[\s\S]*"vm\.start","target":"web","state":"succeeded"/,
    );
    follower.child.kill('SIGINT');
    const { status, stdout } = await follower.ended;
    assert.equal(status, 0);
    const events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Event);
    const changes = events.flatMap((event) => (event.type === 'vm.state' ? [`${event.from} ${event.to}`] : []));
    // the ones before are those of the first start
    assert.deepEqual(changes.slice(-4), [
      'running stopping',
      'stopping stopped',
      'stopped starting',
      'starting running',
    ]);
    assert.match(await host.ok('events'), /web: created\n[\s\S]*web: vm\.kill succeeded/);
  });
});
