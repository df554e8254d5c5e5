/** Up means up: what a VM is when `run` returns, what its boot does not undo, and what happens when it never gets there. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { hostSkip, type Running, TestHost } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(400_000) };

describe('a VM that is up', { skip: hostSkip() }, () => {
  let host: TestHost;
  let lifeless: TestHost;
  let began: Running;

  before(async () => {
    // a first process that waits for input: nothing on the console, nothing on the network, nothing to compute. It takes
    // twice as long as a guest may be silent, and no processor: all that time the other tests have
    lifeless = await TestHost.create({ env: { BANGER_VM_BOOT_ARGS: 'rdinit=/bin/cat' } });
    began = lifeless.begin(['run', 'dead'], { timeoutMs: 300_000 });
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

  it('says which units failed, and keeps a stopped VM from its old name', LIMIT, async () => {
    const unit = '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n[Install]\\nWantedBy=multi-user.target\\n';
    await host.guest(
      'web',
      `printf '${unit}' > /etc/systemd/system/broken.service; systemctl enable broken; touch /tmp/old`,
    );
    await host.ok('stop', 'web');
    await host.ok('rename', 'web', 'shop');
    const started = await host.run(['start', 'shop']);
    assert.equal(started.status, 0, started.stderr);
    assert.match(started.stderr, /1 unit of shop failed while it booted: broken\.service/);
    assert.deepEqual((await host.vm('shop')).failedUnits, ['broken.service']);
    assert.equal(await host.guest('shop', 'grep 127.0.1.1 /etc/hosts; ls /tmp'), '127.0.1.1 shop');
  });

  it('is waited for when its guest restarts itself', LIMIT, async () => {
    await host.soon('shop', 'rm /etc/systemd/system/multi-user.target.wants/broken.service; systemctl reboot');
    const before = (await host.vm('shop')).startedAt;
    await host.client.call('waitVm', { params: { name: 'shop' }, query: { for: 'running' } });
    for (let tries = 0; (await host.vm('shop')).state === 'running' && tries < 600; tries++) {
      await new Promise((wait) => setTimeout(wait, 100));
    }
    assert.equal(await host.guest('shop', 'systemctl is-active default.target'), 'active');
    assert.notEqual((await host.vm('shop')).startedAt, before);
  });

  it('runs on when it never becomes ready, and is told of with what it waits for', LIMIT, async () => {
    const unit =
      '[Service]\\nType=oneshot\\nTimeoutStartSec=infinity\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n';
    await host.guest('shop', `printf '${unit}' > /etc/systemd/system/endless.service; systemctl enable endless`);
    await host.ok('stop', 'shop');
    await host.fails(
      7,
      ['start', 'shop', '--timeout', `${Math.round(paced(35))}s`],
      [/shop answers over SSH, but is not ready after .*endless\.service.*It runs on/s],
    );
    assert.equal((await host.vm('shop')).state, 'running');
    assert.equal(await host.ok('exec', '-n', '--until', 'reachable', 'shop', '--', 'echo', 'hi'), 'hi');
    await host.ok('rm', '--force', '--now', 'shop');
  });

  it('is not one without a sign of life, which is started over once and then given up', LIMIT, async () => {
    const { status, stderr } = await began.ended;
    assert.equal(status, 1, stderr);
    assert.match(stderr, /dead did nothing for \d+ s while it was starting, and is started over, once/);
    assert.match(stderr, /dead did not boot: it did nothing for \d+ s/);
    const told = (await lifeless.ok('events')).split('\n').filter((line) => line.includes('is started over'));
    assert.equal(told.length, 1);
    assert.match(await lifeless.ok('show', 'dead'), /start-over/);
  });
});
