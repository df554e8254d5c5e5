/** Real Linux guests: devices, power, pause and network, as a guest sees them. */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { paced } from '../../support/pace.ts';
import { BOOT_MS, linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { GUEST_NETWORK, HOST_ADDRESS, tapNamespace, tapSkipReason } from '../support/tap.ts';
import { TEST_INIT_ARGUMENT } from '../support/test-initrd.ts';
import { startVmm, waitFor } from '../support/vmm-process.ts';

const skip = linuxSkipReason();
describe('a Linux guest', { skip, timeout: paced(300_000) }, () => {
  it('finds its drives in order, with their contents, rights and serial numbers, and ends with a reboot', async (t) => {
    const vmm = await prepared(
      t,
      `for d in vda vdb vdc; do echo "$d=$(head -c 4 /dev/$d) ro=$(cat /sys/block/$d/ro) size=$(cat /sys/block/$d/size) serial=$(cat /sys/block/$d/serial)"; done
echo hello > /dev/vda; sync; cat /proc/cmdline; nproc; grep MemTotal /proc/meminfo; head -c 4 /dev/hwrng | wc -c; reboot -f`,
    );
    const image = async (text: string, sectors: number) =>
      await vmm.file(text, Buffer.concat([Buffer.from(text), Buffer.alloc(512 * sectors - text.length)]));
    const [second, third, root] = [await image('TWO-', 8), await image('THRE', 16), await image('ROOT', 24)];
    await vmm.put('/drives/b', { drive_id: 'b', is_root_device: false, path_on_host: second, is_read_only: true });
    await vmm.put('/drives/c', { drive_id: 'c', is_root_device: false, path_on_host: third, cache_type: 'Writeback' });
    await vmm.put('/drives/a', { drive_id: 'a', is_root_device: true, path_on_host: root });
    await vmm.put('/machine-config', { vcpu_count: 2, mem_size_mib: 200 });
    await vmm.put('/entropy', {});
    await start(vmm);
    const end = await vmm.ended;
    assert.equal(end.code, 0, end.stdout);
    assert.match(end.stdout, /vda=ROOT ro=0 size=24 serial=\d+/);
    assert.match(end.stdout, /vdb=TWO- ro=1 size=8 /);
    assert.match(end.stdout, /vdc=THRE ro=0 size=16 /);
    assert.match(end.stdout, /rdinit=\S+ +pci=off root=\/dev\/vda rw/);
    assert.match(end.stdout, /^2\r?\nMemTotal: +1[5-9]\d{4} kB/m);
    assert.match(end.stdout, /^4\r?$/m);
    assert.equal(readFileSync(root, 'latin1').slice(0, 6), 'hello\n');
  });

  it('keeps its microVM when it powers off', async (t) => {
    const vmm = await prepared(t, 'echo going down; poweroff -f');
    await start(vmm);
    await said(vmm, 'going down');
    await waitFor(() => vmm.log().includes('The guest powered off'), 'the end of the guest', BOOT_MS);
    assert.equal((await vmm.get('/')).state, 'Running');
    await vmm.patch('/vm', { state: 'Paused' });
    await vmm.patch('/vm', { state: 'Resumed' });
    assert.equal(vmm.process.exitCode, null);
  });

  it('reboots on Ctrl-Alt-Del, which ends the microVM', async (t) => {
    const vmm = await prepared(t, 'echo 1 > /proc/sys/kernel/ctrl-alt-del; echo ready; while :; do sleep 1; done');
    await start(vmm);
    await said(vmm, 'ready');
    await vmm.put('/actions', { action_type: 'SendCtrlAltDel' });
    assert.equal((await vmm.ended).code, 0);
  });

  it('gets a Ctrl-Alt-Del that was pressed while it was paused', async (t) => {
    const vmm = await prepared(t, 'echo 1 > /proc/sys/kernel/ctrl-alt-del; echo ready; while :; do sleep 1; done');
    await start(vmm);
    await said(vmm, 'ready');
    await vmm.patch('/vm', { state: 'Paused' });
    await vmm.put('/actions', { action_type: 'SendCtrlAltDel' });
    await vmm.patch('/vm', { state: 'Resumed' });
    assert.equal((await vmm.ended).code, 0);
  });

  it('stands still while it is paused', async (t) => {
    const vmm = await prepared(t, 'i=0; while :; do echo "tick $i"; i=$((i+1)); usleep 50000; done');
    await start(vmm);
    await said(vmm, 'tick 3');
    await vmm.patch('/vm', { state: 'Paused' });
    await delay(200);
    const before = vmm.output();
    await delay(500);
    assert.equal(vmm.output(), before);
    await vmm.patch('/vm', { state: 'Resumed' });
    await waitFor(() => vmm.output().length > before.length, 'more ticks');
  });

  it('sees another disk and its size after PATCH /drives', async (t) => {
    const vmm = await prepared(
      t,
      'echo ready; read go; echo "size=$(cat /sys/block/vda/size) content=$(head -c 3 /dev/vda)"; reboot -f',
      { stdin: 'pipe' },
    );
    const path_on_host = await vmm.file('one', Buffer.alloc(4096, 'a'));
    await vmm.put('/drives/d', { drive_id: 'd', is_root_device: false, path_on_host });
    await start(vmm);
    await said(vmm, 'ready');
    await vmm.patch('/drives/d', { drive_id: 'd', path_on_host: await vmm.file('two', Buffer.alloc(16384, 'b')) });
    await delay(300);
    vmm.process.stdin?.write('\n');
    const end = await vmm.ended;
    assert.match(end.stdout, /size=32 content=bbb/);
  });

  it('gives memory to the balloon and reports statistics', async (t) => {
    const vmm = await prepared(t, 'echo ready; while :; do sleep 1; done');
    await vmm.put('/balloon', { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 1 });
    await start(vmm);
    await said(vmm, 'ready');
    await vmm.patch('/balloon', { amount_mib: 30 });
    let stats: Record<string, number> = {};
    for (let i = 0; i < 100 && (stats.actual_mib !== 30 || stats.total_memory === undefined); i++) {
      await delay(100);
      stats = await vmm.get('/balloon/statistics');
    }
    assert.deepEqual([stats.target_mib, stats.actual_mib, stats.actual_pages], [30, 30, 7680]);
    assert.ok((stats.total_memory ?? 0) > 50 * 1024 * 1024);
  });

  it('does not lose the interrupts of its devices to arguments that Firecracker tolerates', async (t) => {
    const vmm = await prepared(t, 'head -c 3 /dev/vda; echo " read"; reboot -f', {}, 'noapic acpi=off');
    const path_on_host = await vmm.file('disk', Buffer.alloc(4096, 'z'));
    await vmm.put('/drives/d', { drive_id: 'd', is_root_device: false, path_on_host });
    await start(vmm);
    assert.match((await vmm.ended).stdout, /zzz read/);
    assert.match(vmm.log(), /The kernel argument noapic was left out/);
  });

  it('boots from a bzImage too', { skip: skip || noBzImage() }, async (t) => {
    const vmm = await prepared(t, 'echo up; reboot -f');
    const kernel = join(vmm.dir, 'bzImage');
    copyFileSync(process.env.BANGER_TEST_BZIMAGE ?? '', kernel);
    const initrd = join(vmm.dir, 'initrd');
    await vmm.put('/boot-source', {
      kernel_image_path: kernel,
      initrd_path: initrd,
      boot_args: `console=ttyS0 quiet reboot=k ${TEST_INIT_ARGUMENT}`,
    });
    await start(vmm);
    assert.match((await vmm.ended).stdout, /up\r?\n/);
  });
});

function noBzImage(): string | false {
  return process.env.BANGER_TEST_BZIMAGE ? false : 'BANGER_TEST_BZIMAGE names no kernel';
}

describe('a Linux guest on a tap', { skip: skip || tapSkipReason(), timeout: paced(300_000) }, () => {
  it('reaches the host with its own address and MTU, and nobody else may take the tap', async (t) => {
    const prefix = tapNamespace(t, 1400);
    const vmm = await prepared(
      t,
      `${GUEST_NETWORK}; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu
ping -c 2 -W 5 ${HOST_ADDRESS} >/dev/null && echo reached; echo ready; read go; reboot -f`,
      { prefix, stdin: 'pipe' },
    );
    const iface = { iface_id: 'eth0', host_dev_name: 'tap0', guest_mac: '06:00:C0:00:02:02', mtu: 1400 };
    await vmm.put('/network-interfaces/eth0', iface);
    await vmm.put('/metrics', { metrics_path: join(vmm.dir, 'metrics') });
    await start(vmm);
    await said(vmm, 'ready');

    const second = await startVmm(t, { prefix });
    assert.match(
      await second.fault('PUT', '/network-interfaces/eth0', iface),
      /Error while creating ifreq structure: Resource busy \(os error 16\)\. Invalid TUN\/TAP Backend provided by tap0/,
    );

    vmm.process.stdin?.write('\n');
    const { stdout, code } = await vmm.ended;
    assert.equal(code, 0);
    assert.match(stdout, /06:00:c0:00:02:02\r?\n1400\r?\nreached/);
    const lines = readFileSync(join(vmm.dir, 'metrics'), 'utf8').trim().split('\n');
    const received = lines.map((line) => JSON.parse(line).net_eth0?.tx_packets_count ?? 0);
    assert.ok(received.reduce((sum: number, each: number) => sum + each, 0) > 0, 'no packets were counted');

    await second.put('/network-interfaces/eth0', iface);
  });
});
