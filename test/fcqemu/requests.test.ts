/** Paths, ids, bodies and the rules of every endpoint before the start; texts asserted by Firecracker's tests. */
import assert from 'node:assert/strict';
import { accessSync, constants } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { exchange, firecrackerBin, startVmm, type Vmm } from './support/vmm-process.ts';

const cleanups: (() => unknown)[] = [];
let vmm: Vmm;
let disk: string;
let kernel: string;

before(async () => {
  vmm = await startVmm({ after: (fn) => void cleanups.push(fn as () => unknown) });
  disk = await vmm.file('disk.img', Buffer.alloc(4096));
  kernel = await vmm.file('vmlinux', tinyKernel(code.halt()));
});
after(async () => {
  for (const cleanup of cleanups) await cleanup();
});

const BEFORE_START = 'The requested operation is not supported before starting the microVM.';
const JSON_TROUBLE = 'An error occurred when deserializing the json body of a request:';
const fcqemuOnly = firecrackerBin ? { skip: 'fcqemu refuses what Firecracker can do' } : {};

describe('paths and ids', () => {
  const cases: [method: string, path: string, body: unknown, message: string][] = [
    ['GET', '/foo', undefined, 'Invalid request method and/or path: GET foo.'],
    ['GET', '/vm/other', undefined, 'Invalid request method and/or path: GET vm.'],
    ['GET', '/?a=b', undefined, 'Invalid request method and/or path: GET ?a=b.'],
    ['PUT', '/foo/bar', {}, 'Invalid request method and/or path: PUT foo.'],
    ['PUT', '/foo', undefined, 'Empty PUT request.'],
    ['PATCH', '/boot-source', { kernel_image_path: 'x' }, 'Invalid request method and/or path: PATCH boot-source.'],
    ['PATCH', '/logger', { level: 'Error' }, 'Invalid request method and/or path: PATCH logger.'],
    ['PATCH', '/machine-config', undefined, 'Empty PATCH request.'],
    ['PATCH', '/machine-config', {}, 'Empty PATCH request.'],
    ['GET', '/version', {}, 'GET request cannot have a body.'],
    ['DELETE', '/drives/x', {}, 'Empty Delete request.'],
    ['PUT', '/drives', {}, 'The ID cannot be empty.'],
    ['PUT', '/drives/', {}, 'The ID cannot be empty.'],
    ['PUT', '/drives/a-b', {}, 'API Resource IDs can only contain alphanumeric characters and underscores.'],
    [
      'PUT',
      '/drives/a',
      { drive_id: 'b', is_root_device: false },
      'The id from the path does not match the id from the body!',
    ],
    [
      'PUT',
      '/network-interfaces/a',
      { iface_id: 'b', host_dev_name: 't' },
      'The id from the path [a] does not match the id from the body [b]!',
    ],
    ['PUT', '/snapshot', {}, 'Missing snapshot operation type.'],
    ['PUT', '/snapshot/foo', {}, 'Invalid request method and/or path: PUT /snapshot/foo.'],
    ['GET', '/balloon/x', undefined, 'Unrecognized GET request path `x`.'],
    ['GET', '/balloon/hinting/x', undefined, 'Unrecognized GET request path `/hinting/x`.'],
    ['PUT', '/mmds/x', {}, 'Unrecognized PUT request path `x`.'],
    ['PUT', '/machine-config', 'no json', `${JSON_TROUBLE} expected ident at line 1 column 2.`],
    ['PUT', '/drives/a-b', 'no json', 'API Resource IDs can only contain alphanumeric characters and underscores.'],
  ];
  for (const [method, path, body, message] of cases) {
    it(`answers ${method} ${path}${body === undefined ? '' : ` ${JSON.stringify(body)}`} with "${message}"`, async () => {
      assert.equal(await vmm.fault(method, path, body), message);
    });
  }

  it('overlooks a trailing slash and surplus segments', async () => {
    assert.ok(await vmm.get('/version/'));
    // no description knows this one
    assert.match(await exchange(vmm.socket, 'GET /machine-config/a/b HTTP/1.1\r\n\r\n'), /^HTTP\/1.1 200 /);
    assert.ok(await vmm.get('//version'));
  });
});

