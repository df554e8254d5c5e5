/**
 * Control groups with controllers: on the machines that tests run on version 1 may have them. A guest has them, so what
 * test/system/cgroup.test.ts asks of groups is asked there, and nothing of it may be left out.
 */
import assert from 'node:assert/strict';
import { cp, mkdir, rm, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const SUBJECT = 'test/system/cgroup.test.ts';
const CARRIED = [SUBJECT, 'test/support/temp-dir.ts', 'src', 'package.json'];

/** mount(2) on x86_64; there is no program for it in a lean guest. */
const MOUNT = 165;

describe('control groups', { skip: hostSkip('debugfs', 'ldd') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({ lean: true, warm: true });
    const tree = join(host.home, 'cargo');
    await mkdir(join(tree, 'lib'), { recursive: true });
    for (const path of CARRIED) await cp(join(ROOT, path), join(tree, path), { recursive: true });
    await cp(process.execPath, join(tree, 'node'));
    // by its own loader: the guest's libraries may be older
    const { stdout } = await runner.run(['ldd', process.execPath]);
    for (const [, path = ''] of stdout.matchAll(/(?:=> |^\s+)(\/\S+) \(/gm)) {
      await cp(path, join(tree, 'lib', basename(path)), { dereference: true });
    }
    const disk = join(host.home, 'cargo.ext4');
    const mebibytes = Math.ceil((await stat(process.execPath)).size / 2 ** 20) + 100;
    await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'root_owner=0:0', '-d', tree, disk, `${mebibytes}M`]);
    await rm(tree, { recursive: true });
    await host.ok('create', 'grouped', '--memory', '512M', '--work-disk-from', disk);
    await rm(disk);
    await host.ok('start', 'grouped');
  });
  after(() => host?.[Symbol.asyncDispose]());

  it('hold VMs to their memory and tasks where there are controllers', { timeout: paced(180_000) }, async () => {
    const said = await host.guest(
      'grouped',
      `perl -e 'my ($type, $place) = qw(cgroup2 /sys/fs/cgroup); syscall(${MOUNT}, $type, $place, $type, 0, 0) == 0 or die "$!\\n"' || exit
      cd /root && exec lib/ld-linux-x86-64.so.2 --library-path lib ./node --test-reporter=tap ${SUBJECT} 2>&1`,
    );
    assert.match(said, /^# fail 0$/m, said);
    assert.match(said, /^# skipped 0$/m, said);
    assert.match(said, /ok \d+ - takes no more memory, and is ended as a whole$/m, said);
    assert.match(said, /ok \d+ - begins no more processes$/m, said);
  });
});
