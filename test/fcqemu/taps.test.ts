/** Taps: whose network namespace counts, who creates them, and from when to when they are held. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tapNamespace, tapSkipReason } from './support/tap.ts';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import { firecrackerBin, guestSkipReason, startVmm, type Vmm } from './support/vmm-process.ts';

const skip = tapSkipReason();
const TAP = fileURLToPath(new URL('../../fcqemu/vmm/net/tap.ts', import.meta.url));

const eth0 = (host_dev_name: string, more: object = {}) => ({ iface_id: 'eth0', host_dev_name, ...more });
const put = (vmm: Vmm, host_dev_name: string) => vmm.put('/network-interfaces/eth0', eth0(host_dev_name));
const refused = (vmm: Vmm, host_dev_name: string) => vmm.fault('PUT', '/network-interfaces/eth0', eth0(host_dev_name));
const fault = (error: string, name: string) =>
  `Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq structure: ${error}. Invalid TUN/TAP Backend provided by ${name}. Check our documentation on setting up the network devices.`;

/** Enters a namespace the way programs do that leave /sys as it is. */
function entered(prefix: string[]): string[] {
  return ['nsenter', `--net=/run/netns/${prefix[3]}`];
}

function devices(prefix: string[]): string {
  return spawnSync('ip', ['-n', prefix[3] ?? '', '-o', 'link'], { encoding: 'utf8' }).stdout;
}

async function booted(t: TestContext, prefix: string[], name = 'tap0'): Promise<Vmm> {
  const vmm = await startVmm(t, { prefix });
  await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
  await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 32 });
  await put(vmm, name);
  await vmm.put('/actions', { action_type: 'InstanceStart' });
  return vmm;
}

