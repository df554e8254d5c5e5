/** VMs of OCI images that have nothing but a program, and what is done with them. */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { bundleBusybox } from '../support/bundle-busybox.ts';
import { writeDisk } from '../support/disk-images.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { rawTar, tarOf, writeOciLayout } from '../support/oci-image.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const skip = hostSkip('debugfs', 'skopeo', 'musl-gcc');

/** Says who it is, fails when it is told to, and goes on until it is asked to end. */
const APP = `#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void asked(int number) { printf("app: signal %d\\n", number); fflush(stdout); exit(0); }
int main(int count, char **words) {
  char here[256];
  signal(SIGQUIT, asked);
  printf("app: %d:%d in %s says %s\\n", getuid(), getgid(), getcwd(here, sizeof here), getenv("GREETING"));
  fflush(stdout);
  if (count > 1 && strcmp(words[1], "fail") == 0) return 3;
  if (count > 1 && strcmp(words[1], "check") == 0) return access("ill", F_OK) == 0;
  for (;;) pause();
}
`;

describe('an OCI image with one static program', { skip }, () => {
  let host: TestHost;
  let dir = '';

  before(async () => {
    host = await TestHost.create();
    dir = await mkdtemp('/tmp/bt-oci-');
    const root = join(dir, 'root');
    await mkdir(root);
    await writeFile(join(dir, 'app.c'), APP);
    await runner.run(['musl-gcc', '-static', '-Os', '-o', join(root, 'app'), join(dir, 'app.c')]);
    await chmod(join(root, 'app'), 0o755);
    const config = {
      ...{ Entrypoint: ['/app'], Env: ['GREETING=hello world', 'PATH=/opt'], User: '1000:2000' },
      ...{ WorkingDir: '/srv/data', StopSignal: 'SIGQUIT' },
      Healthcheck: { Test: ['CMD', '/app', 'check'], Interval: 200_000_000, Retries: 2 },
      ...{ ExposedPorts: { '8080/tcp': {} }, Volumes: { '/srv/kept': {} } },
    };
    await writeOciLayout(join(dir, 'layout'), { layers: [{ tar: tarOf(root) }], config });
    await host.daemon();
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  });

  const logs = async () => await host.ok('logs', 'app');

  it('runs it as the image says, and is reached although it has no shell', async () => {
    await host.ok('run', 'app', '--image', `oci:${join(dir, 'layout')}`, '--work-disk', 'none');
    await until('the program has spoken', async () =>
      (await logs()).includes('app: 1000:2000 in /srv/data says hello world'),
    );
    await host.fails(3, ['exec', 'app', '--', '/app', 'fail'], []);
    assert.equal((await host.ok('exec', 'app', '--', 'sh', '-c', 'echo $GREETING')).trim(), 'hello world');
    assert.match(await host.ok('ssh', 'app', '--', 'id'), /^uid=0/);
    await writeFile(join(dir, 'there'), 'and back');
    await host.ok('cp', join(dir, 'there'), 'app:/srv/');
    await host.ok('cp', 'app:/srv/there', join(dir, 'back'));
    assert.equal(await readFile(join(dir, 'back'), 'utf8'), 'and back');
  });

  it('is asked whether it is well, and its state is seen', async () => {
    const listed = async (state: string) => await until(state, async () => (await host.ok('ls')).includes(state));
    await listed('running (healthy)');
    await host.ok('exec', 'app', '--', 'touch', '/srv/data/ill');
    await listed('running (unhealthy)');
    const { process } = JSON.parse(await host.ok('show', 'app', '--json'));
    assert.match(JSON.stringify(process.health), /"state":"unhealthy","detail":"status 1: app: 1000:2000 in .srv.data/);
    assert.match(await host.ok('events'), /app: its process is unhealthy: status 1/);
    await host.ok('exec', 'app', '--', 'rm', '/srv/data/ill');
    await listed('running (healthy)');
  });

  it('ends by the signal that the image names, and keeps its disk', async () => {
    await host.ok('stop', 'app');
    assert.match(await logs(), /app: signal 3/);
    await host.ok('start', 'app');
    assert.equal(await host.ok('exec', 'app', '--', 'cat', '/srv/there'), 'and back');
  });

  it('starts from a template that was asked for, as the VM that it is', async () => {
    await host.ok('image', 'warm', 'layout', '--work-disk', 'none');
    assert.match(await host.ok('run', 'second', '--image', 'layout', '--work-disk', 'none'), /from a template/);
    assert.equal(await host.ok('exec', 'second', '--', 'hostname'), 'second');
    await until('it is known to be well', async () => /second .*running \(healthy\)/.test(await host.ok('ls')));
    const { process } = JSON.parse(await host.ok('show', 'second', '--json'));
    assert.deepEqual([process.state, process.restarts], ['running', 0]);
    await host.ok('rm', '--force', '--now', 'second');
  });

  it('is begun again when it fails, as whom and with what was asked for', async () => {
    const asked = ['--cmd', 'fail', '--user', '7', '--env', 'GREETING=other'];
    const script = join(dir, 'script');
    await writeFile(script, '#!/run/banger/bin/sh\necho said by the script\ndate > /srv/first\n');
    await host.ok('run', 'bad', '--image', 'layout', '--work-disk', '64M', '--user-data', script, ...asked);
    await host.ok('wait', 'bad', '--for', 'cloud-init');
    await host.ok('exec', 'bad', '--', 'cat', '/srv/first');
    assert.match(await host.ok('show', 'bad'), /its script is done/);
    assert.match(await host.ok('logs', 'bad'), /said by the script/);
    await until('it is begun again', async () =>
      /app: 7:0 in .* says other[\s\S]*status 3 and begins again/.test(await host.ok('logs', 'bad')),
    );
    const { process } = JSON.parse(await host.ok('show', 'bad', '--json'));
    assert.ok(process.restarts > 0 && process.detail === 'status 3', JSON.stringify(process));
    assert.match(await host.ok('events'), /bad: its process is waiting: status 3/);
    assert.match(await host.ok('ports', 'bad'), /^8080 .*nothing listens there yet/m);
    await host.ok('exec', 'bad', '--', 'touch', '/srv/kept/there');
    assert.equal((await host.ok('exec', 'bad', '--', 'ls', '/root/.volumes/srv/kept')).trim(), 'there');
  });
});

/** Alpine's package manager, as far as it is told anything here: it says what the real one says, and keeps the same records. */
const APK = `#!/bin/sh
echo "apk $*" >> /apk.calls
case $1 in
update) echo 'fetch https://dl-cdn.alpinelinux.org/alpine/v3.20/main/x86_64/APKINDEX.tar.gz'
  echo 'OK: 24168 distinct packages available' ;;
add) for each in "$@"; do case $each in add | -*) ;; *)
    echo "(1/1) Installing $each (1.7.1-r0)"
    printf 'P:%s\\nV:1.7.1-r0\\nA:x86_64\\n\\n' "$each" >> /lib/apk/db/installed ;; esac; done
  echo 'OK: 9 MiB in 16 packages' ;;
list) while IFS=: read -r key value; do case $key in
    P) name=$value ;; V) version=$value ;; A) echo "$name-$version $value {$name} (MIT) [installed]" ;; esac
  done < /lib/apk/db/installed ;;
esac
`;

describe('a recipe that begins with an OCI image', { skip }, () => {
  it('pulls it, adds to it with its own package manager, and what runs in it stays', async (t) => {
    const host = await TestHost.create();
    const dir = await mkdtemp('/tmp/bt-recipe-');
    t.after(async () => {
      await host[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    });
    const busybox = bundleBusybox(join(process.env.BANGER_TEST_BUNDLE ?? '', 'initrd.img')).toString('latin1');
    const link = (name: string) => ({ path: `bin/${name}`, type: '2', target: 'busybox' });
    const tar = rawTar([
      { path: 'bin/busybox', data: busybox, mode: 0o755 },
      ...['sh', 'cat', 'echo', 'printf'].map(link),
      { path: 'sbin/apk', data: APK, mode: 0o755 },
      { path: 'etc/os-release', data: 'ID=alpine\nVERSION_ID=3.20.3\n' },
      { path: 'etc/passwd', data: 'root:x:0:0:root:/root:/bin/sh\n' },
      { path: 'lib/apk/db/installed', data: 'P:busybox\nV:1.36.1-r29\nA:x86_64\n\n' },
    ]);
    const config = { Entrypoint: ['/bin/sh', '-c', 'echo > /began; cat'], Labels: { of: 'base' } };
    await writeOciLayout(join(dir, 'alpine'), { layers: [{ tar }], config });
    const recipe = [
      `base = "oci:alpine"`,
      'packages = ["jq"]',
      'run = ["test ! -e /began", "echo $STAGE > /made"]',
      ...['[env]', 'STAGE = "image"', '[[files]]', 'source = "note"', 'target = "/srv/"'],
    ];
    await writeFile(join(dir, 'note'), 'of the recipe');
    await writeFile(join(dir, 'dev.toml'), recipe.join('\n'));
    await host.daemon();
    await host.fails(4, ['image', 'validate', join(dir, 'dev.toml')], [/is not here/, /banger image pull oci:/]);
    await host.ok('image', 'build', join(dir, 'dev.toml'));
    const shown = JSON.parse(await host.ok('image', 'show', 'dev', '--json'));
    assert.deepEqual([shown.base, shown.oci.entrypoint[0], shown.oci.labels], ['alpine', '/bin/sh', { of: 'base' }]);
    assert.match(await host.ok('image', 'diff', 'alpine', 'dev'), /jq +1.7.1-r0/);
    const read = async (path: string) => (await runner.run(['debugfs', '-R', `cat ${path}`, shown.rootfs])).stdout;
    assert.equal(await read('/apk.calls'), 'apk update\napk add --no-progress jq\napk list --installed\n');
    assert.deepEqual([await read('/made'), await read('/srv/note')], ['image\n', 'of the recipe']);
    // it is no longer what the reference means
    assert.match(await host.ok('image', 'pull', `oci:${join(dir, 'alpine')}`), /^alpine is here already$/);
    assert.match(await host.ok('image', 'build', join(dir, 'dev.toml')), /up to date/);
  });
});

describe('a disk whose root is no ext4', {
  skip: skip || hostSkip('mkfs.xfs', 'mkfs.btrfs', 'sfdisk', 'qemu-img'),
}, () => {
  const FSTAB = [
    'UUID=01234567-89ab-cdef-0123-456789abcdef / auto rw 0 1',
    'UUID=1234-ABCD /boot/efi vfat umask=0077 0 1',
    'tmpfs /cache tmpfs size=1M 0 0',
    '',
  ].join('\n');
  const UUID = '01234567-89ab-cdef-0123-456789abcdef';

  for (const kind of ['xfs', 'btrfs'] as const) {
    it(`boots from ${kind}, grows it, and loses what named other partitions`, async (t) => {
      const host = await TestHost.create();
      const dir = await mkdtemp('/tmp/bt-disk-');
      t.after(async () => {
        await host[Symbol.asyncDispose]();
        await rm(dir, { recursive: true, force: true });
      });
      const [root, content, raw, disk] = ['root', 'content', 'raw', 'server.qcow2'].map((name) => join(dir, name)) as [
        ...[string, string, string, string],
      ];
      await mkdir(join(root, 'etc'), { recursive: true });
      await writeFile(join(root, 'etc/fstab'), FSTAB);
      await writeFile(content, '');
      await truncate(content, 300 * 1024 * 1024);
      if (kind === 'btrfs') await runner.run(['mkfs.btrfs', '-q', '-U', UUID, '--rootdir', root, content]);
      else {
        const proto = `/\n0 0\nd--755 0 0\netc d--755 0 0\nfstab ---644 0 0 ${join(root, 'etc/fstab')}\n$\n$\n`;
        await writeFile(join(dir, 'proto'), proto);
        await runner.run(['mkfs.xfs', '-q', '-m', `uuid=${UUID}`, '-p', join(dir, 'proto'), content]);
      }
      await writeDisk(raw, 'gpt', [{ content }]);
      await runner.run(['qemu-img', 'convert', '-c', '-O', 'qcow2', raw, disk]);
      await host.daemon();
      await host.ok('image', 'import', disk);
      await host.ok('run', 'web', '--image', 'server', '--work-disk', 'none', '--disk', '500M');
      const df = async () => await host.ok('exec', 'web', '--', 'df', '-m', '/');
      assert.match(await df(), /\/dev\/vda +(4\d\d|500) /);
      const fstab = await host.ok('exec', 'web', '--', 'cat', '/etc/fstab');
      assert.equal(fstab.trim(), FSTAB.trim().replace('UUID=1234', '# not on this disk: UUID=1234'));
      await host.ok('disk', 'resize', 'web', '--root', '700M', '--online');
      assert.match(await df(), /\/dev\/vda +(6\d\d|700) /);
      if (kind === 'btrfs') return;
      const size = ['--work-disk', 'none', '--disk', '500M'];
      await host.ok('image', 'warm', 'server', ...size);
      assert.match(await host.ok('run', 'warm', '--image', 'server', ...size), /from a template/);
      assert.equal(await host.ok('exec', 'warm', '--', 'hostname'), 'warm');
    });
  }
});
