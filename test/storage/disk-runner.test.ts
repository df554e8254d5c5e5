import assert from 'node:assert/strict';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { DEFAULT_USERS, NO_VM_USERS } from '../../src/core/vm-users.ts';
import { createDiskReader, createDiskRunner } from '../../src/storage/disk-runner.ts';
import { checkExt4, discardFree, growExt4, makeExt4, readSuperblock } from '../../src/storage/ext4.ts';
import { handOverDirectory, openDirectory } from '../../src/storage/ownership.ts';
import type { Argv } from '../../src/system/runner.ts';
import { createRunner } from '../../src/system/runner.ts';
import { MIB } from '../../src/units.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, SECRET: 'of the daemon' };
const users = { range: DEFAULT_USERS, kvmGroup: undefined };
const USER = DEFAULT_USERS.first + 7;
const skip = process.getuid?.() !== 0 && 'other users need root';
const programs = { mke2fs: 'mke2fs', e2fsck: 'e2fsck', resize2fs: 'resize2fs' };

/** Stands in for e2fsck: says who it is and what it sees. */
const REPORT: Argv = [
  'sh',
  '-c',
  'cat /proc/self/status /proc/self/limits; env; pwd; ls -l "$1"; touch /tmp 2>&1',
  'sh',
];

async function disk(t: TestContext): Promise<string> {
  const directory = join(await tempDir(t), 'vm');
  await mkdir(directory);
  const path = join(directory, 'root.ext4');
  await writeFile(path, Buffer.alloc(8192));
  return path;
}

describe('a program that works on a disk', { skip }, () => {
  it("runs as the disk's VM, with nothing of the daemon's and within limits", async (t) => {
    const path = await disk(t);
    const { stdout } = await createDiskRunner({ runner, env, users, user: USER }).run([...REPORT, path], {
      okExits: [0, 1],
    });
    assert.match(stdout, new RegExp(`^Uid:\\t${USER}\\t${USER}\\t${USER}\\t${USER}$`, 'm'));
    assert.match(stdout, /^CapEff:\t0{16}$/m);
    assert.match(stdout, /^CapBnd:\t0{16}$/m);
    assert.match(stdout, /^NoNewPrivs:\t1$/m);
    assert.match(stdout, new RegExp(`^Max file size +${8192 + MIB} `, 'm'));
    assert.match(stdout, /^Max address space +\d+ /m);
    assert.match(stdout, /^Max cpu time +\d+ /m);
    assert.match(stdout, /^Max open files +64 /m);
    assert.doesNotMatch(stdout, /SECRET|^HOME=/m);
    assert.ok(stdout.includes(dirname(path)), 'it works where the disk is');
    assert.equal((await stat(path)).uid, USER);
  });

  it("runs as nobody in particular on a file that is no VM's, which is root's again afterwards", async (t) => {
    const path = await disk(t);
    const { stdout } = await createDiskRunner({ runner, env, users }).run([...REPORT, path], { okExits: [0, 1] });
    assert.match(stdout, new RegExp(`^Uid:\\t${DEFAULT_USERS.first}\\t`, 'm'));
    assert.equal((await stat(path)).uid, 0);
    await assert.rejects(createDiskRunner({ runner, env, users }).run(['false', path]), { code: 'command_failed' });
    assert.equal((await stat(path)).uid, 0);
  });

  it('makes, checks, grows and empties a file system so', async (t) => {
    const path = await disk(t);
    const work = join(dirname(path), 'work.ext4');
    await handOverDirectory(dirname(path), USER);
    const disks = createDiskRunner({ runner, env, users, user: USER });
    await makeExt4(disks, programs, work, 16 * MIB, 'work');
    await growExt4(disks, programs, work, 64 * MIB);
    await checkExt4(disks, programs, work);
    assert.equal(await discardFree(disks, programs, work, 20_000), true);
    assert.equal((await readSuperblock(work)).bytes, 64 * MIB);
    assert.equal((await stat(work)).uid, USER);
  });

  it('leaves a directory open in which a VMM is just being started', async (t) => {
    const path = await disk(t);
    await openDirectory(dirname(path), USER);
    await createDiskRunner({ runner, env, users, user: USER }).run(['touch', path]);
    assert.equal((await stat(dirname(path))).mode & 0o7777, 0o1730);
  });

  it('reads what others own, through a door that closes behind it', async (t) => {
    const path = await disk(t);
    const disks = createDiskRunner({ runner, env, users });
    await makeExt4(disks, programs, join(dirname(path), 'work.ext4'), 16 * MIB, 'work');
    const image = join(dirname(path), 'work.ext4');
    const reader = createDiskReader({ runner, env, users });
    assert.match((await reader.run(['debugfs', '-R', 'ls -p /', image])).stdout, /lost\+found/);
    const { stdout } = await reader.run(['cat', '/proc/self/status', image]);
    assert.match(stdout, new RegExp(`^Uid:\\t${DEFAULT_USERS.first}\\t`, 'm'));
    await Promise.all([1, 2, 3].map(() => reader.run(['cat', image])));
    const { uid, gid, mode } = await stat(image);
    assert.deepEqual([uid, gid, mode & 0o777], [0, 0, 0o600], 'as it was');
    await assert.rejects(reader.run(['sh', '-c', 'echo x >> "$1"', 'sh', image]), { code: 'command_failed' });
  });
});

describe('a program that works on a disk for a daemon that has no users for VMs', () => {
  it('keeps its user, and has limits all the same', async (t) => {
    const path = await disk(t);
    const options = { runner, env, users: NO_VM_USERS };
    for (const each of [createDiskRunner(options), createDiskReader(options)]) {
      const { stdout } = await each.run([...REPORT, path], { okExits: [0, 1] });
      assert.match(stdout, new RegExp(`^Uid:\\t${process.getuid?.()}\\t`, 'm'));
      assert.match(stdout, /^NoNewPrivs:\t1$/m);
      assert.match(stdout, /^Max open files +64 /m);
      assert.doesNotMatch(stdout, /SECRET/);
    }
  });
});
