/** Snapshots of the disks of one VM: taken while it runs and while it does not, compared, put back, copied, exported. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { SnapshotDiff } from '../../src/api/snapshot.ts';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(300_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('snapshots', { skip: hostSkip('cmp') }, () => {
  let host: TestHost;
  let work: string;

  before(async () => {
    host = await TestHost.create({ lean: true, warm: true });
    work = await mkdtemp('/tmp/bt-snap-');
    await host.daemon();
    await host.ok('run', 'web', '--memory', '256M', '--work-disk', '256M');
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await rm(work, { recursive: true, force: true });
  });

  const diff = async (...words: string[]): Promise<SnapshotDiff> =>
    JSON.parse(await host.ok('snapshot', 'diff', 'web', ...words, '--json'));
  const told = ({ changes }: SnapshotDiff) =>
    changes.filter(({ path }) => /bt-/.test(path)).map(({ change, path }) => `${change} ${path}`);

  it('of a guest that writes are of one moment of both disks, and it writes on', LIMIT, async () => {
    // the same number on both disks, root first: a snapshot in between may find the root one ahead, never the work disk
    const writer =
      'n=0; while n=$((n + 1)); do echo $n > /opt/bt-n; sync /opt/bt-n; echo $n > /root/bt-n; sync /root/bt-n; done';
    await host.guest(
      'web',
      `mkdir -p /opt; touch /opt/bt-old; (${writer}) > /dev/null 2>&1 & echo $! > /run/bt-writer; sleep 1`,
    );
    const taken = JSON.parse(
      await host.ok('snapshot', 'create', 'web', 'first', '--disk-only', '--pause-ok', '--json'),
    );
    assert.equal(taken.taken, 'frozen');
    assert.ok(taken.pauseMs > 0, JSON.stringify(taken));
    const number = async () => Number(await host.guest('web', 'cat /root/bt-n'));
    const seen = await number();
    await host.guest(
      'web',
      `for i in $(seq 50); do [ "$(cat /root/bt-n)" -gt ${seen} ] && exit; sleep 0.2; done; exit 1`,
    );
    await host.guest(
      'web',
      'kill $(cat /run/bt-writer); sleep 0.5; rm /opt/bt-old; echo new > "/root/bt-new file"; sync',
    );
    const [root, disk] = await Promise.all(
      [
        [`${taken.directory}/root.ext4`, '/opt/bt-n'],
        [`${taken.directory}/work.ext4`, '/bt-n'],
      ].map(async ([image = '', path = '']) => {
        const { stdout } = await runner.run(['debugfs', '-R', `cat ${path}`, image]);
        return Number(stdout.trim());
      }),
    );
    assert.ok(
      root !== undefined && disk !== undefined && disk > 0 && (root === disk || root === disk + 1),
      `${root} ${disk}`,
    );
    for (const image of ['root.ext4', 'work.ext4']) {
      // a journal with nothing in it: nothing has to be replayed
      await runner.run(['e2fsck', '-fn', `${taken.directory}/${image}`]);
    }
    assert.deepEqual(told(await diff('first', '--pause-ok')), [
      'changed /opt/bt-n',
      'removed /opt/bt-old',
      'changed /root/bt-n',
      'added /root/bt-new file',
    ]);
  });

  it('cut off by the end of the daemon leave a guest that writes, and nothing else', LIMIT, async () => {
    const cut = host.begin(['snapshot', 'create', 'web', 'cut', '--disk-only', '--pause-ok']);
    await cut.says(/holding the guest still/);
    await host.killDaemon();
    await cut.ended;
    await host.guest('web', 'echo still > /opt/bt-still; sync; cat /opt/bt-still');
    assert.equal(await host.ok('snapshot', 'list', 'web', '--names'), 'first');
    await host.ok('stop', 'web');
    await host.assertQuiet('of the snapshot that was cut off');
  });

  it('are put back, and taken back, without a copy of what was there', LIMIT, async () => {
    await host.fails(4, ['snapshot', 'restore', 'web', 'none'], [/has no snapshot "none"/, /It has: first/]);
    assert.match(await host.ok('snapshot', 'restore', 'web', 'first'), /web has the disks of first again/);
    assert.deepEqual((await diff('first')).changes, []);
    await host.ok('snapshot', 'undo', 'web');
    assert.ok(told(await diff('first')).includes('removed /opt/bt-old'));
    await host.ok('snapshot', 'undo', 'web');
    assert.deepEqual((await diff('first')).changes, []);
    assert.equal((await host.vm('web')).snapshots, 2);
  });

  it('become VMs of their own: beside theirs, and on another machine', LIMIT, async () => {
    await host.ok('snapshot', 'restore', 'web', 'first', '--as', 'copy');
    const file = join(work, 'first.tar.zst');
    await host.ok('snapshot', 'export', 'web', 'first', file);
    await host.ok('snapshot', 'import', file, 'brought');
    const [first] = JSON.parse(await host.ok('snapshot', 'list', 'web', '--json'));
    const { directory } = await host.vm('brought');
    for (const disk of ['root.ext4', 'work.ext4']) {
      await runner.run(['cmp', `${first.directory}/${disk}`, `${directory}/${disk}`]);
    }
    await host.ok('start', 'web', 'copy');
    // a guest without systemd has no machine id of its own
    const identity = 'echo "$(cat /etc/machine-id 2> /dev/null)"; hostname; cat /root/bt-n; ls /opt/bt-old';
    const [web = '', copy = ''] = await Promise.all(['web', 'copy'].map((name) => host.guest(name, identity)));
    const [webId, webName, ...webRest] = web.split('\n');
    const [copyId, copyName, ...copyRest] = copy.split('\n');
    assert.deepEqual([webName, copyName], ['web', 'copy']);
    assert.deepEqual(copyRest, webRest, 'both have what the snapshot has');
    assert.match(copyId ?? '', /^[0-9a-f]{32}$/);
    assert.notEqual(copyId, webId);
    await host.ok('rm', '--force', '--now', 'copy', 'brought');
  });

  it('have the memory of a VM that runs: put back as often as wanted, and as another machine', LIMIT, async () => {
    const counter =
      'n=0; while :; do n=$((n + 1)); echo $n > /run/bt-n; echo $n > /root/bt-n; sync /root/bt-n; sleep 0.1; done';
    await host.guest('web', `(${counter}) > /dev/null 2>&1 & echo $! > /run/bt-counter; sleep 1`);
    const boot = 'cat /proc/sys/kernel/random/boot_id';
    const begun = await host.guest('web', boot);
    const numbers = async (name: string) =>
      (await host.guest(name, 'cat /root/bt-n > /run/c; cat /run/bt-n /run/c')).split('\n').map(Number) as [
        number,
        number,
      ];
    const [before] = await numbers('web');
    const taken = JSON.parse(await host.ok('snapshot', 'create', 'web', 'whole', '--pause-ok', '--json'));
    assert.deepEqual([taken.taken, taken.memory], ['held', true]);
    await host.guest('web', `kill $(cat /run/bt-counter); echo 0 > /run/bt-n; echo 999999 > /root/bt-n; sync`);
    for (let again = 0; again < 2; again++) {
      assert.match(
        await host.ok('snapshot', 'restore', 'web', 'whole', '--force'),
        /has the disks of whole again, and runs/,
      );
      // memory is never behind its disk, and its programs go on
      const [now, written] = await numbers('web');
      assert.ok(
        now >= before && now < 999_999 && now >= written - 1 && written < 999_999,
        `${before} ${now} ${written}`,
      );
      assert.equal(await host.guest('web', `${boot}; kill -0 $(cat /run/bt-counter) && echo alive`), `${begun}\nalive`);
    }
    await host.ok('snapshot', 'restore', 'web', 'whole', '--as', 'twin');
    const [now] = await numbers('twin');
    assert.ok(now >= before && now < 999_999, `${before} ${now}`);
    const who = `hostname; ${boot}; cat /etc/ssh/ssh_host_ed25519_key.pub; ip -o -4 addr show eth0`;
    const [one, other] = await Promise.all(
      ['web', 'twin'].map(async (name) => (await host.guest(name, who)).split('\n')),
    );
    for (const [index, line] of (one ?? []).entries()) assert.notEqual(line, other?.[index]);
    await host.fails(5, ['snapshot', 'export', 'web', 'whole', join(work, 'whole.tar.zst')], [/memory of its guest/]);
    await host.ok('rm', '--force', '--now', 'twin');
    await host.ok('snapshot', 'delete', 'web', 'whole');
  });

  it('go into the trash with their VM and come back with it', LIMIT, async () => {
    const deleted = await host.run(['rm', '--force', 'web']);
    assert.match(deleted.stderr, /Its \d snapshots go with it/);
    await host.ok('undelete', 'web', '--as', 'back');
    await host.ok('snapshot', 'delete', 'back', 'first');
    assert.match(await host.ok('snapshot', 'list', 'back', '--names'), /^(before-\d{8}-\d{6}(-\d)?\n?)+$/);
    await host.assertQuiet('of snapshots');
  });
});
