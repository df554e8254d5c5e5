/** A real bundle from the host's own apt set-up, and what its initrd does, seen from inside booted guests. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { readAgentProgram } from '../../src/bundle/boot/agent-program.ts';
import { inspectKernel } from '../../src/bundle/boot/kernel.ts';
import { readHelperScripts } from '../../src/bundle/store/helper-scripts.ts';
import { type Bundle, readBundle } from '../../src/bundle/store/manifest.ts';
import { verifyBundle } from '../../src/bundle/store/verify.ts';
import { buildBundle } from '../../src/control/bundles/build.ts';
import { BangerError } from '../../src/errors.ts';
import { createRunner } from '../../src/system/runner.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { bundleBusybox } from '../support/bundle-busybox.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';
import { bootTiny, type GuestFiles, makeDisk, makeSeed, tinyRoot } from './tiny-guest.ts';

const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
const runner = createRunner(env);
const uid = process.getuid?.() ?? 0;

/** Made by `banger bundle build` in full, also in what `make test` does before this. */
const BUNDLE = process.env.BANGER_TEST_BUNDLE ?? '';

const skip =
  (BUNDLE === '' && 'BANGER_TEST_BUNDLE names no bundle (make host-test builds one)') ||
  lacking('apt-get', 'mmdebstrap', 'mke2fs', 'dpkg-deb', 'depmod', 'unshare', 'setpriv', 'debugfs') ||
  (process.arch !== 'x64' && 'the kernel package is for x86-64');

let dir = '';
let output = '';

async function build(...rest: [Parameters<typeof buildBundle>[2]?, AbortSignal?]): ReturnType<typeof buildBundle> {
  const programs = { mmdebstrap: 'mmdebstrap', mke2fs: 'mke2fs', xz: 'xz', lz4: 'lz4' };
  const [helpers, agent] = [await readHelperScripts(), await readAgentProgram()];
  const deps = { runner, programs, env, cacheDir: join(dir, 'cache'), uid, helpers, agent, now: () => new Date() };
  // what it is called is part of what it is made from
  const { name } = (await readBundle(BUNDLE)).manifest;
  return await buildBundle(deps, { suite: 'bookworm', name, output }, ...rest);
}

/** Starts the same build in another process and kills it once packages are being installed. */
async function buildAndKill(): Promise<void> {
  const url = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
  const script = `
    const { buildBundle } = await import(${url('control/bundles/build.ts')});
    const { createRunner } = await import(${url('system/runner.ts')});
    const programs = { mmdebstrap: 'mmdebstrap', mke2fs: 'mke2fs', xz: 'xz', lz4: 'lz4' };
    const deps = { runner: createRunner(), programs, env: process.env, uid: ${uid}, helpers: {}, agent: Buffer.from('an agent'),
      now: () => new Date(),
      cacheDir: ${JSON.stringify(join(dir, 'cache'))} };
    await buildBundle(deps, { suite: 'bookworm', output: ${JSON.stringify(output)} }, (event) => {
      if (/^installing/.test(event.detail ?? '')) process.stdout.write('installing');
    });`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', script], { env });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await Promise.race([
    once(child.stdout, 'data'),
    once(child, 'exit').then(() => assert.fail(`it ended early: ${said}`)),
  ]);
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function assertNotMounted(): Promise<void> {
  const mounts = await readFile('/proc/self/mounts', 'utf8');
  assert.ok(!mounts.includes(dir), 'nothing of it is mounted on the host');
}

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'banger-host-'));
  output = join(dir, 'bundles/debian-bookworm');
  await mkdir(join(dir, 'bundles'));
});

after(async () => {
  await rm(dir, { recursive: true, force: true });
});