describe('a tap', { skip }, () => {
  it('is looked for in the namespace of the process, not in the one that /sys shows', async (t) => {
    const [here, elsewhere] = [tapNamespace(t), tapNamespace(t)];
    const holder = await startVmm(t, { prefix: here });
    await put(holder, 'tap0');
    spawnSync('ip', ['-n', elsewhere[3] ?? '', 'tuntap', 'add', 'only-there', 'mode', 'tap']);
    // /sys of the one, network of the other
    const vmm = await startVmm(t, { prefix: [...here, ...entered(elsewhere)] });
    await put(vmm, 'tap0');
    await put(vmm, 'only-there');
  });

  it('is held from its PUT on, until another takes its place or the process ends', async (t) => {
    const prefix = tapNamespace(t);
    const first = await startVmm(t, { prefix });
    const second = await startVmm(t, { prefix });
    await put(first, 'tap0');
    assert.equal(await refused(second, 'tap0'), fault('Resource busy (os error 16)', 'tap0'));
    await put(first, 'tap0');
    assert.equal(
      await first.fault('PUT', '/network-interfaces/eth1', { iface_id: 'eth1', host_dev_name: 'tap0' }),
      fault('Resource busy (os error 16)', 'tap0'),
    );
    await put(first, 'tap1');
    await put(second, 'tap0');
    second.process.kill('SIGKILL');
    await second.ended;
    await put(first, 'tap0');
  });

  it('is let go when the interface is refused for another reason', async (t) => {
    const prefix = tapNamespace(t);
    const vmm = await startVmm(t, { prefix });
    assert.match(
      await vmm.fault('PUT', '/network-interfaces/eth0', eth0('tap0', { mtu: 67 })),
      /MTU 67 is out of range \[68, 65535\]$/,
    );
    await put(await startVmm(t, { prefix }), 'tap0');
  });

  it('that is missing is created by who may do so, for as long as it is held', async (t) => {
    const prefix = tapNamespace(t);
    const vmm = await startVmm(t, { prefix });
    await put(vmm, 'made-here');
    assert.match(devices(prefix), / made-here: /);
    await put(vmm, '');
    assert.match(devices(prefix), / tap1: /);
    const config = await vmm.get<{ 'network-interfaces': { host_dev_name: string }[] }>('/vm/config');
    assert.deepEqual(
      config['network-interfaces'].map((iface) => iface.host_dev_name),
      ['tap1'],
    );
    await put(vmm, 'tap0');
    assert.doesNotMatch(devices(prefix), / made-here: | tap1: /);

    const weak = await startVmm(t, { prefix: [...prefix, 'setpriv', '--bounding-set', '-net_admin'] });
    assert.equal(await refused(weak, 'missing'), fault('Operation not permitted (os error 1)', 'missing'));
  });

  it('is refused when it is none, or no name', async (t) => {
    const prefix = tapNamespace(t);
    spawnSync('ip', ['-n', prefix[3] ?? '', 'tuntap', 'add', 'queues', 'mode', 'tap', 'multi_queue']);
    spawnSync('ip', ['-n', prefix[3] ?? '', 'tuntap', 'add', 'tunnel', 'mode', 'tun']);
    const vmm = await startVmm(t, { prefix });
    for (const name of ['lo', 'queues', 'tunnel', '.', '..', 'a/b', 'a b']) {
      assert.equal(await refused(vmm, name), fault('Invalid argument (os error 22)', name));
    }
    assert.match(await refused(vmm, 'sixteen-letters-'), /Open tap device failed: Invalid interface name$/);
  });

  it('is the guest’s, also in a second machine after its snapshot', { skip: skip || guestSkip() }, async (t) => {
    const prefix = tapNamespace(t);
    const vmm = await booted(t, entered(prefix));
    assert.match(spawnSync('ip', ['-n', prefix[3] ?? '', 'link', 'show', 'tap0']).stdout.toString(), /LOWER_UP/);
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await vmm.patch('/vm', { state: 'Paused' });
    await vmm.put('/snapshot/create', body);
    const early = await startVmm(t, { prefix: entered(prefix) });
    assert.equal(
      await early.fault('PUT', '/snapshot/load', body),
      'Load snapshot error: Failed to restore from snapshot: Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: Net: Failed to create a network device: Open tap device failed: Error while creating ifreq structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by tap0. Check our documentation on setting up the network devices.',
    );
    vmm.process.kill('SIGTERM');
    await vmm.ended;
    const clone = await startVmm(t, { prefix: entered(prefix) });
    await clone.put('/snapshot/load', { ...body, resume_vm: true });
    const link = spawnSync('ip', ['-n', prefix[3] ?? '', '-j', '-s', 'link', 'show', 'tap0'], { encoding: 'utf8' });
    assert.equal(JSON.parse(link.stdout)[0].stats64.rx.packets, 0, 'what is loaded announces itself to nobody');
    assert.equal(await refused(await startVmm(t, { prefix }), 'tap0'), fault('Resource busy (os error 16)', 'tap0'));
  });

  it('is counted in the namespace of the process', { skip: skip || ours() }, (t) => {
    const [here, elsewhere] = [tapNamespace(t), tapNamespace(t)];
    const [program = '', ...args] = [...here, ...entered(elsewhere)];
    const run = (...command: string[]) => spawnSync(program, [...args, ...command], { encoding: 'utf8' }).stdout;
    // nobody listens there, and that is answered
    run('bash', '-c', 'for i in 1 2 3; do echo hello > /dev/udp/127.0.0.1/9; done');
    const script = `const { deviceCounters } = await import(${JSON.stringify(TAP)});
      console.log(JSON.stringify(['lo', 'o', 'none'].map(deviceCounters)))`;
    const counted = JSON.parse(run(process.execPath, '--input-type=module', '-e', script));
    const none = { rxBytes: 0, rxPackets: 0, txBytes: 0, txPackets: 0 };
    const link = JSON.parse(run('ip', '-j', '-s', 'link', 'show', 'lo'))[0].stats64;
    assert.ok(link.rx.packets >= 3);
    const lo = {
      rxBytes: link.rx.bytes,
      rxPackets: link.rx.packets,
      txBytes: link.tx.bytes,
      txPackets: link.tx.packets,
    };
    assert.deepEqual(counted, [lo, none, none]);
  });
});

function guestSkip(): string | false {
  return guestSkipReason() ?? ours();
}

function ours(): string | false {
  return firecrackerBin ? 'about fcqemu' : false;
}