describe('information', () => {
  it('describes the instance', async () => {
    const info = await vmm.get('/');
    assert.deepEqual(Object.keys(info).sort(), ['app_name', 'id', 'state', 'vmm_version']);
    assert.equal(info.state, 'Not started');
    assert.equal(info.app_name, 'Firecracker');
    assert.equal(info.id, 'anonymous-instance');
    assert.deepEqual(await vmm.get('/version'), { firecracker_version: info.vmm_version });
  });
});

describe('/machine-config', () => {
  it('begins with 1 CPU and 128 MiB', async (t) => {
    const fresh = await startVmm(t);
    assert.deepEqual(await fresh.get('/machine-config'), {
      vcpu_count: 1,
      mem_size_mib: 128,
      smt: false,
      track_dirty_pages: false,
      huge_pages: 'None',
    });
  });

  it('returns absent fields to their defaults with PUT and keeps them with PATCH', async () => {
    await vmm.put('/machine-config', { vcpu_count: 4, mem_size_mib: 256, smt: true, track_dirty_pages: true });
    await vmm.patch('/machine-config', { mem_size_mib: 512 });
    const patched = await vmm.get('/machine-config');
    assert.deepEqual(
      [patched.vcpu_count, patched.mem_size_mib, patched.smt, patched.track_dirty_pages],
      [4, 512, true, true],
    );
    await vmm.put('/machine-config', { vcpu_count: 2, mem_size_mib: 128 });
    const replaced = await vmm.get('/machine-config');
    assert.deepEqual([replaced.vcpu_count, replaced.smt, replaced.track_dirty_pages], [2, false, false]);
  });

  const vcpus =
    'Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.';
  const memory =
    'Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.';
  const refused: [body: unknown, message: string][] = [
    [{ vcpu_count: 0, mem_size_mib: 128 }, vcpus],
    [{ vcpu_count: 33, mem_size_mib: 128 }, vcpus],
    [{ vcpu_count: 3, mem_size_mib: 128, smt: true }, vcpus],
    [{ vcpu_count: 1, mem_size_mib: 0 }, memory],
    [{ vcpu_count: 1, mem_size_mib: 127, huge_pages: '2M' }, memory],
    [{ mem_size_mib: 128 }, `${JSON_TROUBLE} missing field \`vcpu_count\` at line 1 column 20.`],
    [
      { vcpu_count: 256, mem_size_mib: 1 },
      `${JSON_TROUBLE} invalid value: integer \`256\`, expected u8 at line 1 column 17.`,
    ],
    [{ vcpu_count: '-2' }, `${JSON_TROUBLE} invalid type: string "-2", expected u8 at line 1 column 18.`],
  ];
  for (const [body, message] of refused) {
    it(`refuses ${JSON.stringify(body)}`, async () => {
      assert.equal(await vmm.fault('PUT', '/machine-config', body), message);
    });
  }

  it('accepts 32 CPUs despite the wording', async () => {
    await vmm.put('/machine-config', { vcpu_count: 32, mem_size_mib: 128 });
    await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 128 });
  });

  it('marks cpu_template as deprecated, even None', async () => {
    const answer = await vmm.call('PUT', '/machine-config', { vcpu_count: 1, mem_size_mib: 128, cpu_template: 'None' });
    assert.equal(answer.status, 204);
    assert.equal(answer.headers.Deprecation, 'true');
    assert.match(vmm.log(), /PUT \/machine-config: cpu_template field is deprecated\./);
    const patched = await vmm.call('PATCH', '/machine-config', { cpu_template: 'None' });
    assert.equal(patched.headers.Deprecation, 'true');
    assert.match(vmm.log(), /PATCH \/machine-config: cpu_template field is deprecated\./);
  });

  it('refuses templates and huge pages, and says who does', fcqemuOnly, async () => {
    assert.equal(
      await vmm.fault('PATCH', '/machine-config', { cpu_template: 'T2' }),
      'Machine config error: the CPU template T2 is not supported by fcqemu',
    );
    assert.equal(
      await vmm.fault('PATCH', '/machine-config', { huge_pages: '2M' }),
      'Machine config error: huge pages of 2M are not supported by fcqemu',
    );
  });
});