describe('a bundle built from Debian packages', { skip }, () => {
  it('begins anew after a build that was killed half-way, and leaves nothing when it is called off', async () => {
    await buildAndKill();
    const half = join(dir, 'bundles/.debian-bookworm.building');
    assert.deepEqual(await readdir(join(dir, 'bundles')), ['.debian-bookworm.building']);
    await assertNotMounted();
    const before = await readdir(half);
    await writeFile(join(half, 'of-the-killed-one'), '');
    const stop = new AbortController();
    let anew: string[] = [];
    const onEvent = (event: { detail?: string | undefined }) => {
      // mmdebstrap's first step: the other build got further
      if (stop.signal.aborted || !/^running apt-get update/.test(event.detail ?? '')) return;
      anew = readdirSync(half);
      stop.abort(new BangerError('cancelled', 'Called off.'));
    };
    await assert.rejects(build(onEvent, stop.signal), { code: 'cancelled' });
    assert.deepEqual(anew.sort(), before.sort(), 'what the killed one had is gone');
    assert.deepEqual(await readdir(join(dir, 'bundles')), []);
    await assertNotMounted();
    await runner.run(['cp', '-a', '--sparse=always', BUNDLE, output]);
  });

  it('verifies, and is made again in no time', async () => {
    const verdict = await verifyBundle(output, { arch: 'x86_64' });
    assert.deepEqual(
      verdict.checks.filter((check) => !check.ok),
      [],
    );
    const packages = async () => {
      const { manifest } = await readBundle(output);
      return [await readFile(join(output, 'rootfs.packages'), 'utf8'), manifest.files[manifest.kernel]];
    };
    const [before, begun] = [await packages(), performance.now()];
    if ((await build()).built) {
      // one may have been published since it was made
      assert.notDeepEqual(await packages(), before, 'it was made again from the same packages');
      return;
    }
    assert.ok(performance.now() - begun < paced(30_000), 'only the package lists were looked at');
  });

  it('holds a kernel with a PVH entry, and a sparse root that passes fsck', async () => {
    const bundle = await readBundle(output);
    const kernel = await inspectKernel(bundle.kernel);
    assert.ok(kernel.kind === 'elf' && kernel.pvhEntry !== undefined);
    const { size, blocks } = await stat(bundle.rootfs);
    assert.equal(size, 2 * 1024 ** 3);
    assert.ok(blocks * 512 < size / 3, `${blocks * 512} bytes on disk`);
    await runner.run(['e2fsck', '-f', '-n', bundle.rootfs]);
  });

  it('lists exactly the packages its root says are installed', async (t) => {
    const bundle = await readBundle(output);
    const admin = await tempDir(t);
    await runner.run(['debugfs', '-R', `dump /var/lib/dpkg/status ${join(admin, 'status')}`, bundle.rootfs]);
    await mkdir(join(admin, 'info'));
    const { stdout } = await runner.run([
      'dpkg-query',
      `--admindir=${admin}`,
      '--show',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
      '--showformat=${Package} ${Version} ${Architecture}\n',
    ]);
    const listed = await readFile(join(output, 'rootfs.packages'), 'utf8');
    assert.deepEqual(listed.trim().split('\n'), stdout.trim().split('\n').sort());
    for (const name of ['systemd-sysv', 'openssh-server', 'iproute2', 'ca-certificates', 'kmod']) {
      assert.match(listed, new RegExp(`^${name} \\S+ amd64$|^${name} \\S+ all$`, 'm'));
    }
  });

  it('has a root without identity that belongs to root, where modprobe works', async () => {
    const { rootfs, modules } = await readBundle(output);
    const inside = async (command: string) => (await runner.run(['debugfs', '-R', command, rootfs])).stdout;
    assert.equal(await inside('cat /etc/machine-id'), '');
    assert.doesNotMatch(await inside('ls -p /etc/ssh'), /ssh_host/);
    assert.match(await inside('cat /etc/shadow'), /^root:\*:/m);
    assert.match(await inside('stat /usr/bin/bash'), /User:\s+0\s+Group:\s+0/);
    assert.match(await inside('stat /var/mail'), /Group:\s+8\b/);
    const release = modules?.split('/').at(-1);
    assert.match(await inside(`stat /usr/lib/modules/${release}/modules.dep.bin`), /Type: regular/);
  });
});

describe('a root file system made by an ordinary user', {
  skip: skip || (uid !== 0 && 'making a user needs root'),
}, () => {
  it('keeps the owners it has inside', async (t) => {
    const home = await tempDir(t);
    const name = `banger-test-${process.pid}`;
    await runner.run(['useradd', '--no-create-home', '--home-dir', home, name]);
    try {
      await runner.run(['chown', name, home]);
      const url = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
      const script = `
        const { findSuperuser } = await import(${url('bundle/debian/superuser.ts')});
        const { createRunner } = await import(${url('system/runner.ts')});
        const runner = createRunner();
        const root = await findSuperuser(runner, process.getuid());
        const run = (...argv) => runner.run(root.wrap(argv));
        await run('mkdir', '-p', 'tree/dir');
        await run('chown', '33:12', 'tree/dir');
        await run('mke2fs', '-q', '-F', '-t', 'ext4', '-d', 'tree', 'disk', '1M');
        await run('rm', '-r', 'tree');
        process.stdout.write(root.kind);`;
      const node = [process.execPath, '--input-type=module-typescript', '--eval', script] as const;
      const { stdout } = await runner.run(['runuser', '-u', name, '--', ...node], { cwd: home });
      assert.equal(stdout, 'namespace');
      const found = await runner.run(['debugfs', '-R', 'stat /dir', join(home, 'disk')]);
      assert.match(found.stdout, /User:\s+33\s+Group:\s+12\b/);
      assert.deepEqual(await readdir(home), ['disk']);
    } finally {
      await runner.run(['userdel', name]);
    }
  });
});

