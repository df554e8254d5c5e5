/** What VMs do from creation to deletion, seen from the command line, from inside and from each other. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { hostSkip, type Running, TestHost, until, watchChild } from '../support/host.ts';
import { createOutsideWorld, type OutsideWorld } from '../support/outside-world.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

describe('virtual machines', { skip: hostSkip('setpriv', 'script', 'dumpe2fs') }, () => {
  let outside: OutsideWorld;
  let host: TestHost;

  before(async () => {
    outside = await createOutsideWorld();
    host = await TestHost.create({
      lean: true,
      // what quoting exists for
      prefix: "/tmp/b t'%h-",
      uplink: outside.uplink,
      env: { BANGER_NETWORK_NAMESERVERS: outside.address },
    });
    await host.daemon();
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await outside?.[Symbol.asyncDispose]();
  });

  describe('of which two were started at once', () => {
    it('are listed and described with stable fields', LIMIT, async () => {
      await host.ok('create', 'web', '--memory', '256M', '--disk', '3G', '--work-disk', '1G');
      const db = ['--memory', '256M', '--vcpus', '2', '--work-disk', 'none', '--no-nat'];
      await host.ok('vm', 'create', 'db', ...db);
      assert.match(await host.ok('ls'), /^db +stopped .*\nweb +stopped /m);
      assert.match(await host.ok('start', 'web', 'db'), /web is running at 10\.\d+\.0\.2/);
      const [other, web] = JSON.parse(await host.ok('ls', '--json'));
      assert.deepEqual(Object.keys(web), [
        ...[
          'id',
          'name',
          'state',
          'failure',
          'problem',
          'image',
          'vcpus',
          'memoryMib',
          'rootDiskBytes',
          'workDiskBytes',
          'workDiskMount',
        ],
        ...[
          'address',
          'mac',
          'nat',
          'autostart',
          'restartPolicy',
          'idleSuspendMs',
          'awakeUntil',
          'createdAt',
          'startedAt',
          'vmm',
          'pid',
        ],
        ...['ready', 'bootMs', 'readyMs', 'failedUnits', 'temporary', 'forkedFrom', 'suspended', 'snapshots', 'health'],
      ]);
      assert.deepEqual([other.name, other.vcpus, other.nat, other.workDiskBytes], ['db', 2, false, 0]);
      assert.deepEqual([web.name, web.state, web.memoryMib, web.nat], ['web', 'running', 256, true]);
      assert.match(await host.ok('ls'), /^web +running +10\.\d+\.0\.2 +1 +256 MiB +\S+ +\d/m);
      assert.equal(await host.ok('ls', '--names'), 'db\nweb');
    });

    it('say where their time went until the first login', LIMIT, async () => {
      const { bootTimeline, bootMs } = JSON.parse(await host.ok('show', 'web', '--json'));
      const steps = bootTimeline.map(({ step }: { step: string }) => step);
      assert.deepEqual(steps.toSorted(), [
        ...['attach-network', 'boot-guest', 'configure-vmm', 'launch-vmm', 'make-work-disk'],
        ...['preflight', 'prepare-root-disk', 'wait-for-ssh', 'write-seed-drive'],
      ]);
      assert.equal(steps.at(-1), 'wait-for-ssh');
      const last = bootTimeline.at(-1);
      assert.ok(Math.abs(last.startedMs + last.durationMs - bootMs) < 100, 'the last step ends with the boot');
      assert.match(
        await host.ok('show', 'web'),
        /LAST BOOT +login after \d.*, ready after \d.*\npreflight[\s\S]*\nwait-for-ssh +\d/,
      );
    });

    it('have the processors, memory, disks and names they were given', LIMIT, async () => {
      assert.equal(await host.guest('db', 'hostname; nproc; findmnt -n /root || echo none'), 'db\n2\nnone');
      const facts = await host.guest('web', 'nproc; grep MemTotal /proc/meminfo; df -B1 --output=size / /root');
      const [cpus, memory = '', , root, work] = facts.split('\n');
      assert.equal(cpus, '1');
      const memoryKib = Number(/\d+/.exec(memory)?.[0]);
      assert.ok(memoryKib > 180_000 && memoryKib < 262_144, memory);
      assert.ok(Number(root) > 2.7 * 2 ** 30 && Number(root) < 3 * 2 ** 30, `root disk ${root}`);
      assert.ok(Number(work) > 0.9 * 2 ** 30 && Number(work) < 2 ** 30, `work disk ${work}`);
      assert.equal(await host.guest('web', 'cat /etc/resolv.conf'), `nameserver ${outside.address}`);
    });

    it('reach each other but cannot use an address that is not theirs', LIMIT, async () => {
      const { address: web } = await host.vm('web');
      const { address: db } = await host.vm('db');
      const ping = (from: string, to: string) =>
        `ping -c 1 -W 5 -I ${from} ${to} > /dev/null && echo reached || echo lost`;
      assert.equal(await host.guest('web', ping('eth0', db)), 'reached');
      assert.equal(await host.guest('db', ping('eth0', web)), 'reached');
      const stranger = web.replace(/\.2$/, '.77');
      const spoof = `ip address add ${stranger}/32 dev lo; ${ping(stranger, db).replace('-W 5', '-W 2')}; ip address del ${stranger}/32 dev lo`;
      assert.equal(await host.guest('web', spoof), 'lost');
      const stolen = `ip address add ${db}/32 dev lo; ${ping(db, web.replace(/\.2$/, '.1')).replace('-W 5', '-W 2')}; ip address del ${db}/32 dev lo`;
      assert.equal(await host.guest('web', stolen), 'lost');
    });

    it('reach the outside through the host, and not with --no-nat', LIMIT, async () => {
      const ask = `exec 3<> /dev/tcp/${outside.address}/80 && cat <&3`;
      const asked = (name: string) => host.run(['exec', name, '--', 'timeout', '5', 'bash', '-c', ask]);
      assert.equal((await asked('web')).stdout, `${outside.hostAddress}\n`);
      const refused = await asked('db');
      assert.notEqual(refused.status, 0);
      assert.equal(refused.stdout, '');
    });
  });

  describe('that run commands', () => {
    it('pass on input, output, errors and the exit status, each by itself', LIMIT, async () => {
      const ran = await host.run(['exec', 'web', '--', 'sh', '-c', 'cat; echo problem >&2; exit 7'], { input: 'a\nb' });
      assert.deepEqual([ran.status, ran.stdout, ran.stderr], [7, 'a\nb', 'problem\n']);
      const killed = await host.run(['exec', '-n', 'web', '--', 'sh', '-c', 'kill -TERM $$']);
      assert.equal(killed.status, 128 + 15);
      const words = await host.ok(
        'exec',
        '-e',
        'WHO=you & me',
        '-C',
        '/tmp',
        'web',
        '--',
        'sh',
        '-c',
        'echo "$WHO $PWD $1"',
        'sh',
        "it's",
      );
      assert.equal(words, "you & me /tmp it's");
      assert.equal((await host.run(['exec', '-n', 'web', '--', 'no-such-program'])).status, 127);
    });

    it('carry any bytes both ways, and long command lines', LIMIT, async () => {
      const bytes = randomBytes(5_000_000);
      const ran = await host.run(['exec', 'web', '--', 'cat'], { input: bytes });
      assert.ok(ran.output.equals(bytes), `${ran.output.length} bytes came back`);
      const long = 'x'.repeat(120_000);
      assert.equal(await host.ok('exec', '-n', 'web', '--', 'echo', long), long);
    });

    it('run more of them at once than one SSH connection can carry', LIMIT, async () => {
      const numbers = Array.from({ length: 14 }, (_, index) => String(index));
      const said = await Promise.all(numbers.map((number) => host.guest('web', `sleep 1; echo ${number}`)));
      assert.deepEqual(said, numbers);
    });

    it('pass on signals, and end what a client leaves behind', LIMIT, async () => {
      const asked = host.begin([
        'exec',
        '-n',
        'web',
        '--',
        'sh',
        '-c',
        'trap "echo caught; exit 9" INT; echo on; while :; do sleep 0.2; done',
      ]);
      await asked.says(/on\n/);
      asked.child.kill('SIGINT');
      const { status, stdout } = await asked.ended;
      assert.deepEqual([status, stdout], [9, 'on\ncaught\n']);
      const left = host.begin(['exec', '-n', 'web', '--', 'sh', '-c', 'echo $$; exec sleep 4321']);
      await left.says(/^\d+\n/);
      left.child.kill('SIGKILL');
      const there = ['exec', '-n', 'web', '--', 'test', '-e', `/proc/${left.said().trim()}`];
      await until('it has ended', async () => (await host.run(there)).status === 1);
    });

    it('give them a terminal when there is one', LIMIT, async () => {
      // an entry for what is asked for: without one a guest is told of the terminal that it knows
      await host.guest('web', 'mkdir -p /usr/share/terminfo/x; touch /usr/share/terminfo/x/xterm');
      const script = `"${join(import.meta.dirname, '../../dist/banger')}" exec web -- sh -c 'tty; stty size; echo $TERM'`;
      const child = spawn('script', ['--quiet', '--return', '--command', script, '/dev/null'], {
        env: { ...host.env, TERM: 'xterm' },
      });
      const { status, stdout } = await watchChild(child, 'script').ended;
      assert.equal(status, 0, stdout);
      assert.match(stdout, /\/dev\/pts\/\d+\r+\n\d+ \d+\r+\nxterm\r+\n/);
      assert.match((await host.run(['exec', '-n', 'web', '--', 'tty'])).stdout, /not a tty/);
    });

    it('let ssh in with the known host key and no other', LIMIT, async () => {
      const said = await host.run(['ssh', 'web', 'hostname; exit 3']);
      assert.deepEqual([said.status, said.stdout, said.stderr], [3, 'web\n', '']);
      const other = join(host.home, 'other_key');
      await runner.run(['ssh-keygen', '-qt', 'ed25519', '-N', '', '-f', other]);
      const put = 'cd /etc/ssh; cp -p ssh_host_ed25519_key /tmp/; cat > ssh_host_ed25519_key';
      const changed = await host.run(['exec', 'web', '--', 'sh', '-c', put], { input: await readFile(other) });
      assert.equal(changed.status, 0, changed.stderr);
      const refused = await host.run(['ssh', 'web', 'true']);
      assert.equal(refused.status, 255);
      assert.match(refused.stderr, /host key|Host key/i);
      await host.guest('web', 'mv -f /tmp/ssh_host_ed25519_key /etc/ssh/');
      assert.equal((await host.run(['ssh', 'web', 'true'])).status, 0);
    });

    it('copy files in, out and between each other', LIMIT, async () => {
      const file = join(host.home, 'file');
      await writeFile(file, randomBytes(100_000));
      await host.ok('cp', file, 'web:');
      await host.ok('cp', 'web:file', 'db:/tmp/copy');
      await host.ok('cp', 'db:/tmp/copy', `${file}.back`);
      assert.ok((await readFile(`${file}.back`)).equals(await readFile(file)));
      await host.fails(4, ['cp', file, 'nosuch:'], [/There is no VM named "nosuch"/]);
    });

    it('show their console, also as it comes', LIMIT, async () => {
      assert.match(await host.ok('logs', 'web'), /banger-init: handover/);
      assert.match(await host.ok('logs', 'web', '--vmm'), /InstanceStart/);
      const following = host.begin(['logs', 'web', '-n', '1', '-f']);
      await until('the log is followed', () => following.said() !== '');
      await host.guest('web', 'echo "said to the console" > /dev/ttyS0');
      await following.says(/said to the console/);
      following.child.kill('SIGINT');
      await following.ended;
    });
  });

  describe('that are stopped and started', () => {
    it('shut their guests down, and keep what was written', LIMIT, async () => {
      await host.guest('web', 'echo data > /root/work; echo data > /var/root; echo "192.0.2.9 mine" >> /etc/hosts');
      await host.guest('web', 'echo "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me" >> /root/.ssh/authorized_keys');
      const { directory } = await host.vm('web');
      assert.match(await host.ok('stop', 'web'), /^web is stopped \(/);
      for (const disk of ['root.ext4', 'work.ext4']) {
        const { stdout } = await runner.run(['dumpe2fs', '-h', join(directory, disk)]);
        assert.match(stdout, /^Filesystem state: +clean$/m, disk);
        assert.doesNotMatch(stdout, /needs_recovery/, disk);
      }
      const stopped = await host.vm('web');
      assert.deepEqual([stopped.state, stopped.pid, stopped.startedAt, stopped.vmm], ['stopped', null, null, null]);
      assert.match(await host.ok('stop', 'web'), /web is stopped/);
      await host.fails(5, ['exec', 'web', '--', 'true'], [/web is not running \(stopped\)/, /banger start web/]);
      await host.fails(5, ['ssh', 'web'], [/web is not running/]);
    });

    it('take part in one start when two ask for it, and come back as they were', LIMIT, async () => {
      const before = await host.vm('web');
      const both = await Promise.all([host.run(['start', 'web']), host.run(['start', 'web'])]);
      for (const { status, stdout, stderr } of both)
        assert.deepEqual([status, /web is running/.test(stdout)], [0, true], stderr);
      assert.equal(both.filter(({ stderr }) => /already under way/.test(stderr)).length, 1);
      const after = await host.vm('web');
      assert.deepEqual([after.address, after.mac, after.id], [before.address, before.mac, before.id]);
      assert.equal(await host.guest('web', 'cat /root/work /var/root'), 'data\ndata');
      assert.match(await host.guest('web', 'cat /etc/hosts'), /^192\.0\.2\.9 mine$/m);
      assert.equal(await host.guest('web', 'grep -c "127.0.1.1 web" /etc/hosts'), '1');
      const keys = await host.guest('web', 'cat /root/.ssh/authorized_keys');
      assert.equal(keys.split('\n').length, 2, 'our key stands there once');
      assert.match(keys, / me$/m);
    });

    it('are told apart from those that run already, by name', LIMIT, async () => {
      await host.fails(5, ['start', 'web'], [/web is running already/, /banger ssh web/]);
      assert.match(await host.ok('run', 'web'), /web is already running/);
      await host.fails(5, ['rm', 'web'], [/web is running/, /banger stop web/, /banger rm --force web/]);
      await host.fails(5, ['create', 'web'], [/A VM named "web" exists already/, /banger start web/]);
      assert.equal((await host.vm('web')).state, 'running');
    });

    it('come back by themselves after a reboot in the guest', LIMIT, async () => {
      const bootId = 'cat /proc/sys/kernel/random/boot_id';
      const before = await host.guest('web', bootId);
      await host.soon('web', 'kill -INT 1'); // what its init restarts the machine for
      await until('it has left', async () => (await host.vm('web')).state !== 'running', 60_000);
      await until('it is back', async () => (await host.vm('web')).state === 'running');
      assert.notEqual(await host.guest('web', bootId), before);
    });

    it('are stopped after a poweroff in the guest', LIMIT, async () => {
      await host.soon('db', 'kill -USR1 1'); // what its init powers off for
      const { consoleLog } = await host.vm('db');
      await until('it is stopped', async () => (await host.vm('db')).state === 'stopped', 60_000).catch((error) => {
        throw new Error(`${error.message}; its console ends with\n${readFileSync(consoleLog, 'latin1').slice(-500)}`);
      });
      const { pid, failure } = await host.vm('db');
      assert.deepEqual([pid, failure], [null, null]);
    });

    for (const [step, says] of Object.entries({
      begin: /checking the host/,
      network: /attaching the network/,
      launch: /launching the VMM/,
      configuration: /configuring the VM/,
      boot: /waiting for SSH/,
    })) {
      it(`are as before after Ctrl-C during a start (${step})`, LIMIT, async () => {
        const start = host.begin(['start', 'db']);
        await start.says(says);
        start.child.kill('SIGINT');
        await assertCalledOff(start);
      });
    }

    it('are as before when another command or the end of the daemon calls a start off', LIMIT, async () => {
      const first = host.begin(['start', 'db']);
      await first.says(/waiting for SSH/);
      await host.fails(5, ['stop', 'db'], [/a start of db is going on/, /banger operation wait/]);
      await host.ok('kill', 'db');
      await assertCalledOff(first);
      const second = host.begin(['start', 'db']);
      await second.says(/waiting for SSH/);
      assert.match(await host.ok('daemon', 'stop'), /VMs that keep running: 1/);
      assert.equal((await second.ended).status, 130);
      await host.daemon();
      assert.equal((await host.vm('db')).state, 'stopped');
      assert.equal((await host.vm('web')).state, 'running');
      assert.equal(await host.guest('web', 'hostname'), 'web');
    });

    it('end at once when killed, and leave to another banger what it needs of the host', LIMIT, async () => {
      const forwarding = () => readFile(`/proc/sys/net/ipv4/conf/${outside.uplink}/forwarding`, 'utf8');
      // of a range for measurements, which no host is in: the route is left when this test is killed
      const range = `198.18.${process.pid % 256}.0/24`;
      const otherPool = (action: string) =>
        runner.run(['ip', 'route', action, 'unreachable', range, 'proto', '119'], { okExits: [0, 2] });
      host.beforeLastLook(async () => void (await otherPool('delete')));
      await otherPool('add');
      const begun = performance.now();
      assert.match(await host.ok('kill', 'web'), /web is stopped, hard/);
      assert.ok(performance.now() - begun < paced(5000));
      assert.equal(await forwarding(), '2\n');
      await otherPool('delete');
      await host.ok('daemon', 'stop');
      await host.daemon();
      await host.assertQuiet('of killed VMs');
    });

    it('are gone with their disks when deleted', LIMIT, async () => {
      const { directory } = await host.vm('web');
      const following = host.begin(['logs', 'web', '-f']);
      await following.says(/handover/);
      assert.match(await host.ok('rm', '--now', 'web', 'db'), /web is deleted/);
      await assert.rejects(stat(directory), /ENOENT/);
      assert.equal((await following.ended).status, 0, 'there is nothing more to follow');
      assert.deepEqual(JSON.parse(await host.ok('ls', '--json')), []);
      await host.fails(4, ['start', 'web'], [/There is no VM named "web"/, /banger ls/]);
      await host.assertQuiet('of deleted VMs');
    });
  });

  async function assertCalledOff(start: Running): Promise<void> {
    const { status, stderr } = await start.ended;
    assert.equal(status, 130, stderr);
    assert.match(stderr, /start db was cancelled, and what it had done is undone/);
    const vm = await host.vm('db');
    assert.deepEqual([vm.state, vm.failure], ['stopped', null]);
    const left = (await host.processes()).filter(({ command }) => command.includes(vm.id));
    assert.deepEqual(left, []);
  }
});
