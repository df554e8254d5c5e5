import assert from 'node:assert/strict';
import { chmod, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type Checks, createChecks } from '../../src/control/checks.ts';
import { BangerError } from '../../src/errors.ts';
import type { BootFiles } from '../../src/preflight/context.ts';
import { REAL_PROGRAMS, type TestMachine, testMachine } from '../preflight/support.ts';

const TIB = 1024 ** 4;

/** The checks of a daemon on a machine to take things away from. */
async function daemonChecks(t: TestContext): Promise<{ checks: Checks; machine: TestMachine; boot: BootFiles }> {
  const machine = await testMachine(t);
  const { boot, facts: _facts, needs: _needs, fcqemu: _fcqemu, ...base } = machine.context;
  assert.ok(!(boot instanceof BangerError));
  // each taken away by a test that is about it
  for (const name of ['tar', 'debugfs', 'mmdebstrap', 'apt-get', 'dpkg-deb', 'depmod', 'xz', 'lz4', 'setpriv'])
    if (!REAL_PROGRAMS.some((each) => each === name)) await machine.script(name, 'exit 0');
  return { checks: createChecks({ ...base, self: [join(machine.bin, 'banger')] }), machine, boot };
}

const silent = (text: string) => assert.fail(`it warned: ${text}`);

/** Refused before anything is touched, by this check, with this fix. */
async function refuses(attempt: Promise<void>, purpose: string, says: RegExp): Promise<void> {
  await assert.rejects(attempt, (error) => {
    assert.ok(error instanceof BangerError);
    assert.equal(error.code, 'preflight_failed');
    assert.match(error.message, new RegExp(`missing to ${purpose}; nothing was touched`));
    assert.match(error.message, says);
    return true;
  });
}

describe('the checks before', () => {
  it('a creation ask for what clones a disk, and for the room it takes', async (t) => {
    const { checks, machine, boot } = await daemonChecks(t);
    await checks.beforeCreate(boot, 0, silent);
    await refuses(checks.beforeCreate(boot, 900 * TIB, silent), 'create a VM', /disk space: Only .* free/);
    await machine.remove('cp');
    await refuses(
      checks.beforeCreate(boot, 0, silent),
      'create a VM',
      /cp is not installed .*\n {4}fix: apt install coreutils/,
    );
    await rm(boot.rootfs);
    await refuses(checks.beforeCreate(boot, 0, silent), 'create a VM', /root file system/);
  });

  it('larger disks ask for what grows them, whatever is missing for other commands', async (t) => {
    const { checks, machine } = await daemonChecks(t);
    await machine.remove('nft');
    await machine.remove('ssh');
    await checks.beforeResize(0, silent);
    await refuses(checks.beforeResize(900 * TIB, silent), 'resize a disk', /disk space/);
    await machine.remove('resize2fs');
    await refuses(
      checks.beforeResize(0, silent),
      'resize a disk',
      /resize2fs is not installed .*\n {4}fix: apt install e2fsprogs/,
    );
  });

  it('a login ask for ssh and the key, and those of a command for the key alone', async (t) => {
    const { checks, machine } = await daemonChecks(t);
    const key = machine.context.clientKeyFile;
    await mkdir(dirname(key), { recursive: true });
    for (const file of [key, `${key}.pub`]) await writeFile(file, 'key', { mode: 0o600 });
    await checks.beforeLogin('ssh');
    await machine.remove('ssh');
    await checks.beforeLogin('exec');
    await refuses(
      checks.beforeLogin('ssh'),
      'log in to a VM',
      /ssh is not installed .*\n {4}fix: apt install openssh-client/,
    );
    await chmod(key, 0o644);
    await refuses(
      checks.beforeLogin('exec'),
      'run a command in a VM',
      /Others may read the key .*\n {4}fix: chmod 600/,
    );
    assert.equal((await stat(key)).mode & 0o777, 0o644, 'nothing is put right without being asked');
  });

  it('a bundle build ask for the programs that make one', async (t) => {
    const { checks, machine } = await daemonChecks(t);
    await machine.remove('mmdebstrap');
    await refuses(
      checks.beforeBundleBuild(silent),
      'build a bundle',
      /mmdebstrap is not installed .*\n {4}fix: apt install mmdebstrap/,
    );
  });

  it('an image build ask for what a build takes besides a start', async (t) => {
    const { checks, machine, boot } = await daemonChecks(t);
    const vm = { vcpus: 1, memoryMib: 128, nat: false };
    await machine.remove('tar');
    await machine.remove('debugfs');
    await refuses(
      checks.beforeImageBuild(boot, vm, 0, () => {}),
      'build an image',
      /tar is not installed[\s\S]*debugfs is not installed/,
    );
  });

  it('NAT tell of rules that drop packets, and refuse nothing for them', async (t) => {
    const { checks, machine } = await daemonChecks(t);
    const rules = {
      nftables: [
        { table: { family: 'ip', name: 'filter' } },
        {
          chain: {
            family: 'ip',
            table: 'filter',
            name: 'FORWARD',
            type: 'filter',
            hook: 'forward',
            prio: 0,
            policy: 'drop',
          },
        },
      ],
    };
    await machine.remove('nft');
    await machine.script('nft', `echo '${JSON.stringify(rules)}'`);
    await machine.remove('ip');
    await machine.script('ip', `echo '[{"dst":"default","gateway":"192.0.2.1","dev":"lo"}]'`);
    const told: string[] = [];
    await checks.beforeNat((text) => told.push(text));
    assert.equal(told.length, 1);
    assert.match(told[0] ?? '', /^forwarded packets: .* drops packets .*\(chain ip filter FORWARD\)\.\n {4}fix: /);
  });
});