const CONFIG = `HOSTNAME='web'\nADDRESS='172.30.0.2'\nGATEWAY='172.30.0.1'\nMTU='1400'\nWORK_MOUNT='/root'\n`;
const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnot-a-real-key banger';

const SEED: GuestFiles = {
  config: CONFIG,
  authorized_keys: `${KEY}\n`,
  'rootfs/etc/hostname': 'web\n',
  'rootfs/etc/resolv.conf': 'nameserver 192.0.2.1\n',
};

describe('the initrd', { skip: skip || lacking('qemu-system-x86_64') }, () => {
  let bundle: Bundle;
  let busybox: Buffer;

  before(async () => {
    if (!existsSync(output)) await runner.run(['cp', '-a', '--sparse=always', BUNDLE, output]);
    bundle = await readBundle(output);
    busybox = bundleBusybox(bundle.initrd ?? '');
  });

  /** Disks for one guest; `script` runs as its init. */
  async function guest(script: string, files: GuestFiles = {}, seed = SEED) {
    const at = await mkdtemp(join(dir, 'guest-'));
    const disks = { root: join(at, 'root.ext4'), seed: join(at, 'seed.tar'), work: join(at, 'work.ext4') };
    await tinyRoot(disks.root, busybox, script, files);
    await makeSeed(disks.seed, seed);
    await makeDisk(disks.work, '8M');
    return disks;
  }

  describe('with all disks', () => {
    let disks: Awaited<ReturnType<typeof guest>>;

    it('mounts them, sets the address, lays the seed over the root and hands over', async () => {
      const script = `
        if [ -e /root/been-here ]; then
          cat /root/.ssh/authorized_keys /root/.profile /etc/hosts
        else
          echo "pid $$"
          while read -r device place type options _; do
            case $device in /dev/vd*) echo "$device $place $type \${options%%,*}" ;; esac
          done < /proc/mounts
          ip -o addr show eth0 | grep -o 'inet 172[^ ]*'
          ip link show eth0 | grep -o 'mtu 1400'
          ip route
          cat /etc/hostname /etc/resolv.conf /etc/hosts
          ls -ld /etc/resolv.conf /root /root/.ssh /root/.ssh/authorized_keys | cut -c1-10
          cat /root/.ssh/authorized_keys /root/.profile
          ls -A /run/.banger-initrd /seed
          echo 'my own key' >> /root/.ssh/authorized_keys
          echo '192.0.2.9 friend' >> /etc/hosts
          rm /root/.profile
          echo 'my profile' > /root/.profile
          touch /root/been-here
        fi`;
      const files = {
        'etc/hosts': '127.0.0.1 localhost\n192.0.2.7 mine',
        'etc/resolv.conf@': '/somewhere/else',
        'root/.profile': 'a profile\n',
      };
      disks = await guest(script, files);
      const lines = await bootTiny(bundle, disks);
      assert.match(lines[0] ?? '', /^banger-init: start \d/);
      assert.match(lines[1] ?? '', /^banger-init: handover \d/);
      assert.deepEqual(
        lines.slice(2),
        [
          'pid 1',
          '/dev/vda / ext4 rw',
          '/dev/vdc /root ext4 rw',
          'inet 172.30.0.2/32',
          'mtu 1400',
          'default via 172.30.0.1 dev eth0 ',
          '172.30.0.1 dev eth0 scope link ',
          'web',
          'nameserver 192.0.2.1',
          '127.0.0.1 localhost',
          '192.0.2.7 mine',
          '127.0.1.1 web',
          '-rw-r--r--',
          'drwx------',
          'drwx------',
          '-rw-------',
          KEY,
          'a profile',
          'ls: /run/.banger-initrd: No such file or directory',
          'ls: /seed: No such file or directory',
          'end of script',
        ].map((line) => line.trimEnd()),
      );
    });

    it('keeps what the user made of the work disk, the keys and /etc/hosts on later boots', async () => {
      const lines = await bootTiny(bundle, disks);
      const hosts = ['127.0.0.1 localhost', '192.0.2.7 mine', '127.0.1.1 web', '192.0.2.9 friend'];
      assert.deepEqual(lines.slice(2), [KEY, 'my own key', 'my profile', ...hosts, 'end of script']);
    });
  });

  it("copies the image's files again when the first copy was cut short, and follows links as the guest means them", async () => {
    const script =
      'cat /root/a /root/deep/b; ls /root/lost+found/.banger-seeded; cat /root/dotfiles/ssh/authorized_keys';
    const files = {
      ...{ 'root/a': 'whole\n', 'root/deep/b': 'also whole\n' },
      ...{ 'root/dotfiles/ssh/config': 'Host *\n', 'root/.ssh@': '/root/dotfiles/ssh' },
    };
    const disks = await guest(script, files);
    const half = `${disks.work}.half`;
    await mkdir(half);
    await writeFile(join(half, 'a'), 'who');
    await makeDisk(disks.work, '8M', half);
    const lines = await bootTiny(bundle, disks);
    const expected = ['whole', 'also whole', '/root/lost+found/.banger-seeded', KEY];
    assert.deepEqual(lines.slice(2), [...expected, 'end of script']);
  });

  it('boots without a work disk, and without a seed', async () => {
    const { root, seed } = await guest('cat /root/.ssh/authorized_keys; ip route; echo none');
    const withSeed = await bootTiny(bundle, { root, seed });
    assert.deepEqual(withSeed.slice(2), [
      KEY,
      'default via 172.30.0.1 dev eth0',
      '172.30.0.1 dev eth0 scope link',
      'none',
      'end of script',
    ]);
    assert.deepEqual((await bootTiny(bundle, { root })).slice(2), [KEY, 'none', 'end of script']);
  });

  const failures: Record<
    string,
    { spoil(disks: Record<'root' | 'seed' | 'work', string>): Promise<void>; says: RegExp }
  > = {
    'the root disk is no file system': {
      spoil: ({ root }) => writeFile(root, Buffer.alloc(1024 * 1024)),
      says: /^banger-init: FAILED: mount the root disk\nbanger-init: reason: mount: .*Invalid argument/m,
    },
    'the work disk is no file system': {
      spoil: ({ work }) => writeFile(work, Buffer.alloc(1024 * 1024)),
      says: /^banger-init: FAILED: mount the work disk\nbanger-init: reason: mount: /m,
    },
    'the seed disk is no archive': {
      spoil: ({ seed }) => writeFile(seed, Buffer.alloc(65536, 'x')),
      says: /^banger-init: FAILED: read the seed disk\nbanger-init: reason: tar: /m,
    },
    'the seed disk has no config': {
      spoil: async ({ seed }) => {
        await rm(`${seed}.tree`, { recursive: true });
        await makeSeed(seed, { authorized_keys: KEY });
      },
      says: /^banger-init: FAILED: read the seed disk\nbanger-init: reason: it has no file config/m,
    },
    'the root disk has no init': {
      spoil: async ({ root }) => {
        const tree = `${root}.tree`;
        await rm(join(tree, 'sbin/init'));
        // a server that answered would make the host believe that the guest is up
        for (const dir of ['usr/sbin', 'etc/systemd/system/multi-user.target.wants'])
          await mkdir(join(tree, dir), { recursive: true });
        await writeFile(join(tree, 'etc/systemd/system/multi-user.target.wants/ssh.service'), '');
        for (const [name, does] of [
          ['usr/sbin/sshd', 'echo not reached > /dev/console'],
          ['bin/nice', 'shift 2; exec "$@"'],
        ] as const) {
          await writeFile(join(tree, name), `#!/bin/busybox sh\n${does}\n`, { mode: 0o755 });
        }
        await makeDisk(root, '16M', tree);
      },
      says: /^banger-init: FAILED: start the guest's init\nbanger-init: reason: no \/sbin\/init/m,
    },
  };
  for (const [what, { spoil, says }] of Object.entries(failures)) {
    it(`says so and ends the machine when ${what}`, async () => {
      const disks = await guest('echo not reached');
      await spoil(disks);
      const text = (await bootTiny(bundle, disks)).join('\n');
      assert.match(text, says);
      assert.doesNotMatch(text, /not reached|Kernel panic/);
    });
  }

  it('says which disk is missing', async () => {
    const { root } = await guest('echo not reached');
    const text = (await bootTiny(bundle, { root }, 'banger.seed=/dev/vdz')).join('\n');
    assert.match(text, /FAILED: find the seed disk\nbanger-init: reason: \/dev\/vdz did not appear within 5 s/);
  });
});
