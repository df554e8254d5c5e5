/** Templates with real guests: a VM from one is what a booted one is, and no two are the same machine. */
import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { Event } from '../../src/api/event.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };

/** As text 10 comes before 9. */
const byNumber = (a: number, b: number) => a - b;

const SIZE = ['--memory', '256M', '--disk', '2G', '--work-disk', '64M'];

/** What is the same in all VMs of an image, line by line; identities are taken out. */
const SAME = `
find /etc /root -xdev ! -name 'ssh_host_*' ! -path /etc/machine-id -printf '%p %y %m %u %g %l\\n' | sort
find /etc /root -xdev -type f ! -name 'ssh_host_*' ! -name machine-id ! -name hostname ! -name hosts -exec md5sum {} + | sort -k 2
ls /etc/ssh
systemctl is-system-running
systemctl list-units --type=service --state=running --plain --no-legend | cut -d ' ' -f 1 | grep -v ssh@ | sort
findmnt -rno TARGET,FSTYPE,OPTIONS / /root
cat /proc/cmdline /etc/resolv.conf
ip -o route | sed "s/src .*//"
ip -o link show eth0 | sed 's/.*mtu/mtu/; s/ link.*//'
sysctl -n kernel.random.entropy_avail
setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Urpf --mount-proc echo a /proc of its own 2>&1
id; umask; env | grep -v -e SSH_ -e ^_= | sort
`;

/** Who a machine is, one thing a line. */
const WHO = `
hostname
cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id
cat /etc/ssh/ssh_host_ed25519_key.pub
ip -o -4 addr show eth0 | grep -o 'inet [^ ]*'
cat /sys/class/net/eth0/address
head -c 32 /dev/urandom | md5sum
md5sum < /var/lib/systemd/random-seed
`;

