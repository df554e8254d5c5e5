/**
 * A VM under a working KVM from creation to deletion, with as few boots and commands as show it: where KVM is emulated each
 * of them takes seconds, so what the command line adds is left to two of them and the rest goes through the API. Everything
 * else is in the other host tests, which `make proof` runs in the same place. What a kept machine and other users add has
 * files of its own, so that a fault of the place costs one of them.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { VmDetail } from '../../../src/api/vm.ts';
import { followOperation } from '../../../src/client/follow-operation.ts';
import { GIB } from '../../../src/units.ts';
import { crash, TestHost, until } from '../../support/host.ts';
import { kvmSkip, LIMIT, runsUnderKvm, SMALL } from '../under-kvm.ts';

const WEB = { name: 'web' };

describe('a VM under KVM', { skip: kvmSkip() }, () => {
  let host: TestHost;
  before(async () => {
    host = await TestHost.create();
    await host.daemon();
  });
  after(() => host[Symbol.asyncDispose]());

  /** Whether the VMM of the VM's last run was asked for Ctrl-Alt-Del. */
  const keysPressed = async (vm: VmDetail) =>
    (await readFile(join(vm.directory, 'vmm.log'), 'utf8')).includes('SendCtrlAltDel');

  const done = async (begun: Promise<{ id: string }>) => {
    const { state, error } = await followOperation(host.client, (await begun).id, () => {});
    assert.equal(state, 'succeeded', error?.message ?? state);
  };

  const runsAgain = async (before: number | null, what: string) => {
    await until(what, async () => {
      const { state, pid } = await host.vm('web');
      return state === 'running' && pid !== before;
    });
  };

  it('runs, and runs commands', LIMIT, async () => {
    await host.ok('run', 'web', ...SMALL);
    const { vmm, pid } = await host.vm('web');
    assert.equal(vmm, process.env.FIRECRACKER_BIN ? 'firecracker' : 'fcqemu');
    assert.ok(await runsUnderKvm(pid), 'the VMM has no VM of KVM');
    const ran = await host.run(['exec', 'web', '--', 'sh', '-c', 'cat; echo problem >&2; exit 7'], { input: 'a\nb' });
    assert.deepEqual([ran.status, ran.stdout, ran.stderr], [7, 'a\nb', 'problem\n']);
  });

  it('gets larger disks while it runs', LIMIT, async () => {
    const body = { workBytes: GIB, rootBytes: 5 * GIB, online: true };
    await done(host.client.call('resizeDisks', { params: WEB, body }));
    const script = 'df -B1 --output=size / /root | tail -n 2; echo kept > /root/note; sync';
    const [root = 0, work = 0] = (await host.guest('web', script)).split('\n').map(Number);
    assert.ok(root > 4.6 * GIB && work > 0.9 * GIB, `root ${root}, work ${work}`);
  });

  it('is taken over by the next daemon, which stops it by Ctrl-Alt-Del', LIMIT, async () => {
    const { pid } = await host.vm('web');
    await host.killDaemon();
    await host.daemon();
    const adopted = await host.vm('web');
    assert.deepEqual([adopted.state, adopted.pid], ['running', pid]);
    await done(host.client.call('stopVm', { params: WEB, body: {} }));
    assert.ok(await keysPressed(adopted));
    assert.equal((await host.vm('web')).state, 'stopped');
  });

  it('starts again with what was on its disks, and comes back when its guest reboots', LIMIT, async () => {
    await done(host.client.call('setVm', { params: WEB, body: { restartPolicy: 'on-failure' } }));
    await done(host.client.call('startVm', { params: WEB, body: { until: 'reachable' } }));
    const { pid } = await host.vm('web');
    assert.equal(
      await host.guest('web', 'cat /root/note; (sleep 1; systemctl reboot || kill -INT 1) > /dev/null 2>&1 &'),
      'kept',
    );
    await runsAgain(pid, 'it has rebooted');
  });

  it('comes back after its VMM was killed, and stops over SSH', LIMIT, async () => {
    const { pid } = await host.vm('web');
    crash(pid);
    await runsAgain(pid, 'it runs again');
    assert.equal(await host.guest('web', 'cat /root/note'), 'kept');
    await done(host.client.call('stopVm', { params: WEB, body: {} }));
    assert.ok(!(await keysPressed(await host.vm('web'))), 'it was asked over SSH');
    await host.assertQuiet('of a VM that was stopped');
  });
});
