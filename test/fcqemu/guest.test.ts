/** A running guest: start, console, pause, reset, and every way the process and QEMU may end. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { code, tinyKernel } from './support/tiny-kernel.ts';
import {
  firecrackerBin,
  guestSkipReason,
  startVmm,
  type Vmm,
  type VmmOptions,
  waitFor,
} from './support/vmm-process.ts';

const AFTER_START = 'The requested operation is not supported after starting the microVM.';
const skip = guestSkipReason() ?? false;
const fcqemuOnly = { skip: skip || (firecrackerBin ? 'about QEMU' : false) };

async function boot(t: TestContext, instructions: number[], options: VmmOptions = {}): Promise<Vmm> {
  const vmm = await startVmm(t, options);
  await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(instructions)) });
  await vmm.put('/actions', { action_type: 'InstanceStart' });
  return vmm;
}

/** Process id of the QEMU of a VMM. */
function qemuPid(vmm: Vmm): number {
  const children = readFileSync(`/proc/${vmm.process.pid}/task/${vmm.process.pid}/children`, 'latin1');
  return Number(children.trim().split(' ')[0]);
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
}

describe('a started microVM', { skip, concurrency: 2 }, () => {
  it('runs, pauses and resumes, each as often as asked', async (t) => {
    const vmm = await boot(t, code.halt());
    assert.equal((await vmm.get('/')).state, 'Running');
    for (const [state, seen] of [
      ['Paused', 'Paused'],
      ['Paused', 'Paused'],
      ['Resumed', 'Running'],
      ['Resumed', 'Running'],
    ]) {
      await vmm.patch('/vm', { state });
      assert.equal((await vmm.get('/')).state, seen);
    }
  });

  it('refuses configuration after the start, and a second start', async (t) => {
    const vmm = await boot(t, code.halt());
    const refused: [string, string, unknown][] = [
      ['PUT', '/boot-source', { kernel_image_path: 'x' }],
      ['PUT', '/machine-config', { vcpu_count: 1, mem_size_mib: 128 }],
      ['PATCH', '/machine-config', { vcpu_count: 1 }],
      ['PUT', '/entropy', {}],
      ['PUT', '/serial', {}],
      ['PUT', '/logger', {}],
      ['PUT', '/metrics', { metrics_path: 'x' }],
      ['PUT', '/vsock', { guest_cid: 3, uds_path: 'x' }],
      ['PUT', '/actions', { action_type: 'InstanceStart' }],
    ];
    for (const [method, path, body] of refused) assert.equal(await vmm.fault(method, path, body), AFTER_START, path);
    await vmm.put('/actions', { action_type: 'SendCtrlAltDel' });
    await vmm.put('/actions', { action_type: 'FlushMetrics' });
  });

  it('keeps its configuration visible', async (t) => {
    const vmm = await startVmm(t);
    const path_on_host = await vmm.file('disk', Buffer.alloc(4096));
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
    await vmm.put('/drives/a', { drive_id: 'a', is_root_device: true, path_on_host, is_read_only: true });
    await vmm.put('/entropy', {});
    const before = await vmm.get('/vm/config');
    await vmm.put('/actions', { action_type: 'InstanceStart' });
    assert.deepEqual(await vmm.get('/vm/config'), before);
  });

  it('connects the serial port with standard output and input', async (t) => {
    const echoTwice = [...code.waitForByte(), ...code.echo(), ...code.waitForByte(), ...code.echo()];
    const vmm = await boot(t, [...code.print('hello'), ...echoTwice, ...code.halt()], { stdin: 'pipe' });
    await waitFor(() => vmm.output().includes('hello'), 'the guest');
    vmm.process.stdin?.write('o');
    await waitFor(() => vmm.output().includes('helloo'), 'the first echo');
    vmm.process.stdin?.write('k');
    await waitFor(() => vmm.output().includes('hellook'), 'the second echo');
  });

  it('writes the console to a file when /serial says so', async (t) => {
    const vmm = await startVmm(t);
    const console = join(vmm.dir, 'console');
    await vmm.put('/serial', { serial_out_path: console });
    await vmm.put('/boot-source', {
      kernel_image_path: await vmm.file('vmlinux', tinyKernel([...code.print('to the file'), ...code.halt()])),
    });
    await vmm.put('/actions', { action_type: 'InstanceStart' });
    await waitFor(() => readFileSync(console, 'latin1') === 'to the file', 'the console file');
    assert.equal(vmm.output(), '');
  });

  it('drops console output above the rate it is given', async (t) => {
    const vmm = await startVmm(t);
    const console = join(vmm.dir, 'console');
    await vmm.put('/metrics', { metrics_path: join(vmm.dir, 'metrics') });
    await vmm.put('/serial', { serial_out_path: console, rate_limiter: { size: 10, refill_time: 3_600_000 } });
    await vmm.put('/boot-source', {
      kernel_image_path: await vmm.file('vmlinux', tinyKernel([...code.print('0123456789abcdef'), ...code.reset()])),
    });
    await vmm.put('/actions', { action_type: 'InstanceStart' });
    assert.equal((await vmm.ended).code, 0);
    assert.equal(readFileSync(console, 'latin1'), '0123456789');
    const lines = readFileSync(join(vmm.dir, 'metrics'), 'utf8').trim().split('\n');
    const dropped = lines.map((line) => JSON.parse(line).uart.rate_limiter_dropped_bytes as number);
    assert.equal(
      dropped.reduce((sum, each) => sum + each, 0),
      6,
    );
  });

  it('takes no more input than a guest that does not read has room for', async (t) => {
    const vmm = await boot(t, code.halt(), { stdin: 'pipe' });
    const sizeBytes = 50_000_000;
    const input = vmm.process.stdin;
    assert.ok(input);
    input.on('error', () => {});
    input.write(Buffer.alloc(sizeBytes, 'x'));
    await delay(500);
    assert.ok(input.writableLength > sizeBytes / 2, 'the VMM keeps what nobody reads');
  });

  it('counts the bytes of the console that nobody read in time', async (t) => {
    const metricsFile = join(await tempDir(t), 'metrics');
    const vmm = await boot(t, code.flood('x'), { args: ['--metrics-path', metricsFile] });
    vmm.process.stdout?.pause();
    const missed = () =>
      readFileSync(metricsFile, 'utf8')
        .trim()
        .split('\n')
        .reduce((sum, line) => sum + JSON.parse(line).uart.missed_write_count, 0);
    const deadline = performance.now() + paced(30_000);
    while (missed() < 10_000 && performance.now() < deadline) {
      await delay(100);
      await vmm.put('/actions', { action_type: 'FlushMetrics' });
    }
    assert.ok(missed() >= 10_000, `${missed()} bytes were lost`);
  });

  it('goes on answering while nobody reads a flooded console', async (t) => {
    const vmm = await boot(t, code.flood('x'));
    vmm.process.stdout?.pause();
    await delay(300);
    const begin = performance.now();
    await vmm.patch('/vm', { state: 'Paused' });
    await vmm.get('/');
    assert.ok(performance.now() - begin < paced(700), 'an API call took longer than Firecracker allows');
  });

  it('logs how long the guest took to reach the boot timer, when there is one', async (t) => {
    // mov byte [0xc0000000], 123
    const touch = [0xc6, 0x05, 0x00, 0x00, 0x00, 0xc0, 123];
    const instructions = [...touch, ...code.print('booted'), ...code.reset()];
    const line = /Guest-boot-time = +\d+ us \d+ ms, +\d+ CPU us \d+ CPU ms\n/;
    const timed = await boot(t, instructions, { args: ['--boot-timer'] });
    assert.equal((await timed.ended).code, 0);
    assert.match(timed.log(), line);
    const plain = await boot(t, instructions);
    await plain.ended;
    assert.doesNotMatch(plain.log(), line);
    assert.equal(plain.output(), 'booted');
  });

  it('logs ten such times at once, however often the guest writes there', async (t) => {
    // mov ecx, 500; again: mov byte [0xc0000000], 123; loop again
    const flood = [0xb9, 0xf4, 0x01, 0x00, 0x00, 0xc6, 0x05, 0x00, 0x00, 0x00, 0xc0, 123, 0xe2, 0xf7];
    const vmm = await boot(t, [...flood, ...code.reset()], { args: ['--boot-timer'] });
    assert.equal((await vmm.ended).code, 0);
    const times = vmm.log().match(/Guest-boot-time/g)?.length ?? 0;
    assert.ok(times >= 10 && times < 100, `${times} lines`);
  });

  it('ends with 0 when the guest resets', async (t) => {
    const vmm = await boot(t, [...code.print('bye'), ...code.reset()]);
    const end = await vmm.ended;
    assert.deepEqual([end.code, end.signal], [0, null]);
    assert.equal(vmm.output(), 'bye');
    assert.match(vmm.log(), /Firecracker exiting successfully\. exit_code=0\n$/);
  });

  it('stays when the guest stops without a reset', async (t) => {
    const vmm = await boot(t, [...code.print('halted'), ...code.halt()]);
    await waitFor(() => vmm.output() === 'halted', 'the guest');
    await delay(200);
    assert.equal((await vmm.get('/')).state, 'Running');
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGKILL'] as const) {
    it(`takes QEMU along when it dies by ${signal}`, fcqemuOnly, async (t) => {
      const vmm = await boot(t, code.halt());
      const pid = qemuPid(vmm);
      assert.ok(isAlive(pid));
      vmm.process.kill(signal);
      assert.equal((await vmm.ended).signal, signal);
      await waitFor(() => !isAlive(pid), 'the end of QEMU', 2000);
    });
  }

  it('leaves no QEMU behind when it is killed at the moment QEMU is started', fcqemuOnly, async (t) => {
    for (let attempt = 0; attempt < 10; attempt++) {
      const vmm = await startVmm(t);
      await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
      const answer = vmm.call('PUT', '/actions', { action_type: 'InstanceStart' }).catch(() => {});
      await waitFor(() => qemuPid(vmm) > 0, 'QEMU');
      const pid = qemuPid(vmm);
      vmm.process.kill('SIGKILL');
      await answer;
      await waitFor(() => !isAlive(pid), 'the end of QEMU', 5000);
    }
  });

  it('has killed QEMU before SIGTERM ends it', fcqemuOnly, async (t) => {
    const vmm = await boot(t, code.halt());
    const pid = qemuPid(vmm);
    vmm.process.kill('SIGTERM');
    await new Promise((resolve) => vmm.process.once('exit', resolve));
    assert.equal(isAlive(pid), false);
  });

  it('ends with 1 and says so when QEMU dies by itself', fcqemuOnly, async (t) => {
    const vmm = await boot(t, code.halt());
    process.kill(qemuPid(vmm), 'SIGKILL');
    assert.equal((await vmm.ended).code, 1);
    assert.match(vmm.log(), /QEMU ended unexpectedly: it was killed by SIGKILL/);
    assert.match(vmm.log(), /Firecracker exiting with error\. exit_code=1\n$/);
  });

  it('says what is wrong with a kernel, and may be corrected', async (t) => {
    const vmm = await startVmm(t);
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('garbage', 'x'.repeat(5000)) });
    assert.match(
      await vmm.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      /^Start microvm error: System configuration error: .* Kernel Loader: Invalid Elf magic number$/,
    );
    assert.equal((await vmm.get('/')).state, 'Not started');
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
    await vmm.put('/actions', { action_type: 'InstanceStart' });
    assert.equal((await vmm.get('/')).state, 'Running');
  });

  it('reports a QEMU that is not there', fcqemuOnly, async (t) => {
    const vmm = await startVmm(t, { env: { FCQEMU_QEMU: '/nonexistent/qemu' } });
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
    assert.match(
      await vmm.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      /^Start microvm error: .*\/nonexistent\/qemu.*No such file or directory/,
    );
  });

  it('refuses more devices than Firecracker has interrupts for', async (t) => {
    const vmm = await startVmm(t);
    const path_on_host = await vmm.file('disk', Buffer.alloc(512));
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
    for (let i = 0; i < 18; i++) {
      await vmm.put(`/drives/d${i}`, { drive_id: `d${i}`, is_root_device: false, path_on_host, is_read_only: true });
    }
    assert.match(
      await vmm.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      /^Start microvm error: Could not attach device: .*: The requested resource is not available\.$/,
    );
  });

  it('gives the guest drives whose paths would confuse an option list', fcqemuOnly, async (t) => {
    const vmm = await startVmm(t);
    const path_on_host = await vmm.file('a,readonly=on,"b{}.img', Buffer.alloc(4096));
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('k,initrd=x', tinyKernel(code.halt())) });
    await vmm.put('/drives/a', { drive_id: 'a', is_root_device: true, path_on_host });
    await vmm.put('/actions', { action_type: 'InstanceStart' });
    assert.equal((await vmm.get('/')).state, 'Running');
  });

  it('uses no CPU time while nothing happens', fcqemuOnly, async (t) => {
    const vmm = await boot(t, code.halt());
    const cpuTicks = () => {
      const fields = readFileSync(`/proc/${vmm.process.pid}/stat`, 'latin1').split(') ')[1]?.split(' ') ?? [];
      return Number(fields[11]) + Number(fields[12]);
    };
    // what the start left is cleared away once
    await delay(2000);
    const before = cpuTicks();
    await delay(1000);
    assert.ok(cpuTicks() - before <= 1, 'it used CPU time while nothing happened');
  });
});

