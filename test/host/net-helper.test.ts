/**
 * banger for a user who is not root and may not use sudo: the network helper is there as systemd would start it, and a VM goes
 * from create to delete by it, while it is killed in between. Who is not in its group, and who is and means harm, gets nothing.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chmod, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { DoctorReport } from '../../src/api/system.ts';
import type { VmDetail } from '../../src/api/vm.ts';
import { hostMacFor, macFor } from '../../src/core/vm.ts';
import { createRunner } from '../../src/system/runner.ts';
import { RealHelper } from '../nethelper/support/real-helper.ts';
import { hostSkip } from '../support/host.ts';
import { OrdinaryUser } from '../support/ordinary-user.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const TUN = '/dev/net/tun';
const root = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

const skip = hostSkip('debugfs', 'useradd', 'userdel', 'groupadd', 'groupdel', 'setpriv');

describe('a user in the group of the network helper', { skip }, () => {
  const group = `bn-${randomBytes(3).toString('hex')}`;
  let helper: RealHelper;
  let user: OrdinaryUser;
  let tunMode = 0o666;

  before(async () => {
    await root.run(['groupadd', group]);
    const gid = Number((await root.run(['getent', 'group', group])).stdout.split(':')[2]);
    helper = await RealHelper.start([join(import.meta.dirname, '../../dist/bangernet')], gid);
    const env = { BANGER_PRIVILEGE_HELPER: helper.socket, BANGER_PRIVILEGE_SUDO: 'never' };
    user = await OrdinaryUser.create([group], env);
    // udev opens it to all
    tunMode = (await stat(TUN)).mode & 0o7777;
    await chmod(TUN, 0o666);
  });

  after(async () => {
    await user?.[Symbol.asyncDispose]();
    await helper?.[Symbol.asyncDispose]();
    await chmod(TUN, tunMode);
    await root.run(['groupdel', group]);
  });

  /** What the host has of the user's VM, seen from outside. */
  async function traces(id: string): Promise<string[]> {
    const links = (await root.run(['ip', '-br', 'link'])).stdout;
    const tables = (await root.run(['nft', 'list', 'tables'])).stdout;
    const routes = (await root.run(['ip', '-4', 'route', 'show', 'proto', '119'])).stdout;
    const { pool } = JSON.parse(await user.ok('daemon', 'status', '--json')) as { pool: string };
    return [
      ...(links.includes(`bgr-${id}`) ? ['tap'] : []),
      ...(new RegExp(` banger_u${user.uid}$`, 'm').test(tables) ? ['table'] : []),
      ...(routes.includes(pool) ? ['route'] : []),
    ];
  }

  it('runs a VM without sudo, and stops it though the helper was killed meanwhile', LIMIT, async () => {
    await user.ok('create', 'web', '--memory', '256M', '--work-disk', 'none');
    const report = JSON.parse((await user.run('doctor', '--json', 'start')).stdout) as DoctorReport;
    assert.deepEqual(
      report.checks.filter(({ status }) => status === 'failed'),
      [],
    );
    assert.match(report.checks.find(({ id }) => id === 'privilege')?.detail ?? '', /the network helper .* 256 VMs/);
    assert.equal(report.summary.rights, `the network helper (${helper.socket})`);

    await user.ok('start', 'web');
    const { id, pid, address } = JSON.parse(await user.ok('show', 'web', '--json')) as VmDetail;
    assert.deepEqual(await traces(id), ['tap', 'table', 'route']);
    assert.equal(/^Uid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1], user.uid);
    assert.equal(await user.ok('exec', '-n', 'web', '--', 'hostname'), 'web');
    const found = await user.ok('exec', '-n', 'web', '--', 'getent', 'hosts', 'web.vm');
    assert.deepEqual(found.split(/\s+/), [address, 'web.vm'], 'the guest finds names');

    await helper.kill();
    await helper.run();
    await user.ok('set', 'web', '--no-nat');
    const nat = (await root.run(['nft', 'list', 'set', 'inet', `banger_u${user.uid}`, 'nat'])).stdout;
    assert.doesNotMatch(nat, /elements/);
    await user.ok('stop', 'web');
    assert.deepEqual(await traces(id), [], 'a stop left something');
  });

  it('keeps its VM from another member, and the helper from who is none', LIMIT, async () => {
    await user.ok('start', 'web');
    const { id, address } = JSON.parse(await user.ok('show', 'web', '--json')) as VmDetail;
    const { pool } = JSON.parse(await user.ok('daemon', 'status', '--json')) as { pool: string };
    // other bangers have tables of their own, which change meanwhile
    const ownTable = async () => (await root.run(['nft', 'list', 'table', 'inet', `banger_u${user.uid}`])).stdout;
    const before = await ownTable();
    const thief = helper.portOf(28_003, { pool, instance: '' });
    const rules = { table: '', members: [{ tap: `bgr-${id}`, address, nat: true }], vmToVm: true };
    const tap = { name: `bgr-${id}`, address, mac: macFor(address), hostMac: hostMacFor(address) };
    await assert.rejects(thief.detach(tap.name, rules), /not this user's/);
    await assert.rejects(thief.writeRules(rules), new RegExp(`VMs of user ${user.uid}`));
    await assert.rejects(thief.attach({ ...tap, gateway: '', mtu: 1500, ownerUid: 0 }, rules), /VMs of user/);
    await assert.rejects(thief.deletePoolRoute(pool), /VMs of user/);
    assert.equal(await thief.readRules(rules), undefined);
    assert.equal(await ownTable(), before);
    assert.equal(await user.ok('exec', '-n', 'web', '--', 'hostname'), 'web');
    await user.ok('rm', '--now', '--force', 'web');

    const env = { BANGER_PRIVILEGE_HELPER: helper.socket, BANGER_PRIVILEGE_SUDO: 'never' };
    await using outsider = await OrdinaryUser.create([], env);
    await outsider.ok('create', 'web', '--memory', '256M', '--work-disk', 'none');
    const { exitCode, stdout, stderr } = await outsider.run('start', 'web');
    assert.equal(exitCode, 6, stderr);
    assert.match(stderr + stdout, /not in its group, banger/);
    assert.ok((stderr + stdout).includes('fix: sudo usermod -aG banger "$USER", then log in again'), stderr + stdout);
  });
});
