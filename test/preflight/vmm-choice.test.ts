import assert from 'node:assert/strict';
import { mkdir, rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { chooseVmm } from '../../src/preflight/vmm-choice.ts';
import { BOOTS, REFUSES, testMachine } from './support.ts';

describe('chooseVmm', () => {
  it('takes Firecracker where it is installed and guests run under KVM', async (t) => {
    const { context, script } = await testMachine(t);
    const path = await script('firecracker', BOOTS);
    const choice = await chooseVmm(context);
    assert.deepEqual([choice.kind, choice.acceleration, choice.program], ['firecracker', 'kvm', [path]]);
    assert.match(choice.reason, /^Firecracker is installed and KVM works\. A test guest printed/);
  });

  it('takes fcqemu and emulation where guests do not run', async (t) => {
    const { context, script } = await testMachine(t);
    await script('firecracker', REFUSES);
    const choice = await chooseVmm(context);
    assert.deepEqual([choice.kind, choice.acceleration, choice.program], ['fcqemu', 'tcg', context.fcqemu]);
    assert.match(choice.reason, /^Firecracker is installed, but KVM does not work\./);
    assert.equal(choice.env.FCQEMU_ACCEL, 'tcg');
  });

  it('takes fcqemu under KVM where only Firecracker is missing', async (t) => {
    const { context, script } = await testMachine(t);
    const qemu = await script('qemu-system-x86_64', BOOTS);
    const choice = await chooseVmm(context);
    assert.deepEqual([choice.kind, choice.acceleration], ['fcqemu', 'kvm']);
    assert.deepEqual(choice.env, { FCQEMU_QEMU: qemu, FCQEMU_ACCEL: 'kvm' });
    assert.match(choice.reason, /^Firecracker is not installed\./);
  });

  it('takes fcqemu when it is configured, even where Firecracker would work', async (t) => {
    const { context, script } = await testMachine(t, { env: { BANGER_VMM: 'fcqemu' } });
    await script('firecracker', BOOTS);
    assert.equal((await chooseVmm(context)).kind, 'fcqemu');
  });

  it('takes the Firecracker that banger installed where there is none in PATH', async (t) => {
    const { context, home, script } = await testMachine(t);
    const release = join(home, 'state', 'vmm', '1.16.1');
    await mkdir(release, { recursive: true });
    const installed = join(release, 'firecracker');
    await rename(await script('firecracker', BOOTS), installed);
    await symlink('1.16.1', join(home, 'state', 'vmm', 'current'));
    assert.deepEqual((await chooseVmm({ ...context })).program, [installed]);
    const inPath = await script('firecracker', BOOTS);
    assert.deepEqual((await chooseVmm({ ...context })).program, [inPath]);
  });

  it('refuses to replace a Firecracker that is configured', async (t) => {
    const { context, script } = await testMachine(t, { env: { BANGER_VMM: 'firecracker' } });
    await assert.rejects(chooseVmm({ ...context }), {
      code: 'host_unprepared',
      message: /vmm is "firecracker", but firecracker is not installed \(looked in PATH .* and in .*vmm\)/,
      hint: 'Get it: banger vmm install   or run on QEMU instead: BANGER_VMM=auto',
    });
    await script('firecracker', REFUSES);
    await assert.rejects(chooseVmm({ ...context }), {
      code: 'host_unprepared',
      message: /but KVM does not work here\. /,
    });
  });

  it('names the package of a QEMU that is missing', async (t) => {
    const { context, remove } = await testMachine(t);
    await remove('qemu-system-x86_64');
    await assert.rejects(chooseVmm(context), { code: 'host_unprepared', hint: 'apt install qemu-system-x86' });
  });

  it('says that the stand-in is missing', async (t) => {
    const { context, remove } = await testMachine(t);
    await remove('fcqemu');
    await assert.rejects(chooseVmm(context), { code: 'host_unprepared', message: /^fcqemu is not installed/ });
  });

  it('emulates where there is no kernel to test KVM with', async (t) => {
    const { context } = await testMachine(t);
    const boot = new BangerError('not_found', 'There is no bundle.');
    const choice = await chooseVmm({ ...context, boot });
    assert.deepEqual([choice.acceleration, choice.reason.includes('There is no bundle')], ['tcg', true]);
  });
});