describe('/boot-source', () => {
  it('checks kernel, initrd and command line', async () => {
    assert.equal(
      await vmm.fault('PUT', '/boot-source', { kernel_image_path: 'foo.bar' }),
      'Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)',
    );
    assert.equal(
      await vmm.fault('PUT', '/boot-source', { kernel_image_path: kernel, initrd_path: 'foo.bar' }),
      'Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. No such file or directory (os error 2)',
    );
    assert.equal(
      await vmm.fault('PUT', '/boot-source', { kernel_image_path: kernel, boot_args: 'x'.repeat(2048) }),
      'Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.',
    );
    await vmm.put('/boot-source', { kernel_image_path: kernel, boot_args: 'a\tb' });
  });

  it('refuses an ELF kernel without PVH entry, which only Firecracker can boot', fcqemuOnly, async () => {
    const old = await vmm.file('old-vmlinux', tinyKernel(code.halt(), { pvh: false }));
    assert.equal(
      await vmm.fault('PUT', '/boot-source', { kernel_image_path: old }),
      'Boot source error: ELF kernels built without CONFIG_PVH are not supported by fcqemu',
    );
  });

  it('echoes the arguments as given', async () => {
    await vmm.put('/boot-source', { kernel_image_path: kernel, boot_args: 'console=ttyS0' });
    const config = await vmm.get<{ 'boot-source': unknown }>('/vm/config');
    assert.deepEqual(config['boot-source'], {
      kernel_image_path: kernel,
      initrd_path: null,
      boot_args: 'console=ttyS0',
    });
  });
});

describe('/drives', () => {
  it('reports a missing file with its name', async () => {
    assert.equal(
      await vmm.fault('PUT', '/drives/a', { drive_id: 'a', is_root_device: false, path_on_host: 'foo.bar' }),
      'Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) foo.bar',
    );
  });

  it('refuses a drive without path or socket, and with both', async () => {
    const message = 'Drive config error: Unable to create the virtio block device: Invalid block config.';
    assert.equal(await vmm.fault('PUT', '/drives/a', { drive_id: 'a', is_root_device: false }), message);
    const both = { drive_id: 'a', is_root_device: false, path_on_host: disk, socket: 'x' };
    assert.equal(await vmm.fault('PUT', '/drives/a', both), message);
  });

  it('refuses vhost-user drives', fcqemuOnly, async () => {
    assert.equal(
      await vmm.fault('PUT', '/drives/a', { drive_id: 'a', is_root_device: false, socket: disk }),
      'Drive config error: vhost-user drives are not supported by fcqemu',
    );
  });

  it('puts the root drive first, keeps the order of the others, and replaces by id', async (t) => {
    const fresh = await startVmm(t);
    const path_on_host = await fresh.file('d', Buffer.alloc(512));
    const put = (id: string, is_root_device: boolean, more: object = {}) =>
      fresh.put(`/drives/${id}`, { drive_id: id, is_root_device, path_on_host, ...more });
    await put('a', false);
    await put('b', false, { is_read_only: true, cache_type: 'Writeback', partuuid: '0eaa91a0-01' });
    await put('r', true);
    assert.equal(
      await fresh.fault('PUT', '/drives/b', { drive_id: 'b', is_root_device: true, path_on_host }),
      'Drive config error: A root block device already exists!',
    );
    await put('a', false, { is_read_only: true, rate_limiter: {} });
    const { drives } = await fresh.get<{ drives: Record<string, unknown>[] }>('/vm/config');
    assert.deepEqual(
      drives.map((drive) => drive.drive_id),
      ['r', 'a', 'b'],
    );
    assert.deepEqual(drives[1], {
      drive_id: 'a',
      partuuid: null,
      is_root_device: false,
      cache_type: 'Unsafe',
      is_read_only: true,
      path_on_host,
      rate_limiter: null,
      io_engine: 'Sync',
      socket: null,
    });
    assert.deepEqual([drives[2]?.cache_type, drives[2]?.partuuid], ['Writeback', '0eaa91a0-01']);
  });

  it('names all fields when it meets an unknown one', async () => {
    assert.equal(
      await vmm.fault('PUT', '/drives/a', { id: 'a' }),
      `${JSON_TROUBLE} unknown field \`id\`, expected one of \`drive_id\`, \`partuuid\`, \`is_root_device\`, \`cache_type\`, \`is_read_only\`, \`path_on_host\`, \`rate_limiter\`, \`io_engine\`, \`socket\` at line 1 column 5.`,
    );
    assert.match(
      await vmm.fault('PATCH', '/drives/a', { drive_id: 'a', is_read_only: true }),
      /unknown field `is_read_only`, expected one of `drive_id`, `path_on_host`, `rate_limiter` at line 1 column 30\.$/,
    );
  });
});

