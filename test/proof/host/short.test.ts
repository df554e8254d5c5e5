/**
 * A VM under a working KVM from creation to deletion, with as few boots and commands as show it: where KVM is emulated each
 * of them takes seconds, so what the command line adds is left to two of them and the rest goes through the API. Everything
 * else is in the other host tests, which `make proof` runs in the same place.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile, readlink, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ImageBuilt } from '../../../src/api/image-build.ts';
import type { VmDetail } from '../../../src/api/vm.ts';
import { followOperation } from '../../../src/client/follow-operation.ts';
import { GIB } from '../../../src/units.ts';
import { crash, hostSkip, TestHost, until } from '../../support/host.ts';
import { OrdinaryUser } from '../../support/ordinary-user.ts';
import { paced } from '../../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const BUILD_LIMIT_MS = 400_000;
const WEB = { name: 'web' };
const SMALL = ['--memory', '192M', '--work-disk', '64M'];

/** The rig has seen to it that guests run under KVM; elsewhere a device that opens says nothing. */
const skip =
  hostSkip('sudo', 'visudo', 'useradd', 'setpriv') ||
  (!process.env.BANGER_PROOF && 'nobody has looked whether KVM works here: it runs in the rig of make proof');

/** Programs that run guests, by their open files: the VMM itself or what it has started. */
async function runsUnderKvm(vmm: number | null): Promise<boolean> {
  assert.ok(vmm, 'there is no VMM');
  const children = (await readFile(`/proc/${vmm}/task/${vmm}/children`, 'latin1')).split(' ').filter(Boolean);
  for (const pid of [String(vmm), ...children]) {
    for (const fd of await readdir(`/proc/${pid}/fd`)) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => ''); // closed meanwhile
      if (target === 'anon_inode:kvm-vm') return true;
    }
  }
  return false;
}

describe('a VM under KVM', { skip }, () => {
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

  it('that was kept by an image build goes on', LIMIT, async () => {
    const recipe = join(host.home, 'kept.toml');
    const build = async (last: string) => {
      await writeFile(recipe, `run = ["echo first > /opt/mark", "echo ${last} >> /opt/mark"]`);
      const ran = await host.run(['image', 'build', recipe, '--json'], { timeoutMs: BUILD_LIMIT_MS });
      assert.equal(ran.status, 0, ran.stderr);
      const { steps } = JSON.parse(ran.stdout) as ImageBuilt;
      return steps.filter(({ cached }) => !cached).map(({ step }) => step)[0];
    };
    assert.equal(await build('one'), 'boot');
    assert.equal(await build('two'), 'revive', 'a snapshot of its memory was loaded');
    await host.assertQuiet('of image builds');
  });
});

describe('a VM under KVM of a user who is not root', { skip }, () => {
  // QEMU is never run as root, so under fcqemu the group is the one way to KVM
  const ways = process.env.FIRECRACKER_BIN ? [[], ['kvm']] : [['kvm']];
  for (const groups of ways) {
    it(`runs and stops through sudo${groups.length > 0 ? ' and the group kvm' : ''}`, LIMIT, async () => {
      const { mode, gid } = await stat('/dev/kvm');
      assert.deepEqual([(mode & 0o777).toString(8), gid !== 0], ['660', true], 'the device is of a group');
      await using user = await OrdinaryUser.create(groups);
      await user.allow();
      await user.ok('run', 'web', ...SMALL);
      const { id, pid } = JSON.parse(await user.ok('show', 'web', '--json')) as VmDetail;
      assert.ok(await runsUnderKvm(pid), 'the VMM has no VM of KVM');
      const owner = /^Uid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
      assert.equal(owner, groups.includes('kvm') ? user.uid : '0');
      assert.equal(await user.ok('exec', '-n', 'web', '--', 'hostname'), 'web');
      await user.ok('stop', 'web');
      assert.ok(!existsSync(`/proc/${pid}`) && !existsSync(`/sys/class/net/bgr-${id}`), 'a stop left something');
    });
  }
});
