/** Up means up: what a VM is when `run` returns, what its boot does not undo, and what happens when it never gets there. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, type Running, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(400_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

const IN_RIG = process.env.BANGER_PROOF !== undefined;

describe('a VM that is up', { skip: hostSkip('dumpe2fs') }, () => {
  let host: TestHost;
  let lifeless: TestHost | undefined;
  let began: Running | undefined;

  before(async () => {
    // a first process that waits for input: nothing on the console, nothing on the network, nothing to compute. It takes
    // twice as long as a guest may be silent, and no processor: all that time the other tests have
    if (!IN_RIG) {
      lifeless = await TestHost.create({ env: { BANGER_VM_BOOT_ARGS: 'rdinit=/bin/cat' } });
      began = lifeless.begin(['run', 'dead'], { timeoutMs: 300_000 });
    }
    host = await TestHost.create();
    await host.daemon();
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await lifeless?.[Symbol.asyncDispose]();
  });

  it('is reachable first, and commands wait until it is ready', LIMIT, async () => {
    assert.match(await host.ok('run', 'web', '--until', 'reachable'), /login after .*, not ready yet\)/);
    assert.match(await host.ok('ls'), /^web +reachable /m);
    const early = 'echo kept > /tmp/early; echo kept > /dev/shm/early; cat /etc/hostname';
    assert.equal(await host.ok('exec', '-n', '--until', 'reachable', 'web', '--', 'sh', '-c', early), 'web');
    // the first command that waits finds systemd at work, and everything that was written before
    assert.match(
      await host.guest('web', 'systemctl is-system-running; systemctl restart ssh; true'),
      /running|degraded/,
    );
    assert.equal(await host.guest('web', 'cat /tmp/early /dev/shm/early'), 'kept\nkept');
    assert.equal(await host.guest('web', 'stat -c %a /tmp; test -d /tmp/.X11-unix && echo there'), '1777\nthere');
    const { ready, bootMs, readyMs, failedUnits } = await host.vm('web');
    assert.ok(ready && bootMs !== null && readyMs !== null && readyMs >= bootMs, `${bootMs} ${readyMs}`);
    assert.deepEqual(failedUnits, []);
    assert.equal(await host.ok('wait', 'web', '--for', 'ready'), 'web: ready');
    assert.match(await host.ok('events'), /web: ready after /);
  });

  it('has what was left for later, and nothing that hides what was enabled', LIMIT, async () => {
    const later =
      'systemctl is-active systemd-udevd systemd-udev-trigger systemd-sysusers systemd-logind systemd-journal-flush sys-kernel-debug.mount';
    await host.guest('web', `for i in $(seq 60); do ${later} > /dev/null && exit; sleep 1; done; ${later}; exit 1`);
    assert.equal(await host.guest('web', 'find /run/systemd/system-generators -type f'), '');
    // devices are looked at one after the other once that was asked for
    await host.guest('web', 'udevadm settle --timeout 60');
    assert.equal(await host.guest('web', 'ls /dev/disk/by-uuid | wc -l'), '2');
    const modules = await host.guest('web', "su -s /bin/sh nobody -c 'modinfo -F name overlay'");
    assert.equal(modules, 'overlay', 'the modules of its kernel are there for all its users');
  });

  it('is waited for when its guest restarts itself, and says which units failed', LIMIT, async () => {
    const unit = '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n[Install]\\nWantedBy=multi-user.target\\n';
    await host.guest(
      'web',
      `printf '${unit}' > /etc/systemd/system/broken.service; systemctl enable broken; touch /tmp/old`,
    );
    const before = (await host.vm('web')).startedAt;
    await host.soon('web', 'systemctl reboot');
    await until('it has left', async () => (await host.vm('web')).state !== 'running', 60_000);
    assert.equal(await host.guest('web', 'systemctl is-active default.target; ls /tmp'), 'active');
    const { startedAt, failedUnits } = await host.vm('web');
    assert.notEqual(startedAt, before);
    assert.deepEqual(failedUnits, ['broken.service']);
    assert.match(await host.ok('events'), /web: ready after .*broken\.service/);
  });

  it('runs on when it never becomes ready, and is told of with what it waits for', LIMIT, async () => {
    const unit =
      '[Service]\\nType=oneshot\\nTimeoutStartSec=infinity\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n';
    await host.guest('web', `printf '${unit}' > /etc/systemd/system/endless.service; systemctl enable endless`);
    await host.ok('stop', 'web');
    const { directory } = await host.vm('web');
    const { stdout } = await runner.run(['dumpe2fs', '-h', join(directory, 'root.ext4')]);
    assert.match(stdout, /^Filesystem state: +clean$/m, 'it was shut down in good order');
    await host.ok('rename', 'web', 'shop');
    await host.ok('start', 'shop', '--until', 'reachable');
    const jobs = ['exec', '-n', '--until', 'reachable', 'shop', '--', 'systemctl', 'list-jobs'];
    await until('it has come to what has no end', async () => (await host.run(jobs)).stdout.includes('endless'));
    await host.fails(
      7,
      ['run', 'shop', '--timeout', '5s'],
      [/shop answers over SSH, but is not ready after .*endless\.service.*It runs on/s],
    );
    assert.equal((await host.vm('shop')).state, 'running');
    const hosts = ['exec', '-n', '--until', 'reachable', 'shop', '--', 'grep', '127.0.1.1', '/etc/hosts'];
    assert.equal(await host.ok(...hosts), '127.0.1.1 shop', 'nothing is left of its old name');
    await host.ok('rm', '--force', '--now', 'shop');
  });

  it('is not one without a sign of life, which is started over once and then given up', {
    ...LIMIT,
    // its timers alone take an eighth of the rig's processor: it is noticed after half an hour
    skip: IN_RIG && 'KVM of the rig makes a guest that does nothing compute',
  }, async () => {
    assert.ok(lifeless && began);
    const { status, stderr } = await began.ended;
    assert.equal(status, 1, stderr);
    assert.match(stderr, /dead did nothing for \d+ s while it was starting, and is started over, once/);
    assert.match(stderr, /dead did not boot: it did nothing for \d+ s/);
    const told = (await lifeless.ok('events')).split('\n').filter((line) => line.includes('is started over'));
    assert.equal(told.length, 1);
    assert.match(await lifeless.ok('show', 'dead'), /start-over/);
  });
});
