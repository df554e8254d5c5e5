/** A disk without any room for the daemon's state: what makes room works, what does not says why, nothing ends. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { hostSkip, TestHost, until } from '../support/host.ts';

const LIMIT = { timeout: 240_000 };

describe('a host whose disk is full', { skip: hostSkip('debugfs', 'mount') }, () => {
  let host: TestHost;
  let disk: string;

  before(async () => {
    // state and logs lie on it, disks of VMs do not: it is small, and VMs are to run
    disk = await mkdtemp('/tmp/bd-');
    const [image, store] = [join(disk, 'image'), join(disk, 'store')];
    execFileSync('sh', [
      '-ec',
      'truncate -s 64M "$1"; mke2fs -q -F -t ext4 -m 0 "$1"; mkdir "$2"',
      'sh',
      image,
      state(),
    ]);
    execFileSync('mount', ['-o', 'loop', image, state()]);
    await mkdir(store);
    host = await TestHost.create({
      lean: true,
      env: { BANGER_PATHS_STATE: state(), BANGER_PATHS_STORE: store, BANGER_LIMITS_TRASH_FOR: '0s' },
    });
    for (const name of ['one', 'two', 'three']) {
      await host.ok('create', name, '--memory', '256M', '--work-disk', 'none');
    }
    for (const name of ['one', 'two']) await host.ok('start', name);
    await until('room is set aside', () => fileSize(join(state(), 'banger.db.ballast')) > 0);
    fill();
  });
  after(async () => {
    rmSync(join(state(), 'fill'), { force: true });
    await host[Symbol.asyncDispose]();
    execFileSync('umount', [state()]);
    await rm(disk, { recursive: true });
  });

  function state(): string {
    return join(disk, 'state');
  }

  /** Takes all that is left, also what was given up meanwhile. */
  function fill(): void {
    const fd = openSync(join(state(), 'fill'), 'a');
    try {
      for (const bytes of [65_536, 4096, 512]) {
        try {
          for (;;) writeSync(fd, Buffer.alloc(bytes, 1));
        } catch {}
      }
    } finally {
      closeSync(fd);
    }
  }

  function fileSize(path: string): number {
    try {
      return Number(
        execFileSync('stat', ['-c', '%s', path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
      );
    } catch {
      return 0;
    }
  }

  it('stops, kills and deletes VMs', LIMIT, async () => {
    const { pid } = await host.client.call('status', {});
    await host.ok('stop', 'one');
    fill();
    await host.ok('kill', 'two');
    fill();
    await host.ok('rm', 'one');
    assert.deepEqual((await host.vms()).map(({ name, state: phase }) => `${name} ${phase}`).sort(), [
      'three stopped',
      'two stopped',
    ]);
    assert.equal((await host.client.call('status', {})).pid, pid, 'it is the same daemon');
  });

  it('has a daemon that starts', LIMIT, async () => {
    fill();
    await host.ok('daemon', 'stop');
    fill();
    await host.daemon();
    assert.equal((await host.vms()).length, 2);
  });

  it('says where there is no room, and how to make some, when nothing is left', LIMIT, async () => {
    rmSync(join(state(), 'banger.db.ballast'), { force: true });
    fill();
    // what the database has set aside for itself is used up too
    const said = [/There is no room on the disk to write to .*banger\.db/, /df -h .* banger gc/];
    await until('no write works', async () => {
      fill();
      return (await host.run(['set', 'three', '--memory', `${256 + Math.floor(Math.random() * 256)}M`])).status !== 0;
    });
    await host.fails(6, ['set', 'three', '--memory', '1G'], said);
    await host.fails(6, ['rename', 'three', 'four'], said);
    await host.fails(6, ['create', 'five', '--memory', '256M'], [/no room on the disk/i]);
  });

  it('goes on as before when there is room again', LIMIT, async () => {
    rmSync(join(state(), 'fill'), { force: true });
    await host.ok('set', 'three', '--memory', '300M');
    await host.ok('rm', 'two', 'three');
    await until('room is set aside again', () => fileSize(join(state(), 'banger.db.ballast')) > 4_000_000, 60_000);
  });
});
