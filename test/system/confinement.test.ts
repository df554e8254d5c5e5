import assert from 'node:assert/strict';
import { chmod, chown, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import {
  cleanEnvironment,
  confinedArgv,
  fileLimitArgv,
  groupOfDevice,
  letUsersOpenTun,
  userOfDirectory,
} from '../../src/system/confinement.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();
const USER = 1_879_048_200;
const notRoot = process.getuid?.() !== 0 && 'other users need root';
const everything = 'cat /proc/self/status /proc/self/limits; id -G';

/** The value of a line of /proc/PID/status or limits. */
function field(text: string, name: string): string {
  return new RegExp(`^${name}:?\\s+(.*?)\\s*$`, 'm').exec(text)?.[1]?.replaceAll(/\s+/g, ' ') ?? 'none';
}

describe('the device that makes taps', () => {
  it("is opened to users of VMs where it is root's alone, and left as it is where they may open it", async (t) => {
    const device = join(await tempDir(t), 'tun');
    await writeFile(device, '');
    const modeAfter = async (mode: number) => {
      await chmod(device, mode);
      await letUsersOpenTun(device);
      return ((await stat(device)).mode & 0o777).toString(8);
    };
    assert.equal(await modeAfter(0o600), '666');
    assert.equal(await modeAfter(0o606), '606');
  });

  it('that cannot be opened to them is an error that names the ways out', async (t) => {
    const error = await letUsersOpenTun(join(await tempDir(t), 'tun')).catch((thrown) => thrown);
    assert.match(error.message, /tun may be opened by root alone.*cannot be changed: ENOENT/);
    assert.match(error.hint, /chmod 666 .*tun {3}or .*privilege\.vm_users = "none"/);
  });
});

describe('a confined program', () => {
  it('has one user, no capability and no way to get one', { skip: notRoot }, async () => {
    const limits = { fileBytes: 4096, openFiles: 40, tasks: 20, memoryBytes: 2 ** 30, cpuSeconds: 5 };
    const argv = confinedArgv(['sh', '-c', everything], { user: USER, limits });
    const { stdout } = await runner.run(argv);
    assert.equal(field(stdout, 'Uid'), Array(4).fill(USER).join(' '));
    assert.equal(field(stdout, 'Gid'), Array(4).fill(USER).join(' '));
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
      assert.equal(field(stdout, set), '0000000000000000', set);
    }
    assert.equal(field(stdout, 'NoNewPrivs'), '1');
    assert.equal(stdout.trimEnd().split('\n').at(-1), String(USER), 'no other group');
    assert.match(field(stdout, 'Max file size'), /^4096 /);
    assert.match(field(stdout, 'Max open files'), /^40 40/);
    assert.match(field(stdout, 'Max processes'), /^20 20/);
    assert.match(field(stdout, 'Max address space'), /^1073741824 1073741824/);
    assert.match(field(stdout, 'Max cpu time'), /^5 5/);
    assert.match(field(stdout, 'Max core file size'), /^0 0/);
  });

  it('is in the groups it needs, and in no others', { skip: notRoot }, async () => {
    const { stdout } = await runner.run(confinedArgv(['id', '-G'], { user: USER, groups: [1234], limits: {} }));
    assert.equal(stdout.trim(), `${USER} 1234`);
  });

  it('of the same user keeps what it is, but gains nothing', async () => {
    const { stdout } = await runner.run(confinedArgv(['sh', '-c', everything], { limits: { tasks: 3 } }));
    assert.equal(field(stdout, 'Uid').split(' ')[0], String(process.getuid?.()));
    assert.equal(field(stdout, 'NoNewPrivs'), '1');
    // those are all processes of the user
    assert.doesNotMatch(field(stdout, 'Max processes'), /^3 /);
  });

  it('ends when it writes more to a file than it may', async (t) => {
    const file = join(await tempDir(t), 'large');
    const argv = confinedArgv(['dd', 'if=/dev/zero', `of=${file}`, 'bs=1k', 'count=8'], {
      limits: { fileBytes: 4096 },
    });
    await assert.rejects(runner.run(argv), /SIGXFSZ|File too large|ended with/);
  });

  it('of another user may be let write more, also where root may not raise limits', { skip: notRoot }, async () => {
    const argv = confinedArgv(['sleep', '20'], { user: USER, limits: { fileBytes: 4096 } });
    const sleeper = await runner.startDetached(argv, { stdout: 'ignore', stderr: 'ignore' });
    try {
      const status = async (file: string) => (await runner.run(['cat', `/proc/${sleeper.pid}/${file}`])).stdout;
      while (!(await status('cmdline')).startsWith('sleep'));
      await runner.run(fileLimitArgv(sleeper.pid, 2 ** 40, USER));
      assert.match(field(await status('limits'), 'Max file size'), /^1099511627776 /);
    } finally {
      process.kill(sleeper.pid, 'SIGKILL');
    }
  });

  it('may be let write more', async () => {
    const sleeper = await runner.startDetached(confinedArgv(['sleep', '20'], { limits: { fileBytes: 4096 } }), {
      stdout: 'ignore',
      stderr: 'ignore',
    });
    try {
      await runner.run(fileLimitArgv(sleeper.pid, 2 ** 40, undefined));
      const { stdout } = await runner.run(['cat', `/proc/${sleeper.pid}/limits`]);
      assert.match(field(stdout, 'Max file size'), /^1099511627776 /);
    } finally {
      process.kill(sleeper.pid, 'SIGKILL');
    }
  });
});

describe('the environment of programs that work for VMs', () => {
  it('has no secret of the daemon', () => {
    const env = { PATH: '/bin', HOME: '/root', SSH_AUTH_SOCK: '/x', NODE_OPTIONS: '--inspect', FCQEMU_ACCEL: 'tcg' };
    assert.deepEqual(cleanEnvironment(env), { PATH: '/bin', FCQEMU_ACCEL: 'tcg', LC_ALL: 'C.UTF-8' });
  });
});

describe('the group of a device', () => {
  it('is the one that may read and write it, unless that is root or everybody may', { skip: notRoot }, async (t) => {
    const device = join(await tempDir(t), 'kvm');
    await writeFile(device, '');
    const seen = async (mode: number, group: number) => {
      await chown(device, 0, group);
      await chmod(device, mode);
      return await groupOfDevice(device);
    };
    assert.equal(await seen(0o660, 1234), 1234);
    assert.equal(await seen(0o640, 1234), undefined);
    assert.equal(await seen(0o666, 1234), undefined);
    assert.equal(await seen(0o660, 0), undefined);
    assert.equal(await groupOfDevice(`${device}-none`), undefined);
  });
});

describe('the user of a directory', () => {
  it("is told by the group of one that is root's", { skip: notRoot }, async (t) => {
    const directory = join(await tempDir(t), 'vm');
    await mkdir(directory);
    assert.equal(await userOfDirectory(directory), undefined);
    await chown(directory, 0, USER);
    assert.equal(await userOfDirectory(directory), USER);
    await chown(directory, USER, USER);
    assert.equal(await userOfDirectory(directory), undefined, 'anybody could say so');
    assert.equal(await userOfDirectory(`${directory}-none`), undefined);
  });
});
