import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { confinedArgv } from '../../src/system/confinement.ts';
import { childrenOf, hasProcesses } from '../../src/system/processes.ts';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, TestHost } from '../support/host.ts';

const runner = createRunner();

/** The value of a line of /proc/PID/status or limits. */
async function field(pid: number, file: 'status' | 'limits', name: string): Promise<string> {
  const text = await readFile(`/proc/${pid}/${file}`, 'utf8');
  return new RegExp(`^${name}:?\\s+(.*?)\\s*$`, 'm').exec(text)?.[1] ?? 'none';
}

/** Files that a process could write to, by device and inode: those it has open, and those it has mapped to be written. */
function writableFiles(pid: number): string[] {
  const open = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      const found = statSync(`/proc/${pid}/fd/${fd}`);
      const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
      return found.isFile() && (Number.parseInt(flags, 8) & 0b11) !== 0 ? [`${found.dev}:${found.ino}`] : [];
    } catch {
      return []; // closed meanwhile
    }
  });
  // a processor of KVM's is mapped to be written, too; what is no file has one inode for all
  const maps = readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .filter((line) => !line.includes(' anon_inode:'));
  const mapped = maps.flatMap((line) => (/^\S+ .w.s /.test(line) ? [line.split(/\s+/).slice(3, 5).join(':')] : []));
  return [...open, ...mapped.filter((file) => !file.endsWith(':0'))];
}

describe('what root starts for a VM', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;
  let directory = '';
  let user = 0;

  before(async () => {
    host = await TestHost.create({ lean: true, warm: true, env: { SECRET_OF_THE_DAEMON: 'x' } });
    await host.ok('run', 'one', '--disk', '4G', '--work-disk', '64M', '--memory', '256M', '--until', 'reachable');
    directory = (await host.vm('one')).directory;
    user = (await stat(join(directory, 'root.ext4'))).uid;
  });

  after(async () => {
    await host[Symbol.asyncDispose]();
    assert.equal(await hasProcesses(user), false, 'nothing of its user is left');
  });

  it('runs as a user of its own, without any right, and QEMU behind a filter', async () => {
    const { pid } = await host.vm('one');
    assert.ok(pid);
    assert.notEqual(user, 0);
    const children = childrenOf(pid);
    assert.equal(children.length, 1, 'QEMU');
    for (const each of [pid, ...children]) {
      assert.equal(await field(each, 'status', 'Uid'), Array(4).fill(user).join('\t'));
      assert.equal(await field(each, 'status', 'Gid'), Array(4).fill(user).join('\t'));
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
        assert.equal(await field(each, 'status', set), '0000000000000000', set);
      }
      assert.equal(await field(each, 'status', 'NoNewPrivs'), '1');
      assert.match(await field(each, 'limits', 'Max file size'), /^4294967296 /);
      assert.match(await field(each, 'limits', 'Max open files'), /^2048 +2048/);
      assert.match(await field(each, 'limits', 'Max processes'), /^\d+ +\d+/);
      assert.match(await field(each, 'limits', 'Max core file size'), /^0 +0/);
      assert.doesNotMatch(await readFile(`/proc/${each}/environ`, 'utf8'), /SECRET_OF_THE_DAEMON|BANGER_|HOME=/);
      assert.equal(await readlink(`/proc/${each}/cwd`), directory);
    }
    assert.equal(await field(children[0] ?? 0, 'status', 'Seccomp'), '2');
  });

  it("has its files, its device, and nothing of another VM's", async () => {
    await host.ok('create', 'two', '--disk', '2G', '--work-disk', '0');
    const other = await host.vm('two');
    const as = async (cwd: string, script: string) => {
      const argv = confinedArgv(['sh', '-c', script], { user, limits: {} });
      return (await runner.run(argv, { cwd, okExits: [0, 1, 2] })).exitCode;
    };
    for (const name of ['root.ext4', 'work.ext4', 'seed.img', 'console.log', 'vmm.log', 'api.sock']) {
      const { uid, mode } = await stat(join(directory, name));
      assert.deepEqual([uid, mode & 0o077], [user, 0], name);
    }
    const { pid, tap } = await host.vm('one');
    assert.equal((await readFile(`/sys/class/net/${tap}/owner`, 'utf8')).trim(), String(user));
    assert.equal(await as(directory, 'head -c 1 root.ext4'), 0);
    assert.notEqual(await as('/', `head -c 1 ${other.directory}/root.ext4`), 0);
    assert.notEqual(await as(other.directory, 'head -c 1 root.ext4'), 0);
    assert.notEqual(await as('/', `cat ${host.home}/state/ssh/id_ed25519`), 0);
    assert.notEqual(await as(directory, 'ln -s /etc/passwd new'), 0, 'its guest runs');
    assert.notEqual(await as(directory, 'rm -f console.log'), 0);
    assert.ok(pid);
  });

  it('is adopted by the next daemon, and writes to a disk that has grown meanwhile', async () => {
    const before = (await host.vm('one')).pid;
    await host.killDaemon();
    await host.daemon();
    assert.equal((await host.vm('one')).pid, before);
    await host.ok('disk', 'resize', 'one', '--work', '3G', '--online');
    assert.match(await field(before ?? 0, 'limits', 'Max file size'), /^4294967296 /);
    await host.guest('one', 'dd if=/dev/zero of=/root/far bs=1M seek=2500 count=1 conv=fsync 2> /dev/null');
    // a smaller disk that grew is no limit for a larger one
    await host.guest(
      'one',
      'dd if=/dev/zero of=/var/far bs=1M seek=3500 count=1 conv=fsync 2> /dev/null && touch /var/x && sync',
    );
    assert.equal((await host.vm('one')).state, 'running');
  });
});

describe('what root starts for forks', { skip: hostSkip('debugfs') }, () => {
  it("writes nothing that another fork's guest runs on", async () => {
    await using host = await TestHost.create({ lean: true, warm: true });
    await host.ok('run', 'one', '--work-disk', '32M');
    await host.ok('fork', 'one', 'twin-a', 'twin-b');
    const names = ['one', 'twin-a', 'twin-b'];
    const owners = new Map<string, string>();
    for (const name of names) {
      const { pid } = await host.vm(name);
      const files = new Set([pid ?? 0, ...childrenOf(pid ?? 0)].flatMap(writableFiles));
      assert.ok(files.size >= 3, `${name} has its disks and its log`);
      for (const file of files) {
        assert.equal(owners.get(file), undefined, `${file} is open for writing for ${name}, too`);
        owners.set(file, name);
      }
    }
    // each keeps what it has in memory, when all have written
    for (const name of names)
      await host.guest(name, `echo ${name} > /run/own; head -c 20000000 /dev/zero > /run/large`);
    for (const name of names) assert.equal(await host.guest(name, 'cat /run/own'), name);
  });
});