/** Root may, and who cannot open the device is told of that. */
function tapCreatorSkip(): string | false {
  if (process.getuid?.() === 0) return 'root may create taps';
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
    return false;
  } catch {
    return '/dev/net/tun does not open for this user';
  }
}

describe('/network-interfaces', () => {
  it('refuses bad addresses and names', async () => {
    const put = (body: object) => vmm.fault('PUT', '/network-interfaces/n', { iface_id: 'n', ...body });
    assert.match(
      await put({ host_dev_name: 'tap0', guest_mac: '12:34:56' }),
      /deserializing the json body of a request: The provided MAC address is invalid\. at line 1 column \d+\.$/,
    );
    assert.equal(
      await put({ host_dev_name: 'a-name-of-16-chr' }),
      'Network config error: Could not create the network device: Open tap device failed: Invalid interface name',
    );
    assert.match(
      await put({ host_dev_name: 'lo' }),
      /Open tap device failed: Error while creating ifreq structure: Invalid argument \(os error 22\)\. Invalid TUN\/TAP Backend provided by lo\. Check our documentation on setting up the network devices\.$/,
    );
    assert.match(
      await put({ host_dev_name: 'tap0', mtu: 65536 }),
      /invalid value: integer `65536`, expected u16 at line 1 column \d+\.$/,
    );
  });

  it('creates no tap for a process that may not', { skip: tapCreatorSkip() }, async () => {
    assert.equal(
      await vmm.fault('PUT', '/network-interfaces/n', { iface_id: 'n', host_dev_name: 'fcqnosuchtap' }),
      'Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq structure: Operation not permitted (os error 1). Invalid TUN/TAP Backend provided by fcqnosuchtap. Check our documentation on setting up the network devices.',
    );
  });
});

describe('/logger, /metrics, /serial and /entropy', () => {
  it('reports a log that cannot be opened, and knows levels in any case', async () => {
    assert.equal(
      await vmm.fault('PUT', '/logger', { log_path: '/nonexistent/x' }),
      'Logger error: Failed to open target file: No such file or directory (os error 2)',
    );
    assert.match(await vmm.fault('PUT', '/logger', { level: 'loud' }), /Invalid LevelFilter at line 1 column 16\.$/);
    await vmm.put('/logger', { level: 'WARNING' });
    await vmm.put('/logger', {});
  });

  it('moves the log to another file', async (t) => {
    const fresh = await startVmm(t);
    const path = `${fresh.dir}/other.log`;
    await fresh.put('/logger', { log_path: path, show_level: true });
    await fresh.get('/');
    const { readFileSync } = await import('node:fs');
    assert.match(readFileSync(path, 'utf8'), /:fc_api:INFO\] The API server received a Get request on "\/"\./);
  });

  it('takes metrics once', async (t) => {
    const fresh = await startVmm(t);
    await fresh.put('/metrics', { metrics_path: `${fresh.dir}/m` });
    assert.equal(
      await fresh.fault('PUT', '/metrics', { metrics_path: `${fresh.dir}/m` }),
      'Metrics error: Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.',
    );
  });

  it('takes entropy again and again, and echoes it', async () => {
    await vmm.put('/entropy', {});
    await vmm.put('/entropy', { rate_limiter: {} });
    const { entropy } = await vmm.get<{ entropy: unknown }>('/vm/config');
    assert.deepEqual(entropy, { rate_limiter: null });
  });

  it('takes a console file that does not exist yet', async () => {
    await vmm.put('/serial', { serial_out_path: '/nonexistent/console' });
    await vmm.put('/serial', {});
  });
});