describe('a VM from a template', { skip: hostSkip() }, () => {
  let host: TestHost;
  before(async () => {
    host = await TestHost.create();
    await host.daemon();
  }, LIMIT);
  after(() => host?.[Symbol.asyncDispose]());

  it('is what one that booted is', LIMIT, async () => {
    // two boots side by side
    const [warmed] = await Promise.all([host.ok('image', 'warm', ...SIZE), host.ok('run', 'cold', '--cold', ...SIZE)]);
    assert.match(warmed, /start from a template now \(\S+ MiB on disk\)$/);
    const [cold] = await host.processes().then((all) => all.filter(({ command }) => /fcqemu --api-sock/.test(command)));
    assert.ok(cold, 'the VM that nobody asked for is gone, the other runs');
    await host.settled('cold');
    assert.match(
      await host.ok('run', 'warm', ...SIZE),
      /^warm is running at \S+ \(from a template, ready after \S+ m?s\)$/,
    );
    const [booted, begun] = [await host.guest('cold', SAME), await host.guest('warm', SAME)];
    assert.deepEqual(begun.split('\n'), booted.split('\n'));
    assert.match(await host.guest('warm', 'cat /etc/hosts'), /^127\.0\.1\.1 warm$/m);
    assert.doesNotMatch(await host.guest('warm', 'cat /etc/hosts /etc/hostname'), /template/);
    const seconds = Number(await host.guest('warm', 'date +%s'));
    assert.ok(Math.abs(seconds - Date.now() / 1000) < 3, `the guest has ${seconds}, the host ${Date.now() / 1000}`);
    assert.equal(await host.guest('warm', 'dmesg | grep -ciE "i/o error|ext4-fs error|lockup|rcu.*stall"; true'), '0');
    // the host's side: what it may reach, how it is logged in to
    assert.equal(await host.ok('ssh', 'warm', 'hostname'), 'warm');
    const [one, other] = [await host.vm('cold'), await host.vm('warm')];
    for (const field of [
      'image',
      'nat',
      'vcpus',
      'memoryMib',
      'rootDiskBytes',
      'workDiskBytes',
      'ready',
      'state',
    ] as const) {
      assert.deepEqual(other[field], one[field], field);
    }
  });

  it('is nobody else, also when two begin at once', LIMIT, async () => {
    await Promise.all(['one', 'two'].map((name) => host.ok('run', name, ...SIZE)));
    const who = await Promise.all(['one', 'two', 'warm', 'cold'].map((name) => host.guest(name, WHO)));
    const lines = who.map((each) => each.split('\n'));
    for (const [index, what] of (lines[0] ?? []).entries()) {
      assert.equal(new Set(lines.map((each) => each[index])).size, who.length, `${index}: ${what}`);
    }
    // each that runs on takes something of the processor
    await host.ok('rm', '--force', '--now', 'one', 'two', 'cold');
  });

  it('takes over a guest that stands ready; what a daemon leaves that dies is freed by the next', LIMIT, async () => {
    const restart = async (ready: number) => {
      host.env.BANGER_POOL_READY = String(ready);
      await host.killDaemon();
      await host.daemon();
    };
    const standby = async () => (await host.client.call('status', {})).standby;
    const oneStandsReady = () => until('one stands ready', async () => (await standby())?.ready === 1, paced(20_000));
    const vmms = async () => {
      const all = (await host.processes()).filter(({ command }) => /fcqemu --api-sock/.test(command));
      return all.map(({ pid }) => pid).sort(byNumber);
    };
    const before = await vmms();
    await restart(1);
    await oneStandsReady();
    const [waiting, ...others] = (await vmms()).filter((pid) => !before.includes(pid));
    assert.deepEqual(others, []);
    await host.ok('run', 'begun', ...SIZE);
    const { bootTimeline, pid } = await host.vm('begun');
    assert.equal(pid, waiting, 'its VMM ran before');
    // the clock of a guest that waits goes on under KVM, so one is loaded by who takes it there
    const { summary } = await host.client.call('doctor', {});
    if (!/, KVM/.test(summary.vmm ?? ''))
      assert.ok(!bootTimeline.some(({ step }) => step === 'load-memory'), 'it was loaded before');
    const [one, other] = (await Promise.all(['warm', 'begun'].map((name) => host.guest(name, WHO)))).map((each) =>
      each.split('\n'),
    );
    for (const [index, what] of (one ?? []).entries()) assert.notEqual(other?.[index], what, `${index}`);
    assert.equal(other?.[0], 'begun');
    const seconds = Number(await host.guest('begun', 'date +%s'));
    assert.ok(Math.abs(seconds - Date.now() / 1000) < 3, `the guest has ${seconds}, the host ${Date.now() / 1000}`);
    await oneStandsReady();
    await restart(0);
    assert.deepEqual(await vmms(), [...before, Number(pid)].sort(byNumber), 'of "begun"');
    await host.ok('rm', '--force', '--now', 'begun');
  });

  it('is suspended and goes on as any other, all its programs frozen meanwhile', LIMIT, async () => {
    const mark = 'cat /proc/sys/kernel/random/boot_id; wc -l < /run/counter; systemctl is-system-running';
    await host.guest(
      'warm',
      // it only grows: nobody reads it between two of its contents
      '(while :; do echo >> /run/counter; sleep 0.1; done) > /dev/null 2>&1 & sleep 0.5',
    );
    const [boot, before] = (await host.guest('warm', mark)).split('\n');
    await host.ok('suspend', 'warm');
    await host.ok('resume', 'warm');
    const [sameBoot, after, state] = (await host.guest('warm', mark)).split('\n');
    assert.deepEqual([sameBoot, state], [boot, 'running']);
    assert.ok(Number(after) >= Number(before), `${before} ${after}`);
  });

  it('may have larger disks', LIMIT, async () => {
    await host.ok('run', 'large', '--memory', '256M', '--disk', '3G', '--work-disk', '256M');
    const size = async () =>
      (await host.guest('large', "df -m --output=size / /root | tail -n 2 | tr '\\n' ' '")).trim();
    const [root = 0, work = 0] = (await size()).split(/\s+/).map(Number);
    assert.ok(root > 2700 && work > 200, `${root} ${work}`);
  });

  it(
    'is its own after its next boot; the next one boots where its template was touched, and says why',
    LIMIT,
    async () => {
      const machine = await host.guest('large', 'echo mine > /root/mine; echo mine > /var/mine; cat /etc/machine-id');
      const { startedAt } = await host.vm('large');
      // resets devices that were loaded; what ended any other way would stay as it is
      await host.run(['exec', '-n', 'large', '--', 'systemctl', 'reboot']);
      await until('it has rebooted', async () => {
        const vm = await host.vm('large');
        assert.notEqual(vm.state, 'failed');
        return vm.state === 'running' && vm.startedAt !== startedAt;
      });
      // commands wait for all of the boot otherwise
      const kept = ['sh', '-c', 'cat /etc/machine-id /root/mine /var/mine'];
      assert.equal(
        await host.ok('exec', '-n', '--until', 'reachable', 'large', '--', ...kept),
        `${machine}\nmine\nmine`,
      );
      await host.ok('kill', 'large');

      const [template] = await host.client.call('listTemplates', {});
      appendFileSync(join(host.home, 'state/store/templates', template?.id ?? '', 'memory'), 'x');
      const boot = host.begin(['run', 'other', ...SIZE]);
      await boot.says(/waiting for SSH/);
      const events = (await host.ok('events', '--json')).split('\n').map((line) => JSON.parse(line) as Event);
      assert.deepEqual(
        events.flatMap((event) => (event.type === 'vm.not-warm' ? [[event.vm, event.reason]] : [])),
        [['other', 'its files were changed since']],
      );
      boot.child.kill('SIGINT');
      assert.equal((await boot.ended).status, 130);
      await host.ok('image', 'warm', '--forget');
      assert.deepEqual(await host.client.call('listTemplates', {}), []);
    },
  );
});