describe('the choice between KVM and emulation', fcqemuOnly, () => {
  /** A stand-in for QEMU that notes how it was called. */
  async function fakeQemu(t: TestContext, kvmBehaviour: string): Promise<{ vmm: Vmm; calls: () => string[] }> {
    const vmm = await startVmm(t, {
      withoutSocket: false,
      env: {
        FCQEMU_ACCEL: 'auto',
        FCQEMU_QEMU: join('/proc/self/cwd', 'fake-qemu'),
        XDG_CACHE_HOME: '/proc/self/cwd/cache',
      },
    });
    const script = `#!/bin/sh
for word; do case "$previous" in -accel) accel=$word;; esac; previous=$word; done
echo "$accel" >> "${vmm.dir}/calls"
case "$accel" in kvm) ${kvmBehaviour};; esac
echo "refused on purpose" >&2
exit 1
`;
    writeFileSync(join(vmm.dir, 'fake-qemu'), script);
    await chmod(join(vmm.dir, 'fake-qemu'), 0o755);
    await vmm.put('/boot-source', { kernel_image_path: await vmm.file('vmlinux', tinyKernel(code.halt())) });
    return { vmm, calls: () => readFileSync(join(vmm.dir, 'calls'), 'latin1').trim().split('\n') };
  }

  /** Waits for the note about the kernel. */
  async function tried(vmm: Vmm): Promise<void> {
    const names = () => readdirSync(join(vmm.dir, 'cache/fcqemu'));
    await waitFor(() => names().some((name) => !/-(try|sum)-/.test(name)), 'the trial');
  }

  const kvmSkip = () => {
    try {
      readFileSync('/sys/class/misc/kvm/dev');
      return false;
    } catch {
      return 'this host has no /dev/kvm';
    }
  };

  it('takes KVM when the kernel says something under it, and remembers', { skip: kvmSkip() }, async (t) => {
    const { vmm, calls } = await fakeQemu(t, "printf 'Linux version 6.1' >&3; sleep 1; exit 0");
    await tried(vmm);
    for (let i = 0; i < 2; i++) {
      assert.equal(
        await vmm.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
        'Start microvm error: QEMU exited with status 0',
      );
    }
    assert.deepEqual(calls(), ['kvm', 'kvm', 'kvm']);
  });

  it('keeps no start waiting for a kernel that is silent', { skip: kvmSkip() }, async (t) => {
    const { vmm, calls } = await fakeQemu(t, 'exec sleep 60');
    const begin = performance.now();
    assert.equal(
      await vmm.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
      'Start microvm error: refused on purpose',
    );
    assert.ok(performance.now() - begin < paced(2500), 'the start waited for the trial');
    assert.equal(calls()[0], 'kvm');
    assert.match(vmm.log(), /is still being tried out; emulating\./);
  });

  it('emulates when it ends at once, and remembers', { skip: kvmSkip() }, async (t) => {
    const { vmm, calls } = await fakeQemu(t, 'exit 1');
    await tried(vmm);
    for (let i = 0; i < 2; i++) {
      assert.equal(
        await vmm.fault('PUT', '/actions', { action_type: 'InstanceStart' }),
        'Start microvm error: refused on purpose',
      );
    }
    assert.deepEqual(
      calls().map((accel) => accel.slice(0, 3)),
      ['kvm', 'tcg', 'tcg'],
    );
    assert.match(vmm.log(), /KVM opens, but this kernel does not boot with it on this host; emulating\./);
  });
});
