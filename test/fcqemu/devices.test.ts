/** Metadata store, balloon, drive updates, limits and metrics; and everything that is refused by name. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { firecrackerBin, guestSkipReason, startVmm, type Vmm, type VmmOptions } from './support/vmm-process.ts';

const skip = guestSkipReason() ?? false;
const fcqemuOnly = { skip: skip || (firecrackerBin ? 'fcqemu refuses what Firecracker can do' : false) };
const NOT_FOUND = 'Failed perform action on device: Device not found';

async function configured(t: Pick<TestContext, 'after'>, options: VmmOptions = {}): Promise<Vmm> {
  const vmm = await startVmm(t, options);
  await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
  return vmm;
}

const start = (vmm: Vmm) => vmm.put('/actions', { action_type: 'InstanceStart' });

describe('/mmds', () => {
  it('keeps any JSON, sorted, and merges patches', async (t) => {
    const vmm = await startVmm(t);
    assert.deepEqual(await vmm.get('/mmds'), {});
    assert.equal(await vmm.fault('PATCH', '/mmds', { a: 1 }), 'MMDS error: The MMDS data store is not initialized.');
    await vmm.put(
      '/mmds',
      '{"latest": {"b": 1, "a": {"x": "y"}}, "n": 18446744073709551615, "f": [1.0, 1.50, 1e+300]}',
    );
    assert.equal(
      (await vmm.call('GET', '/mmds')).body,
      '{"f":[1.0,1.5,1e+300],"latest":{"a":{"x":"y"},"b":1},"n":18446744073709551615}',
    );
    await vmm.patch('/mmds', { latest: { a: null, c: [1] }, n: { deep: true }, f: null });
    assert.equal((await vmm.call('GET', '/mmds')).body, '{"latest":{"b":1,"c":[1]},"n":{"deep":true}}');
  });

  it('refuses more than its limit with 413 and keeps what it had', async (t) => {
    const vmm = await startVmm(t, { args: ['--mmds-size-limit', '40'] });
    await vmm.put('/mmds', { a: 'x'.repeat(20) });
    for (const method of ['PUT', 'PATCH']) {
      const answer = await vmm.call(method, '/mmds', { b: 'x'.repeat(40) });
      assert.equal(answer.status, 413);
      assert.match(answer.body, /MMDS limit exceeded error: The MMDS patch request doesn't fit\./);
    }
    assert.deepEqual(await vmm.get('/mmds'), { a: 'x'.repeat(20) });
  });

  it('does not write metadata into the log', async (t) => {
    const vmm = await startVmm(t);
    await vmm.put('/mmds', { password: 'sesame' });
    assert.ok(vmm.log().includes('Put request on "/mmds".'));
    assert.ok(!vmm.log().includes('sesame'));
  });

  it('checks its configuration', async (t) => {
    const vmm = await startVmm(t);
    const put = (body: unknown) => vmm.fault('PUT', '/mmds/config', body);
    assert.equal(
      await put({ network_interfaces: [] }),
      'MMMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty.',
    );
    assert.equal(
      await put({ network_interfaces: ['x'] }),
      'MMMDS config error: The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.',
    );
    assert.equal(
      await put({ network_interfaces: ['x'], ipv4_address: '10.0.0.1' }),
      'MMMDS config error: The MMDS IPv4 address is not link local.',
    );
    assert.match(
      await put({ network_interfaces: ['x'], ipv4_address: '1.2.3' }),
      /invalid IPv4 address syntax at line 1/,
    );
    const answer = await vmm.call('PUT', '/mmds/config', { network_interfaces: ['x'] });
    assert.equal(answer.headers.Deprecation, 'true');
  });
});

describe('the balloon', { skip }, () => {
  it('is missing until it is configured', async (t) => {
    const vmm = await configured(t);
    assert.equal(await vmm.fault('GET', '/balloon'), 'Balloon config error: No balloon device found.');
    await start(vmm);
    assert.equal(await vmm.fault('GET', '/balloon'), `Internal VMM error: ${NOT_FOUND}`);
    assert.equal(await vmm.fault('PATCH', '/balloon', { amount_mib: 1 }), `Balloon update error: ${NOT_FOUND}`);
  });

  it('is checked against the memory, in both directions', async (t) => {
    const vmm = await startVmm(t);
    const balloon = { amount_mib: 100, deflate_on_oom: true };
    assert.equal(
      await vmm.fault('PUT', '/balloon', { ...balloon, amount_mib: 129 }),
      'Balloon config error: Amount of pages requested is too large.',
    );
    await vmm.put('/balloon', balloon);
    assert.equal(
      await vmm.fault('PATCH', '/machine-config', { mem_size_mib: 99 }),
      'Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.',
    );
    assert.deepEqual(await vmm.get('/balloon'), {
      amount_mib: 100,
      deflate_on_oom: true,
      stats_polling_interval_s: 0,
      free_page_hinting: false,
      free_page_reporting: false,
    });
  });

  it('knows that no driver has taken it over', async (t) => {
    const vmm = await configured(t);
    await vmm.put('/balloon', { amount_mib: 0, deflate_on_oom: false, stats_polling_interval_s: 1 });
    await start(vmm);
    assert.equal(
      await vmm.fault('PATCH', '/balloon', { amount_mib: 1 }),
      'Balloon update error: Balloon: Device not activated yet.',
    );
    assert.equal(
      await vmm.fault('PATCH', '/balloon', { amount_mib: 129 }),
      'Balloon update error: Balloon: Device not activated yet.',
    );
    await vmm.patch('/balloon/statistics', { stats_polling_interval_s: 5 });
    assert.equal(
      await vmm.fault('PATCH', '/balloon/statistics', { stats_polling_interval_s: 0 }),
      'Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.',
    );
    assert.equal(
      await vmm.fault('PATCH', '/balloon/hinting/start'),
      'Balloon update error: Balloon: Attempting to use hinting when not enabled',
    );
  });

  it('has no statistics unless asked for at the start', async (t) => {
    const vmm = await configured(t);
    await vmm.put('/balloon', { amount_mib: 0, deflate_on_oom: false });
    await start(vmm);
    assert.equal(
      await vmm.fault('GET', '/balloon/statistics'),
      'Internal VMM error: Balloon: Received stats query when stats are disabled.',
    );
  });

  it('reports its statistics', fcqemuOnly, async (t) => {
    const vmm = await configured(t);
    await vmm.put('/balloon', { amount_mib: 10, deflate_on_oom: false, stats_polling_interval_s: 1 });
    await start(vmm);
    assert.deepEqual(await vmm.get('/balloon/statistics'), {
      target_pages: 2560,
      actual_pages: 0,
      target_mib: 10,
      actual_mib: 0,
    });
  });
});

describe('PATCH /drives', { skip }, () => {
  let vmm: Vmm;
  const cleanups: (() => unknown)[] = [];
  before(async () => {
    vmm = await configured({ after: (fn) => void cleanups.push(fn as () => unknown) });
    const path_on_host = await vmm.file('first', Buffer.alloc(8192));
    await vmm.put('/drives/a', { drive_id: 'a', is_root_device: false, path_on_host });
    await vmm.put('/drives/b', {
      drive_id: 'b',
      is_root_device: false,
      path_on_host,
      is_read_only: true,
      cache_type: 'Writeback',
    });
    await start(vmm);
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  it('needs a path or a limiter, and a drive that exists', async () => {
    assert.match(
      await vmm.fault('PATCH', '/drives/a', { drive_id: 'a' }),
      /^Drive config error: .*Running method expected different backend\./,
    );
    assert.match(
      await vmm.fault('PATCH', '/drives/zz', { drive_id: 'zz', path_on_host: 'x' }),
      /^Drive config error: .*Device not found/,
    );
    assert.match(
      await vmm.fault('PATCH', '/drives/a', { drive_id: 'a', path_on_host: 'foo.bar' }),
      /Error manipulating the backing file: No such file or directory \(os error 2\) foo\.bar/,
    );
  });

  for (const id of ['a', 'b']) {
    it(`puts another file under ${id === 'a' ? 'a writable' : 'a read-only'} drive, again and again`, async () => {
      for (const size of [16384, 4096, 32768]) {
        const path_on_host = await vmm.file(`other-${id}-${size}`, Buffer.alloc(size));
        await vmm.patch(`/drives/${id}`, { drive_id: id, path_on_host });
        const { drives } = await vmm.get<{ drives: { drive_id: string; path_on_host: string }[] }>('/vm/config');
        assert.equal(drives.find((drive) => drive.drive_id === id)?.path_on_host, path_on_host);
      }
    });
  }

  it('sets limits, keeps absent buckets and removes empty ones', async () => {
    const limiter = async (rate_limiter: unknown) => {
      await vmm.patch('/drives/a', { drive_id: 'a', rate_limiter });
      const { drives } = await vmm.get<{ drives: { drive_id: string; rate_limiter: unknown }[] }>('/vm/config');
      return drives.find((drive) => drive.drive_id === 'a')?.rate_limiter;
    };
    const bandwidth = { size: 5000, one_time_burst: null, refill_time: 100 };
    const ops = { size: 500, one_time_burst: null, refill_time: 100 };
    assert.deepEqual(await limiter({ bandwidth: { size: 5000, refill_time: 100 } }), { bandwidth, ops: null });
    assert.deepEqual(await limiter({ ops: { size: 500, refill_time: 100 } }), { bandwidth, ops });
    assert.deepEqual(await limiter({ bandwidth: { size: 0, refill_time: 0 } }), { bandwidth: null, ops });
    assert.deepEqual(await limiter({ ops: { size: 0, refill_time: 0 } }), null);
  });

  it('starts with the limits it was configured with', async (t) => {
    const other = await configured(t);
    const path_on_host = await other.file('disk', Buffer.alloc(8192));
    const rate_limiter = {
      bandwidth: { size: 1_000_000, refill_time: 100, one_time_burst: 7 },
      ops: { size: 1, refill_time: 100 },
    };
    await other.put('/drives/a', { drive_id: 'a', is_root_device: true, path_on_host, rate_limiter });
    await start(other);
    assert.equal((await other.get('/')).state, 'Running');
  });
});

describe('the metrics file', { skip }, () => {
  it('has a line at the start, at each flush and at the end, with differences between them', async (t) => {
    const vmm = await configured(t);
    const path = join(vmm.dir, 'metrics');
    await vmm.put('/metrics', { metrics_path: path });
    const path_on_host = await vmm.file('disk', Buffer.alloc(8192));
    await vmm.put('/drives/root', { drive_id: 'root', is_root_device: true, path_on_host });
    await vmm.fault('PUT', '/drives/x', { drive_id: 'x', is_root_device: true, path_on_host });
    await vmm.fault('PUT', '/drives/x', {});
    await start(vmm);
    const lines = () =>
      readFileSync(path, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
    assert.equal(lines().length, 1);
    const [first] = lines();
    assert.equal(first.put_api_requests.drive_count, 3);
    // a request that cannot be read, not one that cannot be met
    assert.equal(first.put_api_requests.drive_fails, 1);
    assert.deepEqual(first.api_server, { process_startup_time_us: 0, process_startup_time_cpu_us: 0 });
    for (const group of ['block', 'block_root', 'net', 'uart', 'vsock', 'latencies_us', 'seccomp', 'vmm', 'vcpu']) {
      assert.equal(typeof first[group], 'object', group);
    }
    assert.deepEqual(first.block_root, first.block);
    assert.deepEqual(first.block.read_agg, { min_us: 0, max_us: 0, sum_us: first.block.read_agg.sum_us });
    await vmm.patch('/vm', { state: 'Paused' });
    await vmm.patch('/vm', { state: 'Resumed' });
    await vmm.put('/actions', { action_type: 'FlushMetrics' });
    const [, second] = lines();
    assert.equal(second.put_api_requests.drive_count, 0);
    assert.ok(second.latencies_us.pause_vm > 0 && second.latencies_us.vmm_pause_vm > 0);
  });
});

describe('what QEMU has no counterpart for', fcqemuOnly, () => {
  it('is refused before the start, in Firecracker’s words and with a fixed end', async (t) => {
    const vmm = await startVmm(t);
    const disk = await vmm.file('disk', Buffer.alloc(512));
    const refused: [path: string, body: unknown, message: string][] = [
      ['/cpu-config', { kvm_capabilities: ['1'] }, 'Configure CPU error: CPU modifiers are'],
      ['/pmem/a', { id: 'a', path_on_host: disk }, 'Pmem config error: pmem devices are'],
      ['/hotplug/memory', { total_size_mib: 1024 }, 'Memory hotplug config error: hotpluggable memory is'],
      [
        '/balloon',
        { amount_mib: 1, deflate_on_oom: true, free_page_hinting: true },
        'Balloon config error: free page hinting is',
      ],
    ];
    for (const [path, body, message] of refused) {
      assert.equal(await vmm.fault('PUT', path, body), `${message} not supported by fcqemu`);
    }
    await vmm.put('/cpu-config', {});
    await vmm.put('/drives/r', { drive_id: 'r', is_root_device: true, path_on_host: disk });
    assert.equal(
      await vmm.fault('PUT', '/pmem/a', { id: 'a', path_on_host: disk, root_device: true }),
      'Pmem config error: Attempt to add pmem as a root device while the root device defined as a block device',
    );
  });

  it('is refused afterwards as Firecracker does without PCI', async (t) => {
    const vmm = await configured(t);
    const path_on_host = await vmm.file('disk', Buffer.alloc(512));
    await start(vmm);
    assert.equal(
      await vmm.fault('PUT', '/drives/a', { drive_id: 'a', is_root_device: false, path_on_host }),
      'PCI is not enabled',
    );
    assert.equal(await vmm.fault('DELETE', '/drives/a'), 'PCI is not enabled');
    assert.equal(await vmm.fault('DELETE', '/network-interfaces/a'), 'PCI is not enabled');
    assert.equal(
      await vmm.fault('PATCH', '/network-interfaces/a', { iface_id: 'a' }),
      `Network config error: Unable to update the net device: ${NOT_FOUND}`,
    );
    assert.equal(await vmm.fault('GET', '/hotplug/memory'), `Internal VMM error: ${NOT_FOUND}`);
    assert.equal(await vmm.fault('GET', '/mmds'), 'MMDS error: The MMDS data store is not initialized.');
  });
});