describe('order of calls', () => {
  it('refuses run-time calls before the start, after checking their bodies', async () => {
    assert.equal(await vmm.fault('PATCH', '/vm', { state: 'Paused' }), BEFORE_START);
    assert.equal(
      await vmm.fault('PATCH', '/vm', { state: 'paused' }),
      `${JSON_TROUBLE} unknown variant \`paused\`, expected \`Paused\` or \`Resumed\` at line 1 column 17.`,
    );
    assert.equal(await vmm.fault('PUT', '/actions', { action_type: 'SendCtrlAltDel' }), BEFORE_START);
    assert.equal(await vmm.fault('PUT', '/actions', { action_type: 'FlushMetrics' }), BEFORE_START);
    assert.equal(await vmm.fault('PATCH', '/drives/a', { drive_id: 'a', path_on_host: 'x' }), BEFORE_START);
    assert.equal(await vmm.fault('PATCH', '/network-interfaces/a', { iface_id: 'a' }), BEFORE_START);
    assert.equal(await vmm.fault('PATCH', '/balloon', { amount_mib: 1 }), BEFORE_START);
    assert.equal(await vmm.fault('GET', '/balloon/statistics'), BEFORE_START);
    assert.equal(await vmm.fault('PUT', '/snapshot/create', { snapshot_path: 'a', mem_file_path: 'b' }), BEFORE_START);
  });

  it('refuses to start without a kernel and stays as it was', async (t) => {
    const fresh = await startVmm(t);
    assert.equal(
      await fresh.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      'Start microvm error: Cannot start microvm without kernel configuration.',
    );
    assert.equal((await fresh.get('/')).state, 'Not started');
  });

  it('takes any size of memory, echoes it, and refuses what cannot be had at the start', async (t) => {
    const fresh = await startVmm(t);
    await fresh.put('/boot-source', { kernel_image_path: kernel });
    await fresh.call('PATCH', '/machine-config', '{"mem_size_mib": 18446744073709551615}');
    assert.match((await fresh.call('GET', '/machine-config')).body, /"mem_size_mib":18446744073709551615,/);
    assert.equal(
      await fresh.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      'Start microvm error: Invalid Memory Configuration: Total sum of memory regions exceeds largest possible file offset',
    );
    await fresh.patch('/machine-config', { mem_size_mib: 2 ** 30 });
    assert.equal(
      await fresh.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      'Start microvm error: Invalid Memory Configuration: Cannot create mmap region: Out of memory (os error 12)',
    );
    await fresh.patch('/machine-config', { mem_size_mib: 256 });
    assert.equal((await fresh.get('/')).state, 'Not started');
  });

  it('echoes limits up to 64 bits', async (t) => {
    const fresh = await startVmm(t);
    const path_on_host = await fresh.file('d', Buffer.alloc(512));
    const bucket = '{"size": 18446744073709551615, "refill_time": 1}';
    const body = `{"drive_id": "d", "is_root_device": false, "path_on_host": "${path_on_host}", "rate_limiter": {"bandwidth": ${bucket}}}`;
    assert.equal((await fresh.call('PUT', '/drives/d', body)).status, 204);
    assert.match((await fresh.call('GET', '/vm/config')).body, /"bandwidth":\{"size":18446744073709551615,/);
  });

  it('shows every section of the configuration, empty or not', async (t) => {
    const fresh = await startVmm(t);
    assert.deepEqual(await fresh.get('/vm/config'), {
      balloon: null,
      drives: [],
      'boot-source': { kernel_image_path: '', initrd_path: null, boot_args: null },
      'cpu-config': null,
      logger: null,
      'machine-config': { vcpu_count: 1, mem_size_mib: 128, smt: false, track_dirty_pages: false, huge_pages: 'None' },
      metrics: null,
      'mmds-config': null,
      'network-interfaces': [],
      vsock: null,
      entropy: null,
      pmem: [],
      'memory-hotplug': null,
    });
  });
});
