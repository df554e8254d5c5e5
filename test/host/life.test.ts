/** What happens to VMs that others do things to: settings, names, the trash, and a host that is pulled about. */
import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { haltedBy } from '../../src/system/processes.ts';
import { createRunner } from '../../src/system/runner.ts';
import { crash, hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(120_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('the life of a VM', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({ lean: true, warm: true });
    await host.daemon();
    await host.ok('create', 'web', '--memory', '256M', '--work-disk', '64M', '--autostart', '--restart', 'on-failure');
    await host.ok('start', 'web');
  });
  after(() => host?.[Symbol.asyncDispose]());

  const natSet = async () => (await runner.run(['nft', 'list', 'set', 'inet', host.table, 'nat'])).stdout;
  const rules = async () =>
    (await runner.run(['nft', 'list', 'table', 'inet', host.table], { okExits: [0, 1] })).stdout;

  it('is set, at once or for the next start, and shows which', LIMIT, async () => {
    const { address } = await host.vm('web');
    assert.match(await natSet(), new RegExp(address));
    const said = await host.ok('vm', 'set', 'web', '--memory', '300M', '--no-nat');
    assert.match(said, /memory +256 MiB +300 MiB +at the next start\nreaches the outside +yes +no +now/);
    assert.doesNotMatch(await natSet(), new RegExp(address));
    assert.match(await host.ok('show', 'web'), /^memory +256 MiB, 300 MiB from the next start on$/m);
    await host.ok('set', 'web', '--nat=true');
    assert.match(await natSet(), new RegExp(address));
    await host.fails(2, ['vm', 'set', 'web'], [/nothing to set/]);
    await host.fails(2, ['vm', 'set', 'web', '--disk', '9G'], [/banger disk resize web/]);
    await host.fails(2, ['vm', 'set', 'web', '--memory', '9999G'], [/this host has/]);
  });

  /** Until the daemon has looked at the host once from beginning to end: what the second look puts back says so. */
  async function looked(): Promise<void> {
    for (const which of ['first', 'second']) {
      await runner.run(['nft', 'flush', 'table', 'inet', host.table]);
      await until(`the rules are back by a ${which} look`, async () => /masquerade/.test(await rules()), 8000);
    }
  }

  it('has its rules, routes and device state back within 5 s', LIMIT, async () => {
    const { address, tap } = await host.vm('web');
    const route = async () => (await runner.run(['ip', 'route', 'show', `${address}/32`])).stdout.includes(tap);
    await runner.run(['nft', 'flush', 'table', 'inet', host.table]);
    assert.doesNotMatch(await rules(), /masquerade/);
    await until('the rules are back', async () => /masquerade/.test(await rules()), 8000);
    await runner.run(['nft', 'delete', 'table', 'inet', host.table]);
    await until('the table is back', async () => /masquerade/.test(await rules()), 8000);
    for (let times = 0; times < 100; times++) await runner.run(['nft', 'flush', 'table', 'inet', host.table]);
    await until('the rules are back after all of it', async () => /masquerade/.test(await rules()), 8000);
    await runner.run(['ip', 'route', 'delete', `${address}/32`]);
    await until('the route is back', route, 8000);
    await runner.run(['ip', 'link', 'set', tap, 'down']);
    await until('the device is up', route, 8000);
    assert.equal(await host.guest('web', 'hostname'), 'web');
  });

  it('gets another name while it runs', LIMIT, async () => {
    assert.match(await host.ok('rename', 'web', 'www'), /web is now www/);
    assert.equal(await host.guest('www', 'hostname; cat /etc/hostname'), 'www\nwww');
    assert.equal((await host.run(['ssh', 'www', 'hostname'])).stdout, 'www\n');
    await host.fails(4, ['show', 'web'], [/There is no VM named "web"/]);
    await host.ok('create', 'web', '--memory', '256M', '--work-disk', 'none');
    await host.fails(5, ['rename', 'www', 'web'], [/A VM named "web" exists already/]);
    assert.equal((await host.vm('www')).pending?.hostname, undefined);
  });

  it('is waited for', LIMIT, async () => {
    assert.equal(await host.ok('wait', 'www'), 'www: ssh');
    await host.ok('wait', 'www', '--for', 'port=22');
    await host.ok('wait', 'web', '--for', 'stopped');
    await host.fails(7, ['wait', 'www', '--for', 'port=81', '--timeout', '1s'], [/port 81 within 1 s; it is running/]);
    await host.fails(7, ['wait', 'web', '--for', 'running', '-t', '500ms'], [/did not run within 500 ms/]);
    await host.fails(2, ['wait', 'www', '--for', 'godot'], [/"godot" is nothing that can be waited for/]);
  });

  it('is shown as halted when its VMM is, survives a daemon meanwhile, and gets its clock set', LIMIT, async () => {
    await host.guest('www', 'date -s @1000000000 > /dev/null');
    const { pid } = await host.vm('www');
    assert.ok(pid);
    const qemu = (await host.processes()).find(({ command }) => /^\S*qemu-system/.test(command))?.pid ?? pid;
    for (const each of [pid, qemu]) process.kill(each, 'SIGSTOP');
    try {
      assert.match(await host.ok('ls'), /^www +running \(!\)/m);
      assert.match((await host.vm('www')).problem ?? '', /^Its VMM is halted .* kill -CONT \d+/);
      await host.killDaemon();
      await host.daemon();
      const { state, problem } = await host.vm('www');
      assert.deepEqual([state, problem !== null], ['running', true]);
      await looked();
    } finally {
      for (const each of [qemu, pid]) process.kill(each, 'SIGCONT');
    }
    assert.equal((await host.vm('www')).problem, null);
    await until('the clock is right', async () => {
      const seconds = Number(await host.guest('www', 'date +%s'));
      return Math.abs(seconds - Date.now() / 1000) < 4;
    });
  });

  it('is told apart from what others made, and from what is left over', LIMIT, async () => {
    const foreign = 'bgr-00000bad';
    await runner.run(['ip', 'tuntap', 'add', 'dev', foreign, 'mode', 'tap']);
    try {
      const found = JSON.parse(await host.ok('gc', '--json'));
      const mine = found.filter(({ kind }: { kind: string }) => kind !== 'tap');
      assert.deepEqual(mine, []);
      const tap = found.find(({ name }: { name: string }) => name === foreign);
      assert.deepEqual([tap.verdict, tap.freed], ['leave', false]);
      await stat(`/sys/class/net/${foreign}`);
    } finally {
      await runner.run(['ip', 'link', 'delete', 'dev', foreign]);
    }
  });

  it(
    'says that its network device was deleted, and gets a new one with a new run if its policy allows',
    LIMIT,
    async () => {
      await host.ok('vm', 'set', 'www', '--restart', 'never');
      const { tap, pid } = await host.vm('www');
      await runner.run(['ip', 'link', 'delete', 'dev', tap]);
      assert.match((await host.vm('www')).problem ?? '', /network device bgr-\w+ was deleted.* banger restart www/);
      await looked();
      assert.equal((await host.vm('www')).pid, pid, 'a person decides');
      await host.ok('vm', 'set', 'www', '--restart', 'on-failure');
      await until('it runs anew', async () => {
        const vm = await host.vm('www');
        return vm.state === 'running' && vm.pid !== pid;
      });
      assert.equal(await host.guest('www', 'hostname'), 'www');
      assert.equal((await host.vm('www')).problem, null);
    },
  );

  it('comes back by its policy after its VMM died, and not when a person stopped it', LIMIT, async () => {
    crash((await host.vm('www')).pid);
    await until('it is planned', async () => (await host.vm('www')).restarts?.attempts === 1, 10_000);
    await until('it runs again', async () => (await host.vm('www')).state === 'running');
    const vm = await host.vm('www');
    assert.deepEqual([vm.memoryMib, vm.pending], [300, null]);
    assert.match(await host.ok('show', 'www'), /^restarts +attempt 1$/m);
    crash(vm.pid);
    await until('it has failed', async () => (await host.vm('www')).state === 'failed', 10_000);
    await host.ok('stop', 'www');
    const stopped = await host.vm('www');
    assert.deepEqual([stopped.state, stopped.restarts], ['stopped', null]);
    await host.assertQuiet('of a VM that was stopped while it waited for its restart');
  });

  it('goes to the trash and comes back, and goes for good', LIMIT, async () => {
    const before = await host.vm('www');
    assert.match((await host.run(['rm', 'www'])).stderr, /had back with: banger vm undelete www/);
    await host.fails(4, ['show', 'www'], [/There is no VM named "www"/]);
    assert.match(await host.ok('trash', 'list'), /^www +[0-9a-f]{8} /m);
    await host.ok('create', 'www', '--memory', '256M', '--work-disk', 'none');
    assert.notEqual((await host.vm('www')).address, before.address, 'it is kept for the deleted one');
    await host.fails(5, ['vm', 'undelete', 'www'], [/banger vm undelete www --as OTHER/]);
    await host.killDaemon();
    await host.ok('vm', 'undelete', 'www', '--as', 'again');
    const after = await host.vm('again');
    assert.deepEqual([after.id, after.address, after.state], [before.id, before.address, 'stopped']);
    await host.ok('rm', '--now', 'again');
    await assert.rejects(stat(after.directory), /ENOENT/);
    await host.ok('rm', 'web', 'www');
    await host.fails(4, ['trash', 'empty', 'nosuch'], [/no deleted VM named "nosuch"/]);
    assert.match(await host.ok('trash', 'empty'), /Gone for good: /);
    assert.deepEqual(await runner.run(['ls', join(host.home, 'state/store/vms')]).then(({ stdout }) => stdout), '');
  });
});

describe('a halted process', () => {
  it('is found, also below another one', async () => {
    assert.equal(haltedBy(process.pid), undefined);
    const { spawn } = await import('node:child_process');
    const child = spawn('sleep', ['100']);
    try {
      child.kill('SIGSTOP');
      await until('it is halted', () => haltedBy(child.pid ?? 0) === child.pid, 5000);
      assert.equal(haltedBy(process.pid), child.pid);
    } finally {
      child.kill('SIGKILL');
    }
  });
});
