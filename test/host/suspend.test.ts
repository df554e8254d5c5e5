/** Suspend and resume of one VM: what its programs hold goes on, its disks are left alone meanwhile, and no memory outlives its disks. */
import assert from 'node:assert/strict';
import { open, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(120_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

/** Counts in memory, and writes each number to both disks before it goes on: memory is never behind them. */
/** Each count takes the place of the one before at once: a file that is being written when the VM stops would hold none. */
const WRITER = `n=0; while :; do n=$((n + 1)); echo $n > /run/counter; for at in /var/count /root/count; do echo $n > $at.new; mv $at.new $at; done; sync /var/count /root/count; sleep 0.1; done`;

/** Seconds since the guest booted, as its timers have them. */
const UPTIME = 'cut -d " " -f 1 /proc/uptime';

describe('a VM that is suspended', { skip: hostSkip() }, () => {
  let host: TestHost;
  before(async () => {
    // a guest with systemd, whose programs are frozen by their groups, is suspended in warm-image.test.ts
    host = await TestHost.create({ lean: true, warm: true });
    await host.daemon();
    await host.ok('run', 'web', '--memory', '256M', '--work-disk', '64M');
    await host.guest('web', `(${WRITER}) > /dev/null 2>&1 & echo $! > /run/writer`);
  });
  after(() => host?.[Symbol.asyncDispose]());

  const counter = async () => Number(await host.guest('web', 'cat /run/counter'));
  const mark = 'cat /proc/sys/kernel/random/boot_id /run/writer; kill -0 $(cat /run/writer) && echo alive';
  let inMemory = '';
  /** of `performance.now()`, and the guest's, when it was about to be suspended */
  let awake = { ms: 0, uptime: 0 };
  let asleepSince = 0;

  it('is nothing but files: no process, no device, no rule', LIMIT, async () => {
    inMemory = await host.guest('web', mark);
    awake = { ms: performance.now(), uptime: Number(await host.guest('web', UPTIME)) };
    assert.match(await host.ok('suspend', 'web'), /^web is suspended, takes \S+ MiB on disk \(/);
    asleepSince = performance.now();
    await host.assertQuiet('of a VM that is suspended');
    assert.match(await host.ok('ls'), /^web +suspended +\S+ +\d+ +256 MiB, \S+ MiB on disk /m);
    const { directory, suspended, notResumable } = await host.vm('web');
    assert.deepEqual(notResumable, []);
    assert.ok(suspended && suspended.memoryBytes > 0 && suspended.memoryBytes <= 257 * 2 ** 20);
    const modes = await Promise.all(
      ['', 'memory', 'state', 'manifest.json'].map(async (name) => {
        const { mode } = await stat(join(directory, 'suspended', name));
        return (mode & 0o777).toString(8);
      }),
    );
    // the VM's own user enters the directory, and nobody else
    assert.deepEqual(modes, ['710', '600', '600', '600']);
  });

  it('has its disks left alone', LIMIT, async () => {
    const disks = async () => {
      const { directory } = await host.vm('web');
      return await Promise.all(
        ['root.ext4', 'work.ext4', 'seed.img'].map(async (name) => (await stat(join(directory, name))).ctimeMs),
      );
    };
    const before = await disks();
    const wayOut = [/web is suspended/, /banger resume web {3}or give its memory up: banger stop --discard-memory web/];
    await host.fails(5, ['disk', 'resize', 'web', '--work', '128M'], wayOut);
    await host.fails(5, ['rebase', 'web', '--image', host.bundle, '--force'], wayOut);
    await host.fails(5, ['storage', 'init'], wayOut);
    await host.fails(5, ['stop', 'web'], [/loses what its programs hold/, /banger stop --discard-memory web/]);
    await host.ok('set', 'web', '--memory', '300M');
    assert.match(await host.ok('show', 'web'), /^memory +256 MiB, 300 MiB from the next start on$/m);
    await host.ok('set', 'web', '--memory', '256M');
    assert.deepEqual(await disks(), before);
  });

  it('goes on by itself for whoever uses it, also under another daemon, with the right time', LIMIT, async () => {
    const last = await stat(join((await host.vm('web')).directory, 'suspended/memory'));
    await host.killDaemon();
    await host.daemon();
    assert.equal((await host.vm('web')).state, 'suspended');
    const asleepMs = performance.now() - asleepSince;
    const uptime = Number(await host.guest('web', UPTIME));
    const awakeMs = performance.now() - awake.ms - asleepMs;
    // its timers have nothing to make up for, however long it was
    assert.ok(
      (uptime - awake.uptime) * 1000 <= awakeMs + 10,
      `${uptime - awake.uptime} s went by in it, of which it slept ${asleepMs} ms`,
    );
    assert.equal(await host.guest('web', mark), inMemory);
    const seconds = Number(await host.guest('web', 'date +%s'));
    assert.ok(
      Math.abs(seconds - Date.now() / 1000) < paced(3),
      `the guest has ${seconds}, the host ${Date.now() / 1000}`,
    );
    const before = await counter();
    await until('its programs go on', async () => (await counter()) > before, 10_000);
    await assert.rejects(stat(join((await host.vm('web')).directory, 'suspended')), { code: 'ENOENT' });
    assert.ok(last.size === 256 * 2 ** 20);
  });

  it('goes on as often as it is suspended, its disks never ahead of its memory', LIMIT, async () => {
    // its SSH server has said who it is, and waits for what the other end says
    const socket = connect(22, (await host.vm('web')).address);
    let heard = '';
    socket.on('data', (chunk) => {
      heard += chunk.toString('latin1');
    });
    await until('its server answers', () => heard.startsWith('SSH-2.0-'));
    for (const way of [['resume'], ['start'], ['ssh']]) {
      const before = await counter();
      await host.ok('suspend', 'web');
      await host.ok(...way, 'web', ...(way[0] === 'ssh' ? ['true'] : []));
      const [now = 0, root = 0, work = 0] = (
        await host.guest('web', 'cat /var/count /root/count > /run/c; cat /run/counter /run/c')
      )
        .split('\n')
        .map(Number);
      assert.ok(now >= before && now >= root - 1 && now >= work - 1, `${before} ${now} ${root} ${work}`);
    }
    // three suspends later it hears it, on the same connection
    socket.write('SSH-2.0-test\r\n');
    await until('its server goes on', () => heard.includes('ssh-ed25519'));
    socket.destroy();
    assert.equal(await host.guest('web', mark), inMemory);
    assert.equal(await host.guest('web', 'dmesg | grep -ciE "i/o error|ext4-fs error|lockup|rcu.*stall"; true'), '0');
  });

  it('comes out of the trash as it was, and learns its new name', LIMIT, async () => {
    await host.ok('suspend', 'web');
    await host.ok('rm', 'web');
    await host.ok('undelete', 'web');
    await host.ok('rename', 'web', 'www');
    await host.ok('run', 'www');
    assert.equal(await host.guest('www', 'hostname; cat /etc/hostname'), 'www\nwww');
    await host.ok('rename', 'www', 'web');
    assert.equal(await host.guest('web', mark), inMemory);
  });

  it('goes on when somebody connects to it, whose first packet is not lost', LIMIT, async (t) => {
    await host.ok('set', 'web', '--idle-suspend', '30m');
    await host.ok('suspend', 'web');
    const { address } = await host.vm('web');
    const device = async () => (await runner.run(['ip', '-4', 'route', 'get', address])).stdout;
    await until('its address leads to the device of those that sleep', async () => /dev bgr-/.test(await device()));
    const began = performance.now();
    const socket = connect(22, address);
    const banner = await new Promise<string>((resolve, reject) => {
      socket.once('data', (chunk) => resolve(String(chunk))).once('error', reject);
    });
    t.diagnostic(`the first byte came after ${Math.round(performance.now() - began)} ms`);
    socket.destroy();
    assert.match(banner, /^SSH-2\.0-/);
    assert.equal((await host.vm('web')).state, 'running');
    assert.equal(await host.guest('web', mark), inMemory);
    await host.ok('set', 'web', '--idle-suspend', 'off');
  });

  it(
    'does not go on with a disk that was touched: it says why, and boots when its memory is given up',
    LIMIT,
    async () => {
      await host.ok('suspend', 'web');
      const { directory } = await host.vm('web');
      {
        await using disk = await open(join(directory, 'work.ext4'), 'r+');
        const { buffer } = await disk.read(Buffer.alloc(1), 0, 1, 0);
        await disk.write(buffer, 0, 1, 0);
      }
      const refusal = [
        /web cannot go on from its memory: its work disk was changed since/,
        /start --discard-memory web/,
      ];
      await host.fails(5, ['resume', 'web'], refusal);
      await host.fails(5, ['exec', 'web', '--', 'true'], refusal);
      assert.match(await host.ok('show', 'web'), /^cannot go on +its work disk was changed since/m);
      assert.equal((await host.vm('web')).state, 'suspended');
      await host.ok('start', '--discard-memory', 'web');
      assert.notEqual(await host.guest('web', 'cat /proc/sys/kernel/random/boot_id'), inMemory.split('\n')[0]);
      const counts = (await host.guest('web', 'cat /var/count /root/count')).split('\n').map(Number);
      assert.ok(counts.length === 2 && Math.min(...counts) > 0, `${counts}`);
      await host.ok('stop', 'web');
    },
  );
});
