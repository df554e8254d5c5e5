/** The daemon or a VMM dies at the worst moments: nothing is left without an owner, and VMs that live are kept. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OperationEvent } from '../../src/api/operation.ts';
import { crash, hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };

/** Step of a start and how many `ms` after its beginning the daemon dies; the steps up to the launch run side by side. Deaths before each effect are in test/control/vm/crashes.test.ts. */
const MOMENTS: [step: string, delayMs: number][] = [
  ['preflight', 0],
  ['preflight', 100],
  ['make-work-disk', 0],
  ['attach-network', 20],
  ['attach-network', 60],
  ['launch-vmm', 0],
  ['launch-vmm', 120],
  ['configure-vmm', 0],
  ['configure-vmm', 10],
  ['boot-guest', 0],
  ['boot-guest', 40],
  ['wait-for-ssh', 0],
  ['wait-for-ssh', 1000],
];

describe('a host whose daemon is killed', { skip: hostSkip('setpriv', 'debugfs') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({ lean: true });
    await host.daemon();
  });
  after(() => host?.[Symbol.asyncDispose]());

  /** Kills the daemon when the operation has come to this step, or when it has ended before. */
  async function killAt(id: string, step: string, delayMs: number): Promise<void> {
    const status = await host.client.call('status', {});
    const reached = Promise.withResolvers<void>();
    const follow = host.follow(id, (event: OperationEvent) => {
      if (event.type === 'step' && event.step === step) reached.resolve();
    });
    void follow.then(() => reached.resolve());
    await reached.promise;
    if (delayMs > 0) await sleep(delayMs);
    crash(status.pid);
    await until('the daemon is gone', async () => (await host.run(['daemon', 'status'])).status === 3, 10_000);
  }

  it('has no VM after a creation that was cut off while its disk was copied', LIMIT, async () => {
    // a disk that takes longer to copy than the lean one
    const { id } = await host.client.call('createVm', {
      body: { name: 'half', image: process.env.BANGER_TEST_BUNDLE },
    });
    await killAt(id, 'clone-root-disk', 30);
    await host.daemon();
    assert.deepEqual(await host.vms(), []);
    await host.assertQuiet('of a creation');
  });

  it('has nothing but disks after a start that was cut off at any step, and the VM can be started', LIMIT, async () => {
    await host.ok('create', 'web', '--memory', '256M');
    for (const [step, delayMs] of MOMENTS) {
      const { id } = await host.client.call('startVm', { params: { name: 'web' }, body: {} });
      await killAt(id, step, delayMs);
      await host.daemon();
      await host.assertQuiet(`of a start cut off ${delayMs} ms after ${step}`);
      assert.equal((await host.vm('web')).state, 'stopped', `${step} + ${delayMs} ms`);
      const operation = JSON.parse(await host.ok('operation', 'show', id, '--json'));
      assert.equal(operation.state, 'interrupted');
    }
    const [{ id }] = JSON.parse(await host.ok('operation', 'list', '--json'));
    await host.fails(1, ['operation', 'wait', id], [/vm\.start web was interrupted: the daemon ended/]);
    await host.ok('start', 'web');
    assert.equal(await host.guest('web', 'hostname'), 'web');
  });

  it('keeps running VMs and takes them over', LIMIT, async () => {
    const before = await host.vm('web');
    await host.guest('web', 'echo kept > /run/kept; sleep 1000 > /dev/null 2>&1 & echo $! > /run/pid');
    await host.killDaemon();
    assert.match((await host.run(['daemon', 'status'])).stderr, /No daemon answers/);
    // any command starts the next daemon, and its first answer is true already
    const [listed] = JSON.parse(await host.ok('ls', '--json'));
    assert.equal(listed.state, 'running');
    assert.equal(listed.pid, before.pid);
    assert.equal(listed.startedAt, before.startedAt);
    assert.equal(await host.guest('web', 'cat /run/kept; kill -0 $(cat /run/pid) && echo alive'), 'kept\nalive');
  });

  it('knows of a guest that powered off meanwhile', LIMIT, async () => {
    await host.soon('web', 'kill -USR1 1');
    await host.killDaemon();
    const vm = await host.vm('web').catch(() => undefined);
    assert.equal(vm, undefined, 'no daemon runs');
    await until(
      'the guest has powered off',
      async () => /Power down|System halted/.test(await consoleOf(host)),
      60_000,
    );
    await host.daemon();
    await until('it is stopped', async () => (await host.vm('web')).state === 'stopped', 10_000);
    await host.assertQuiet('of a guest that powered off');
  });

  it('starts a guest again that rebooted meanwhile', LIMIT, async () => {
    await host.ok('start', 'web');
    const { pid } = await host.vm('web');
    await host.soon('web', 'kill -INT 1');
    await host.killDaemon();
    await until('its VMM has ended', async () => !(await host.processes()).some((each) => each.pid === pid), 60_000);
    await host.daemon();
    await until('it runs again', async () => (await host.vm('web')).state === 'running', 120_000);
    assert.equal(await host.guest('web', 'cat /run/kept 2>/dev/null; hostname'), 'web');
  });

  it('says why a VM failed whose VMM was killed, with the daemon there and without', LIMIT, async () => {
    const { pid } = await host.vm('web');
    crash(pid);
    await until('it has failed', async () => (await host.vm('web')).state === 'failed', 10_000);
    assert.match((await host.vm('web')).failure ?? '', /^The VMM ended unexpectedly \(killed by SIGKILL\)/);
    await host.assertQuiet('of a VMM that was killed');
    await host.fails(5, ['exec', 'web', '--', 'true'], [/web is not running \(failed: The VMM/, /banger start web/]);
    assert.match(await host.ok('show', 'web'), /failed: The VMM ended unexpectedly/);

    const start = await host.client.call('startVm', { params: { name: 'web' }, body: {} });
    await host.follow(start.id, () => {});
    const again = await host.vm('web');
    assert.equal(again.state, 'running');
    await host.killDaemon();
    crash(again.pid);
    await host.daemon();
    assert.match((await host.vm('web')).failure ?? '', /^the VMM ended while no daemon was there/);
    await host.assertQuiet('of a VMM that was killed while no daemon was there');
  });

  it('undoes a start whose QEMU is killed', LIMIT, async () => {
    const start = host.begin(['start', 'web']);
    await start.says(/waiting for SSH/);
    const qemu = async () => (await host.processes()).find(({ command }) => /^\S*qemu-system/.test(command));
    await until('QEMU runs', async () => (await qemu()) !== undefined);
    crash((await qemu())?.pid);
    const { status, stderr } = await start.ended;
    assert.equal(status, 1);
    assert.match(stderr, /web did not boot: the VMM ended\. Its log ends with: .*SIGKILL/);
    await host.assertQuiet('of a start whose QEMU was killed');
  });

  it('finishes a stop and a deletion that were cut off', LIMIT, async () => {
    const start = await host.client.call('startVm', { params: { name: 'web' }, body: {} });
    await host.follow(start.id, () => {});
    const stop = await host.client.call('stopVm', { params: { name: 'web' }, body: {} });
    await killAt(stop.id, 'wait-for-guest', 100);
    await host.daemon();
    assert.equal((await host.vm('web')).state, 'stopped');
    await host.assertQuiet('of a stop');
    const deletion = await host.client.call('deleteVm', { params: { name: 'web' }, query: { now: true } });
    await killAt(deletion.id, 'delete-disks', 0);
    await host.daemon();
    assert.deepEqual(await host.vms(), []);
    await host.assertQuiet('of a deletion');
  });
});

async function consoleOf(host: TestHost): Promise<string> {
  const { readFile, readdir } = await import('node:fs/promises');
  const store = `${host.home}/state/store/vms`;
  const [id = ''] = await readdir(store);
  return await readFile(`${store}/${id}/console.log`, 'utf8').catch(() => '');
}
