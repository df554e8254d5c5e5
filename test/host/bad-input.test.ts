/** What goes wrong with requests, files and the host: each is told with the next command, and leaves nothing. */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('a banger that is asked for', { skip: hostSkip('setpriv', 'debugfs', 'truncate') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({ lean: true });
    await host.daemon();
  });
  after(() => host?.[Symbol.asyncDispose]());

  /** Does something with a daemon that has other settings. */
  async function withSettings(env: Record<string, string>, work: () => Promise<void>): Promise<void> {
    await host.ok('daemon', 'stop');
    const started = await host.run(['daemon', 'start'], { env });
    assert.equal(started.status, 0, started.stderr);
    try {
      await work();
    } finally {
      await host.ok('daemon', 'stop');
      await host.daemon();
    }
  }

  /** A VM until the test ends. */
  async function create(t: TestContext, name: string): Promise<{ directory: string; id: string }> {
    await host.ok('create', name, '--memory', '256M', '--work-disk', 'none');
    t.after(() => host.run(['rm', '--force', name]));
    return await host.vm(name);
  }

  it('names that are no DNS label says what one is', LIMIT, async () => {
    for (const name of ['Web', 'web-', 'a b', 'web.vm', '../web', 'grün', 'a'.repeat(64), '']) {
      await host.fails(2, ['create', name], [/DNS label|name/]);
      // one that is a label in another spelling is that VM, as in DNS
      if (name !== 'Web' && name !== 'web.vm') await host.fails(2, ['run', name], [/DNS label|name/]);
    }
    assert.equal(await host.ok('ls', '--names'), '');
  });

  it('sizes this host or image cannot have says which it can', LIMIT, async () => {
    const refusals: [string[], RegExp][] = [
      [['--memory', '0'], /memory/i],
      [['--memory', '100000G'], /cannot have 102400000000 MiB of memory: this host has \d+ MiB|memory/],
      [['--vcpus', '0'], /vcpus/],
      [['--vcpus', '33'], /vcpus/],
      [['--disk', '100M'], /A root disk of 100 MiB is smaller than the image .*, which has 160 MiB[\s\S]*--disk 160M/],
      [['--work-disk', '1M'], /work disk of 1 MiB is too small[\s\S]*--work-disk 16M/],
      [['--memory', 'much'], /"much"/],
    ];
    for (const [options, says] of refusals) await host.fails(2, ['create', 'web', ...options], [says]);
    await host.fails(4, ['create', 'web', '--image', 'nosuch'], [/nosuch/, /banger bundle/]);
    await host.fails(4, ['create', 'web', '--image', '/nosuch'], [/\/nosuch/, /banger bundle/]);
    assert.equal(await host.ok('ls', '--names'), '');
    await host.assertQuiet('of refused VMs');
  });

  it('a creation that is called off has no VM', LIMIT, async () => {
    // a disk that takes longer to copy than the lean one
    const create = host.begin(['create', 'web', '--image', process.env.BANGER_TEST_BUNDLE ?? '']);
    await create.says(/cloning/);
    create.child.kill('SIGINT');
    assert.equal((await create.ended).status, 130);
    assert.equal(await host.ok('ls', '--names'), '');
    await host.assertQuiet('of a creation that was called off');
  });

  it('a boot from a kernel that is cut short or gone refuses before anything is touched', LIMIT, async (t) => {
    await create(t, 'web');
    const kernel = join(host.home, 'vmlinux');
    await runner.run(['cp', join(host.bundle, 'vmlinux'), kernel]);
    await truncate(kernel, 1_000_000);
    await withSettings({ BANGER_BUNDLE_KERNEL: kernel }, async () => {
      await host.fails(6, ['start', 'web'], [/is cut short: it has 1000000 of \d+ bytes/, /banger bundle build/]);
      await rm(kernel);
      await host.fails(1, ['start', 'web'], [/The kernel of the bundle .* is gone/, /banger bundle build/]);
    });
    await host.assertQuiet('of a start with a damaged kernel');
  });

  it('a VM of a bundle without its root file system refuses', LIMIT, async () => {
    await withSettings({ BANGER_BUNDLE_ROOTFS: join(host.home, 'nosuch.ext4') }, async () => {
      await host.fails(1, ['create', 'web'], [/The root file system of the bundle .* is gone/, /banger bundle build/]);
    });
    const garbage = join(host.home, 'garbage.ext4');
    await writeFile(garbage, Buffer.alloc(1_000_000, 'x'));
    await withSettings({ BANGER_BUNDLE_ROOTFS: garbage }, async () => {
      await host.fails(1, ['create', 'web'], [/garbage\.ext4 holds no file system that a guest can have as its root/]);
    });
    await host.assertQuiet('of VMs that could not be made');
  });

  it('a start of a VM whose root disk is gone or damaged says so', LIMIT, async (t) => {
    const { directory } = await create(t, 'web');
    const disk = join(directory, 'root.ext4');
    await truncate(disk, 1_000_000);
    await host.fails(1, ['start', 'web'], [/root\.ext4 cannot be used: it is cut short/]);
    await host.assertQuiet('of a start with a damaged disk');
    await rm(disk);
    await host.fails(1, ['start', 'web'], [/The root disk of web is gone/, /banger rm web/]);
    assert.match((await host.vm('web')).failure ?? '', /cut short/);
    await host.ok('rm', 'web');
  });

  it('a start of a guest without an SSH server gives up in time and shows the console', LIMIT, async (t) => {
    const { directory } = await create(t, 'mute');
    await runner.run(['debugfs', '-w', '-R', 'rm /usr/sbin/sshd', join(directory, 'root.ext4')]);
    const ran = await host.fails(
      7,
      ['start', 'mute', '--timeout', '12s'],
      [/mute did not answer SSH within 12 s/, /banger logs mute/, /--timeout/, /The console of mute ends with:\n/],
    );
    assert.doesNotMatch(ran.stdout, /running/);
    const vm = await host.vm('mute');
    assert.equal(vm.state, 'failed');
    await host.assertQuiet('of a start that was given up');
  });

  it('a start of a guest that cannot boot says what its console says', LIMIT, async (t) => {
    const { directory } = await create(t, 'empty');
    await runner.run(['debugfs', '-w', '-R', 'rm /usr/sbin/init', join(directory, 'root.ext4')]);
    await host.fails(
      1,
      ['start', 'empty'],
      [/empty did not boot: .*FAILED: start the guest's init/, /banger logs empty/],
    );
    await host.assertQuiet('of a guest without init');
    await withSettings({ BANGER_VM_BOOT_ARGS: 'rdinit=/nosuch' }, async () => {
      await host.fails(
        1,
        ['start', 'empty'],
        [/empty did not boot: Kernel panic - not syncing: /, /banger logs empty/],
      );
    });
    await host.assertQuiet('of a kernel that panicked');
  });

  it('a start with a VMM that ends at once, is missing or stays silent says so', LIMIT, async (t) => {
    await create(t, 'web');
    const withVmm = (program: string, work: () => Promise<void>) =>
      withSettings({ BANGER_PROGRAMS_FCQEMU: program, BANGER_VMM: 'fcqemu' }, async () => {
        await work();
        await host.assertQuiet(`of the VMM ${program}`);
      });
    await withVmm('/bin/false', async () => {
      await host.fails(
        1,
        ['start', 'web'],
        [/The VMM `\/bin\/false` ended at once \(exit status 1\)/, /banger doctor/],
      );
    });
    await withVmm('/nosuch', async () => {
      await host.fails(6, ['start', 'web'], [/fcqemu is not installed \(looked for \/nosuch/, /set programs.fcqemu/]);
    });
    const silent = join(host.home, 'silent-vmm');
    await writeFile(silent, '#!/bin/sh\nexec sleep 1000 # "$@"\n');
    await chmod(silent, 0o755);
    await withVmm(silent, async () => {
      const start = host.begin(['start', 'web']);
      await start.says(/launching/);
      start.child.kill('SIGINT');
      assert.equal((await start.ended).status, 130);
    });
  });

  it('a start whose socket path is taken by an old file goes on', LIMIT, async (t) => {
    const { id } = await create(t, 'web');
    await writeFile(join(host.home, `state/store/vms/${id}/api.sock`), 'an old file');
    const start = host.begin(['start', 'web']);
    await start.says(/waiting for SSH/);
    start.child.kill('SIGINT');
    assert.equal((await start.ended).status, 130);
    await host.assertQuiet('of a start with an old socket');
  });

  it('disks on a full file system says how much is missing', LIMIT, async (t) => {
    const small = await mkdtemp(`${host.home}-small-`);
    t.after(() => rm(small, { recursive: true, force: true }));
    const [image, store] = [join(small, 'image'), join(small, 'store')];
    await mkdir(store);
    await runner.run(['truncate', '--size=380M', image]);
    await runner.run(['mke2fs', '-q', '-t', 'ext4', '-m', '0', image]);
    const mounted = await runner.run(['mount', '-o', 'loop', image, store], { okExits: [0, 1, 32] });
    if (mounted.exitCode !== 0) return t.skip(`no loop mounts here: ${mounted.stderr.trim()}`);
    try {
      await withSettings({ BANGER_PATHS_STORE: store }, async () => {
        await host.ok('create', 'web', '--memory', '256M', '--work-disk', 'none');
        const says = /missing to create a VM; nothing was touched[\s\S]*disk space: Only \S+ MiB of \S+ MiB are free/;
        await host.fails(6, ['create', 'two'], [says, /banger storage show/]);
        await runner.run(['fallocate', '--length', '250M', join(store, 'filler')]);
        await host.fails(6, ['start', 'web'], [/Only \S+ MiB of \S+ MiB are free/, /banger storage show/]);
        assert.equal(await host.ok('ls', '--names'), 'web');
        await host.assertQuiet('of a full disk');
        await host.ok('rm', 'web');
      });
    } finally {
      await runner.run(['umount', store]);
    }
  });
});
