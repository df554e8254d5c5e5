/**
 * What works in which kind of OCI image: scratch with one static program, busybox, distroless-like, Alpine-like, Debian without an
 * init, with systemd, with OpenRC-like init; each with run, exec, ssh, cp, logs, its process, health, stop and snapshot. Prints a table;
 * exits with 1 when something does not work.
 *
 *   node bench/oci-matrix.ts [KIND...]
 *
 * Needs root, dist/banger (make build), skopeo, gcc, musl-gcc and a bundle (node scripts/test-bundle.ts "$PWD/.dev"), whose Debian is what
 * the last three are made of.
 */
import { execFileSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { bundleBusybox } from '../test/support/bundle-busybox.ts';
import { TestHost, until } from '../test/support/host.ts';
import { extendOciLayout, rawTar, tarOf, writeOciLayout } from '../test/support/oci-image.ts';

process.env.BANGER_TEST_BUNDLE ??= join(import.meta.dirname, '../.dev/bundle');
const BUNDLE = process.env.BANGER_TEST_BUNDLE;

/** Says who and where it is, is well, and says when it is asked to end. */
const PROGRAM = `#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void asked(int number) { printf("app: signal %d\\n", number); fflush(stdout); exit(0); }
int main(int count, char **words) {
  char here[256];
  if (count > 1) return strcmp(words[1], "check") == 0 ? 0 : 7;
  signal(SIGTERM, asked);
  printf("app: %d in %s says %s\\n", getuid(), getcwd(here, sizeof here), getenv("GREETING"));
  fflush(stdout);
  for (;;) pause();
}
`;
const SCRIPT = `#!/bin/sh
[ "$1" = check ] && exit 0
[ "$1" = fail ] && exit 7
trap 'echo app: signal 15; exit 0' TERM
echo "app: $(id -u) in $PWD says $GREETING"
while :; do sleep 1 & wait $!; done
`;
const CONFIG = {
  ...{ Entrypoint: ['/opt/app'], Env: ['GREETING=hello', 'PATH=/opt:/usr/bin:/bin:/usr/sbin:/sbin'] },
  ...{ User: '1234', WorkingDir: '/srv/data' },
  Healthcheck: { Test: ['CMD', '/opt/app', 'check'], Interval: 300_000_000 },
};

const dir = await mkdtemp('/tmp/bench-matrix-');
const at = (...parts: string[]) => join(dir, ...parts);
const failures: string[] = [];

type Maker = (root: string) => Promise<void>;

const KINDS: Record<string, Maker | 'debian' | 'systemd'> = {
  scratch: async (root) => await compile('musl-gcc', root, '-static'),
  busybox: async (root) => {
    await busybox(root);
    await script(root);
  },
  distroless: async (root) => {
    await compile('gcc', root);
    await withLibraries(root, join(root, 'opt/app'));
    await text(root, 'etc/passwd', 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:1234:1234::/home:/sbin/nologin\n');
    await text(root, 'var/lib/dpkg/status.d/base', 'Package: base-files\nVersion: 12\nArchitecture: all\n');
  },
  alpine: async (root) => {
    await busybox(root);
    await compile('musl-gcc', root);
    await mkdir(join(root, 'lib'), { recursive: true });
    await copyFile(realpathSync('/lib/x86_64-linux-musl/libc.so'), join(root, 'lib/ld-musl-x86_64.so.1'));
    await text(root, 'etc/passwd', 'root:x:0:0:root:/root:/bin/ash\n');
    await text(root, 'etc/alpine-release', '3.20.0\n');
    await text(root, 'etc/os-release', 'ID=alpine\nVERSION_ID=3.20.0\n');
    await text(root, 'lib/apk/db/installed', 'P:musl\nV:1.2\nA:x86_64\n');
    // as Alpine has it: an init that has nothing to begin
    await mkdir(join(root, 'sbin'));
    await symlink('/bin/busybox', join(root, 'sbin/init'));
    await text(root, 'etc/inittab', '::sysinit:/sbin/openrc sysinit\n');
  },
  openrc: async (root) => {
    await busybox(root);
    await script(root);
    await text(root, 'etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n');
    await mkdir(join(root, 'sbin'));
    await symlink('/bin/busybox', join(root, 'sbin/init'));
    const lines = [
      ...['::sysinit:/sbin/openrc sysinit', '::wait:/sbin/openrc default', '::ctrlaltdel:/bin/reboot'],
      '::shutdown:/sbin/openrc shutdown',
    ];
    await text(root, 'etc/inittab', `${lines.join('\n')}\n`);
    await text(root, 'sbin/openrc', '#!/bin/sh\necho "openrc: $1" > /dev/console\n', 0o755);
  },
  debian: 'debian',
  systemd: 'systemd',
};

try {
  const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(KINDS);
  await writeFile(at('app.c'), PROGRAM);
  await using host = await TestHost.create({ prefix: at('h-') });
  await host.daemon();
  for (const kind of wanted) {
    const layout = await layoutOf(host, kind);
    await tryAll(host, kind, layout);
    await host.run(['rm', '--force', '--now', kind]);
  }
} finally {
  await rm(dir, { recursive: true, force: true });
}
if (failures.length > 0) {
  console.log(`\n${failures.join('\n\n')}`);
  process.exitCode = 1;
}

async function tryAll(host: TestHost, kind: string, layout: string): Promise<void> {
  const row: string[] = [];
  const step = async (name: string, work: () => Promise<unknown>) => {
    const before = performance.now();
    try {
      await work();
      row.push(`${name} ${((performance.now() - before) / 1000).toFixed(1)}`);
    } catch (error) {
      row.push(`${name} FAILED`);
      failures.push(`${kind}, ${name}: ${error instanceof Error ? error.message : error}`);
    }
  };
  const logs = async () => await host.ok('logs', kind);
  const state = async () => JSON.parse(await host.ok('show', kind, '--json'));
  const reads = async (expected: string, ...words: string[]) => {
    const said = (await host.ok(...words)).trim();
    if (said !== expected) throw new Error(`${words.join(' ')} said "${said}" instead of "${expected}"`);
  };
  await step('pull', () => host.ok('image', 'pull', `oci:${layout}`, '--name', kind));
  await step('run', () => host.ok('run', kind, '--image', kind, '--work-disk', '64M'));
  await step('exec', async () => {
    await host.fails(7, ['exec', kind, '--', '/opt/app', 'fail'], []);
    await reads('42 hello', 'exec', kind, '--', 'sh', '-c', 'echo $((6 * 7)) $GREETING');
  });
  await step('ssh', async () => {
    await reads('0', 'ssh', kind, '--', 'id', '-u');
    // an SSH server of the image's own gives sessions what it has itself
    await reads(kind === 'systemd' ? '' : 'hello', 'ssh', kind, '--', 'sh -c "echo $GREETING"');
  });
  await step('cp', async () => {
    await writeFile(at('there'), `and back ${kind}`);
    await host.ok('cp', at('there'), `${kind}:/srv/there`);
    await host.ok('cp', `${kind}:/srv/there`, at('back'));
    if ((await readFile(at('back'), 'utf8')) !== `and back ${kind}`) throw new Error('it is another file');
  });
  await step('logs', () =>
    until('it speaks', async () => (await logs()).includes('app: 1234 in /srv/data says hello')),
  );
  await step('process', () => until('it is well', async () => (await host.ok('ls')).includes('running (healthy)')));
  await step('again', async () => {
    await host.ok(
      'exec',
      kind,
      '--',
      'sh',
      '-c',
      'for p in /proc/[0-9]*; do grep -qs "^/opt/app" $p/cmdline || grep -qs "^/bin/sh./opt/app" $p/cmdline && kill -9 $(basename $p); done; true',
    );
    await until('it is begun again', async () => {
      const { process } = await state();
      return process.restarts >= 1 && process.state === 'running' && process.health?.state === 'healthy';
    });
  });
  await step('stop', async () => {
    await host.ok('stop', kind);
    if (!(await logs()).includes('app: signal 15'))
      throw new Error(`it was not asked to end:\n${(await logs()).slice(-3000)}`);
    if ((await state()).state !== 'stopped') throw new Error((await state()).state);
  });
  await step('snapshot', async () => {
    await host.ok('snapshot', 'create', kind, 'first');
    await host.ok('snapshot', 'restore', kind, 'first', '--force');
  });
  console.log(`${kind.padEnd(11)} ${row.join('  ')}`);
}

async function layoutOf(host: TestHost, kind: string): Promise<string> {
  const layout = at(`layout-${kind}`);
  const make = KINDS[kind];
  if (make === undefined) throw new Error(`${kind} is none of ${Object.keys(KINDS).join(', ')}`);
  const root = at(`root-${kind}`);
  await mkdir(root);
  if (typeof make === 'function') {
    await make(root);
    await writeOciLayout(layout, { layers: [{ tar: tarOf(root) }], config: CONFIG });
    return layout;
  }
  const debian = at('layout-from-bundle');
  if (!(await readFile(join(debian, 'index.json')).catch(() => undefined))) {
    await host.ok('image', 'import', join(BUNDLE, 'rootfs.ext4'), '--name', 'bundled');
    await host.ok('image', 'push', 'bundled', `oci:${debian}`);
  }
  await cp(debian, layout, { recursive: true });
  await script(root);
  const gone = ['sbin/init', 'lib/systemd'].map((path) => ({ path: `usr/${dirname(path)}/.wh.${basename(path)}` }));
  if (make === 'debian') await extendOciLayout(layout, rawTar(gone), {});
  await extendOciLayout(layout, tarOf(root), CONFIG);
  return layout;
}

async function compile(compiler: string, root: string, ...words: string[]): Promise<void> {
  await mkdir(join(root, 'opt'), { recursive: true });
  execFileSync(compiler, [...words, '-Os', '-o', join(root, 'opt/app'), at('app.c')]);
}

async function script(root: string): Promise<void> {
  await text(root, 'opt/app', SCRIPT, 0o755);
}

async function text(root: string, path: string, content: string, mode = 0o644): Promise<void> {
  await mkdir(join(root, dirname(path)), { recursive: true });
  await writeFile(join(root, path), content);
  await chmod(join(root, path), mode);
}

async function busybox(root: string): Promise<void> {
  await mkdir(join(root, 'bin'), { recursive: true });
  const program = join(root, 'bin/busybox');
  await writeFile(program, bundleBusybox(join(BUNDLE, 'initrd.img')));
  await chmod(program, 0o755);
  for (const name of execFileSync(program, ['--list'], { encoding: 'utf8' }).split('\n')) {
    if (name !== '' && name !== 'busybox') await symlink('busybox', join(root, 'bin', name));
  }
}

/** A program of this machine with what it is linked to, at their own places. */
async function withLibraries(root: string, program: string): Promise<void> {
  const said = execFileSync('ldd', [program], { encoding: 'utf8' });
  for (const [, path = ''] of said.matchAll(/(\/\S+) \(0x/g)) {
    await mkdir(join(root, dirname(path)), { recursive: true });
    await copyFile(realpathSync(path), join(root, path));
    await chmod(join(root, path), 0o755);
  }
}
