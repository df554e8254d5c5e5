/** Images built for real: what is in them, what a second build does again, and what is refused. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ImageBuilt } from '../../src/api/image-build.ts';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost } from '../support/host.ts';
import { ImageBuilds, stepsDone } from '../support/image-builds.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(480_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('an image build', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;
  let recipes: string;
  let builds: ImageBuilds;

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
    builds = new ImageBuilds(host, recipes);
    await host.daemon();
  });
  after(() => host[Symbol.asyncDispose]());

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
    first = await builds.build(await builds.recipe('dev', full('echo first > /opt/last')));
    assert.equal(first.built, true);
    assert.equal(await builds.fileIn(first.id, '/opt/last'), 'first\n');
    assert.equal(await builds.fileIn(first.id, '/opt/what'), 'it is\n');
    assert.equal(await builds.fileIn(first.id, '/etc/app/app.conf'), 'one\n');
    assert.equal(await builds.fileIn(first.id, '/root/.profile-of-mine'), 'seeded\n');
    const facts = await runner.run([
      'debugfs',
      '-R',
      'stat /etc/app/app.conf',
      builds.imageFile(first.id, 'rootfs.ext4'),
    ]);
    assert.match(facts.stdout, /Mode: +0640[\s\S]*User: +5 +Group: +0 /);
    const manifest = await readFile(builds.imageFile(first.id, 'rootfs.packages'), 'utf8');
    assert.match(manifest, /^tree \S+ amd64$/m);
    for (const file of ['vmlinux', 'initrd.img']) assert.ok(existsSync(builds.imageFile(first.id, file)), file);
    await host.assertQuiet('of a build');
  });

  it('leaves no identity and no trace of the VM it was made in', LIMIT, async () => {
    assert.equal(await builds.fileIn(first.id, '/etc/machine-id'), '');
    assert.equal(await builds.fileIn(first.id, '/etc/hostname'), 'localhost\n');
    assert.doesNotMatch(await builds.fileIn(first.id, '/etc/hosts'), /build-dev/);
    for (const gone of [
      '/usr/sbin/policy-rc.d',
      '/root/.ssh',
      '/tmp/who',
      '/var/cache/banger-debs',
      '/var/log/dpkg.log',
    ]) {
      assert.equal(await builds.fileIn(first.id, gone), '', gone);
    }
    const ssh = await runner.run(['debugfs', '-R', 'ls -p /etc/ssh', builds.imageFile(first.id, 'rootfs.ext4')]);
    assert.doesNotMatch(ssh.stdout, /ssh_host/);
    const checked = await runner.run(['e2fsck', '-f', '-n', builds.imageFile(first.id, 'rootfs.ext4')]);
    assert.equal(checked.exitCode, 0, checked.stdout);
  });

  it('boots, and lists the same packages inside', LIMIT, async () => {
    const image = join(host.home, 'dev-bundle');
    await mkdir(image);
    const from = builds.imageFile(first.id, '');
    await runner.run(['cp', '--sparse=always', join(from, 'rootfs.ext4'), join(image, 'rootfs.ext4')]);
    for (const file of ['vmlinux', 'initrd.img', 'rootfs.packages']) await runner.run(['cp', join(from, file), image]);
    await host.ok('run', 'web', '--image', image, '--memory', '256M', '--work-disk', '64M');
    const listed = await host.guest(
      'web',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
      "dpkg-query -W -f='${Package} ${Version} ${Architecture}\\n' | LC_ALL=C sort",
    );
    assert.equal(`${listed}\n`, await readFile(builds.imageFile(first.id, 'rootfs.packages'), 'utf8'));
    assert.equal(
      await host.guest('web', 'tree --version | cut -c1-4; cat /root/.profile-of-mine; hostname'),
      'tree\nseeded\nweb',
    );
    await host.ok('rm', '--force', '--now', 'web');
  });

  it('does nothing for a recipe that has not changed, and only the last line when that has', LIMIT, async () => {
    const began = performance.now();
    const again = await builds.build(join(recipes, 'dev.toml'));
    assert.ok(performance.now() - began < paced(3000), 'within a second on a machine that has time');
    assert.deepEqual([again.built, again.id, stepsDone(again)], [false, first.id, []]);
    const changed = await builds.build(await builds.recipe('dev', full('echo second > /opt/last')));
    assert.deepEqual(
      stepsDone(changed).filter((step) => !/^(finish|keep)/.test(step)),
      ['revive', 'run 3: echo second > /opt/last', 'work disk seed'],
    );
    assert.equal(await builds.fileIn(changed.id, '/opt/last'), 'second\n');
    assert.equal(await builds.fileIn(changed.id, '/etc/app/app.conf'), 'one\n');
    assert.deepEqual(await readdir(join(host.home, 'state/store/images')), [changed.id], 'the replaced one is gone');
  });

  it('refuses what cannot work before anything is booted', LIMIT, async () => {
    const refuses = async (status: number, text: string, says: RegExp, ...args: string[]) =>
      await host.fails(status, ['image', 'build', await builds.recipe('wrong', text), ...args], [says]);
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
