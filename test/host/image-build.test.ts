/** Images built for real: what is in them, what a second build does again, and what is left when one fails or is cut off. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageBuilt } from '../../src/api/image-build.ts';
import type { OperationEvent } from '../../src/api/operation.ts';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(480_000) };
/** A build boots a VM, works in it and shuts it down: a minute here, several on a busy host. */
const BUILD_LIMIT_MS = 400_000;
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('an image build', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;
  let recipes: string;

  before(async () => {
    host = await TestHost.create();
    recipes = join(host.home, 'recipes');
    await mkdir(join(recipes, 'conf'), { recursive: true });
    await mkdir(join(recipes, 'seed'));
    await writeFile(join(recipes, 'seed/.profile-of-mine'), 'seeded\n');
    await writeFile(join(recipes, 'conf/app.conf'), 'one\n');
    await symlink('app.conf', join(recipes, 'conf/current'));
    await writeFile(
      join(recipes, 'setup.sh'),
      '#!/bin/sh\nid -un > /tmp/who; cp /tmp/who /var/tmp/who; echo "$WHAT" > /opt/what\n',
    );
    await host.daemon();
  });
  after(() => host[Symbol.asyncDispose]());

  const recipe = async (name: string, text: string) => {
    const path = join(recipes, `${name}.toml`);
    await writeFile(path, text);
    return path;
  };
  const build = async (...args: string[]) => {
    const ran = await host.run(['image', 'build', ...args, '--json'], { timeoutMs: BUILD_LIMIT_MS });
    assert.equal(ran.status, 0, `${ran.stderr}${ran.stdout}`);
    return JSON.parse(ran.stdout) as ImageBuilt;
  };
  const done = (built: ImageBuilt) => built.steps.filter(({ cached }) => !cached).map(({ step }) => step);
  /** What the daemon gave for reasons is told with the failure: a kept VM is given up for many. */
  const revived = async (built: ImageBuilt) => {
    const log = await readFile(join(host.home, 'state/bangerd.log'), 'utf8');
    const told = log.split('\n').filter((line) => /kept/.test(line));
    assert.equal(done(built)[0], 'revive', `it booted; of kept VMs the log says:\n${told.join('\n')}`);
  };
  const imageFile = (id: string, name: string) => join(host.home, 'state/store/images', id, name);
  /** A file of an image, read from outside. */
  const fileIn = async (id: string, path: string) =>
    (await runner.run(['debugfs', '-R', `cat ${path}`, imageFile(id, 'rootfs.ext4')])).stdout;

  const full = (last: string) => `
    name = "dev"
    packages = ["tree"]
    work_disk_seed = "seed"
    env = { WHAT = "it is" }
    run = ["mkdir -p /opt", { script = "setup.sh" }, "${last}"]
    [[files]]
    source = "conf"
    target = "/etc/app"
    owner = "games:root"
    mode = "0640"`;

  let first: ImageBuilt;

  it('makes what the recipe says, with the list of its packages beside it', LIMIT, async () => {
    first = await build(await recipe('dev', full('echo first > /opt/last')));
    assert.equal(first.built, true);
    assert.equal(await fileIn(first.id, '/opt/last'), 'first\n');
    assert.equal(await fileIn(first.id, '/opt/what'), 'it is\n');
    assert.equal(await fileIn(first.id, '/etc/app/app.conf'), 'one\n');
    assert.equal(await fileIn(first.id, '/root/.profile-of-mine'), 'seeded\n');
    const facts = await runner.run(['debugfs', '-R', 'stat /etc/app/app.conf', imageFile(first.id, 'rootfs.ext4')]);
    assert.match(facts.stdout, /Mode: +0640[\s\S]*User: +5 +Group: +0 /);
    const manifest = await readFile(imageFile(first.id, 'rootfs.packages'), 'utf8');
    assert.match(manifest, /^tree \S+ amd64$/m);
    for (const file of ['vmlinux', 'initrd.img']) assert.ok(existsSync(imageFile(first.id, file)), file);
    await host.assertQuiet('of a build');
  });

  it('leaves no identity and no trace of the VM it was made in', LIMIT, async () => {
    assert.equal(await fileIn(first.id, '/etc/machine-id'), '');
    assert.equal(await fileIn(first.id, '/etc/hostname'), 'localhost\n');
    assert.doesNotMatch(await fileIn(first.id, '/etc/hosts'), /build-dev/);
    for (const gone of [
      '/usr/sbin/policy-rc.d',
      '/root/.ssh',
      '/tmp/who',
      '/var/cache/banger-debs',
      '/var/log/dpkg.log',
    ]) {
      assert.equal(await fileIn(first.id, gone), '', gone);
    }
    const ssh = await runner.run(['debugfs', '-R', 'ls -p /etc/ssh', imageFile(first.id, 'rootfs.ext4')]);
    assert.doesNotMatch(ssh.stdout, /ssh_host/);
    const checked = await runner.run(['e2fsck', '-f', '-n', imageFile(first.id, 'rootfs.ext4')]);
    assert.equal(checked.exitCode, 0, checked.stdout);
  });

  it('boots, and lists the same packages inside', LIMIT, async () => {
    const image = join(host.home, 'dev-bundle');
    await mkdir(image);
    const from = imageFile(first.id, '');
    await runner.run(['cp', '--sparse=always', join(from, 'rootfs.ext4'), join(image, 'rootfs.ext4')]);
    for (const file of ['vmlinux', 'initrd.img', 'rootfs.packages']) await runner.run(['cp', join(from, file), image]);
    await host.ok('run', 'web', '--image', image, '--memory', '256M', '--work-disk', '64M');
    const listed = await host.guest(
      'web',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
      "dpkg-query -W -f='${Package} ${Version} ${Architecture}\\n' | LC_ALL=C sort",
    );
    assert.equal(`${listed}\n`, await readFile(imageFile(first.id, 'rootfs.packages'), 'utf8'));
    assert.equal(
      await host.guest('web', 'tree --version | cut -c1-4; cat /root/.profile-of-mine; hostname'),
      'tree\nseeded\nweb',
    );
    await host.ok('rm', '--force', '--now', 'web');
  });

  it('does nothing for a recipe that has not changed, and only the last line when that has', LIMIT, async () => {
    const began = performance.now();
    const again = await build(join(recipes, 'dev.toml'));
    assert.ok(performance.now() - began < paced(3000), 'within a second on a machine that has time');
    assert.deepEqual([again.built, again.id, done(again)], [false, first.id, []]);
    const changed = await build(await recipe('dev', full('echo second > /opt/last')));
    assert.deepEqual(
      done(changed).filter((step) => !/^(finish|keep)/.test(step)),
      ['revive', 'run 3: echo second > /opt/last', 'work disk seed'],
    );
    assert.equal(await fileIn(changed.id, '/opt/last'), 'second\n');
    assert.equal(await fileIn(changed.id, '/etc/app/app.conf'), 'one\n');
    assert.deepEqual(await readdir(join(host.home, 'state/store/images')), [changed.id], 'the replaced one is gone');
  });

  it('goes on in the machine that was kept, which then has time and random numbers of its own', LIMIT, async () => {
    const facts = 'head -c 32 /dev/urandom | base64; date -u +%s; hostname; pwd; env | sort; ulimit -a';
    const lines = async (id: string) => (await fileIn(id, '/opt/facts')).split('\n');
    const builds: { built: ImageBuilt; lines: string[]; at: number }[] = [];
    for (const mark of ['one', 'two', 'three']) {
      const path = await recipe('facts', `run = ["mkdir -p /opt", "{ ${facts}; } > /opt/facts # ${mark}"]`);
      const built = await build(path);
      builds.push({ built, lines: await lines(built.id), at: Date.now() / 1000 });
    }
    assert.deepEqual(
      builds.map(({ built }) => done(built)[0]),
      ['boot', 'revive', 'revive'],
    );
    assert.equal(new Set(builds.map((each) => each.lines[0])).size, 3, 'random numbers');
    for (const { lines, at } of builds)
      assert.ok(Math.abs(Number(lines[1]) - at) < 60, `the clock: ${lines[1]} at ${at}`);
    assert.ok(Number(builds[2]?.lines[1]) > Number(builds[1]?.lines[1]), 'time goes on');
    const [booted = [], ...revived] = builds.map((each) => each.lines.slice(2));
    assert.ok(booted.length > 10 && booted[0] === 'build-facts', booted.join('\n'));
    for (const each of revived) assert.deepEqual(each, booted, 'name, place, environment and limits');
    await host.assertQuiet('of machines that went on');
  });

  it('boots where the kept machine cannot go on, and keeps another', LIMIT, async () => {
    const layers = join(host.home, 'state/store/layers');
    const text = (mark: string) => `run = ["echo ${mark} > /opt-mark"]`;
    assert.equal(done(await build(await recipe('single', text('one'))))[0], 'boot');
    await revived(await build(await recipe('single', text('two'))));
    for (const name of await readdir(layers)) {
      if (name.endsWith('.vmstate')) await truncate(join(layers, name), 1000);
      if (name.endsWith('.memory')) await truncate(join(layers, name), 4096);
    }
    const damaged = await build(await recipe('single', text('three')));
    assert.equal(done(damaged)[0], 'boot');
    assert.equal(await fileIn(damaged.id, '/opt-mark'), 'three\n');
    assert.match(await readFile(join(host.home, 'state/bangerd.log'), 'utf8'), /a kept VM did not go on/);
    await revived(await build(await recipe('single', text('four'))));
    await host.assertQuiet('of a machine that could not go on');
  });

  it(
    'that fails names the step, its exit code and its last words, and leaves nothing but the VM it was to keep',
    LIMIT,
    async () => {
      const path = await recipe('bad', 'run = ["true", "echo on the way; echo oops >&2; exit 3"]');
      const ran = await host.fails(
        1,
        ['image', 'build', path, '--keep'],
        [
          /Building bad: the step "run 2: echo on the way; .*" ended with 3\./,
          /It said last:\n +on the way\n +oops/,
          /banger ssh build-bad/,
        ],
      );
      assert.match(ran.stderr, /banger rm --force build-bad/);
      assert.equal(await host.guest('build-bad', 'hostname'), 'build-bad');
      await host.ok('rm', '--force', '--now', 'build-bad');
      await host.assertQuiet('of a build that failed');
      assert.equal(existsSync(join(host.home, 'state/store/images/bad')), false);
    },
  );

  it('ends a line that does not, also one that floods', LIMIT, async () => {
    const args = ['image', 'build', await recipe('slow', 'run_timeout = "3s"\nrun = ["yes"]')];
    await host.fails(7, args, [/step "run 1: yes" did not end within 3 s/, /run_timeout/]);
    await host.assertQuiet('of a line that floods');
  });

  it('is undone by Ctrl-C; with --detach it goes on by itself until it is cancelled', LIMIT, async () => {
    const path = await recipe('long', 'run = ["sleep 1000"]');
    const interrupted = host.begin(['image', 'build', path]);
    await interrupted.says(/run 1: sleep/);
    interrupted.child.kill('SIGINT');
    assert.equal((await interrupted.ended).status, 130);
    await host.assertQuiet('of Ctrl-C');
    const { id } = JSON.parse(await host.ok('image', 'build', path, '--detach', '--json'));
    await until('it has booted', async () => /run 1: sleep/.test(await host.ok('operation', 'logs', id)));
    assert.equal(JSON.parse(await host.ok('operation', 'show', id, '--json')).state, 'running');
    await host.ok('operation', 'cancel', id);
    await until(
      'it is undone',
      async () => JSON.parse(await host.ok('operation', 'show', id, '--json')).state !== 'running',
    );
    await host.assertQuiet('of a cancelled build');
  });

  it('cut off with its daemon leaves nothing, and the next one works', LIMIT, async () => {
    const path = await recipe('cut', 'run = ["echo one > /opt-one", "echo two > /opt-two"]');
    const images = (await readdir(join(host.home, 'state/store/images'))).length;
    for (const [step, delayMs] of [
      ['clone', 200],
      ['boot', 300],
      ['run', 100],
      ['keep', 200],
      ['clean', 300],
      // the machine was kept by now
      ['revive', 100],
      ['revive', 300],
      ['revive', 900],
      ['checksum', 100],
    ] as const) {
      const { pid } = await host.client.call('status', {});
      const { id } = await host.client.call('buildImage', { body: { recipe: path, directory: '/', detach: true } });
      const reached = Promise.withResolvers<boolean>();
      const follow = host.follow(id, (event: OperationEvent) => {
        if (event.type === 'step' && event.step === step) reached.resolve(true);
      });
      void follow.then(() => reached.resolve(false));
      assert.ok(await reached.promise, `it came to ${step}`);
      await sleep(delayMs);
      process.kill(pid, 'SIGKILL');
      await until('the daemon is gone', () => !existsSync(`/proc/${pid}`));
      await host.daemon();
      await host.assertQuiet(`of a build cut off ${delayMs} ms after ${step}`);
      assert.deepEqual(await readdir(join(host.home, 'state/store/vms')), [], step);
      assert.equal(
        (await readdir(join(host.home, 'state/store/images'))).length,
        images,
        `${step}: those from before alone`,
      );
    }
    const built = await build(path);
    assert.equal(await fileIn(built.id, '/opt-two'), 'two\n');
  });

  it('refuses what cannot work before anything is booted', LIMIT, async () => {
    const refuses = async (status: number, text: string, says: RegExp, ...args: string[]) =>
      await host.fails(status, ['image', 'build', await recipe('wrong', text), ...args], [says]);
    await refuses(2, 'nam = "x"', /unknown key nam/);
    await refuses(4, '[[files]]\nsource = "*.none"\ntarget = "/x/"', /nothing matches \*\.none/);
    await refuses(2, 'size = "1GiB"', /smaller than its base/);
    await refuses(4, 'base = "nosuch"', /nosuch/);
    await refuses(4, 'package_files = ["nosuch.txt"]', /There is no list of packages .*nosuch\.txt/);
    await host.fails(4, ['image', 'build', '/nonexistent.toml'], [/There is no recipe \/nonexistent\.toml/]);
    await host.fails(2, ['image', 'build'], [/The image has no name/]);
    const validated = JSON.parse(await host.ok('image', 'validate', join(recipes, 'dev.toml'), '--json'));
    assert.deepEqual(
      validated.steps.map(({ step }: { step: string }) => step.split(' ')[0]),
      ['packages', 'files', 'run', 'run', 'run', 'work'],
    );
    await host.assertQuiet('of recipes that were refused');
  });
});
