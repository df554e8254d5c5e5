/** A wake as another machine, in namespaces: what the parent had is gone, what the new one is to have is there. */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, copyFile, link, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { GuestAgent } from '../../../src/guest/agent/agent.ts';
import type { WakeRequest } from '../../../src/guest/agent/wake-request.ts';
import { namespacesSkip, PARENT, runInNamespaces } from '../../support/agent-namespaces.ts';
import { compileAgent } from '../../support/agent-program.ts';
import { paced } from '../../support/pace.ts';

const IDENTITY = {
  hostname: 'child',
  address: '10.9.0.7',
  gateway: '10.9.0.1',
  mtu: 1380,
  mac: '06:00:0a:09:00:07',
  machineId: '0123456789abcdef0123456789abcdef',
  bootId: '11111111-2222-4333-8444-555555555555',
  resolver: 'nameserver 10.9.0.1\n',
  hostKey: { private: 'PRIVATE\n', public: 'ssh-ed25519 AAAA child\n' },
  authorizedKeys: ['ssh-ed25519 BBBB mine'],
};

function wakeAs(change: Partial<WakeRequest> = {}): WakeRequest {
  const wallClockNs = BigInt(Date.now()) * 1_000_000n;
  return { generation: randomUUID(), seed: randomBytes(64), wallClockNs, mode: 'new', identity: IDENTITY, ...change };
}

async function said(agent: GuestAgent, script: string): Promise<string> {
  const channel = agent.exec({ argv: ['sh', '-c', script] });
  channel.end();
  const output = await text(channel);
  await channel.ended;
  return output;
}

describe('a wake as another machine', { skip: namespacesSkip() }, () => {
  let program: string;
  before(async () => {
    program = await compileAgent();
  });

  it('gives it its address, routes, hardware address and MTU, and none of the former', async (t) => {
    const agent = await (await runInNamespaces(t, program)).connect();
    assert.match(await said(agent, 'ip -4 -o addr show eth0'), new RegExp(PARENT.address));
    const report = await agent.wake(wakeAs());
    assert.ok(report.did.has('network'));
    const addresses = await said(agent, 'ip -4 -o addr show eth0');
    assert.match(addresses, /inet 10\.9\.0\.7\/32 /);
    assert.doesNotMatch(addresses, /10\.9\.0\.2/);
    const link = await said(agent, 'ip link show eth0');
    assert.match(link, /mtu 1380 [\s\S]*link\/ether 06:00:0a:09:00:07/);
    assert.match(link, /UP/);
    assert.deepEqual((await said(agent, 'ip route')).replaceAll(/ +\n/g, '\n').trim().split('\n').sort(), [
      '10.9.0.1 dev eth0 scope link',
      'default via 10.9.0.1 dev eth0',
    ]);
  });

  it('gives it its names, ids and keys, on the disk too', async (t) => {
    const running = await runInNamespaces(t, program);
    const agent = await running.connect();
    const file = (path: string) => join(running.directory, path);
    for (const type of ['rsa', 'ed25519']) {
      await writeFile(file(`etc/ssh/ssh_host_${type}_key`), 'the parent’s');
      await writeFile(file(`etc/ssh/ssh_host_${type}_key.pub`), 'the parent’s');
    }
    await writeFile(file('etc/ssh/sshd_config'), '');
    await writeFile(file('var/lib/systemd/random-seed'), 'the parent’s');
    await writeFile(file('etc/machine-id'), 'ffffffffffffffffffffffffffffffff\n');
    await mkdir(file('root/.ssh'));
    await writeFile(file('root/.ssh/authorized_keys'), 'ssh-ed25519 AAAA other');
    const parentBoot = await said(agent, 'cat /proc/sys/kernel/random/boot_id');
    const mounted = () => said(agent, 'grep random/boot_id /proc/self/mountinfo');
    assert.equal(await mounted(), '');
    await agent.wake(wakeAs());
    assert.equal(await said(agent, 'hostname'), 'child\n');
    const read = async (path: string) => await readFile(file(path), 'utf8');
    assert.equal(await read('etc/hostname'), 'child\n');
    assert.equal(await read('etc/hosts'), '127.0.0.1 localhost\n::1 ip6-localhost\n127.0.1.1 child\n');
    assert.equal(await read('etc/resolv.conf'), IDENTITY.resolver);
    assert.equal(await read('etc/machine-id'), `${IDENTITY.machineId}\n`);
    assert.equal(await said(agent, 'cat /proc/sys/kernel/random/boot_id'), `${IDENTITY.bootId}\n`);
    assert.notEqual(parentBoot, `${IDENTITY.bootId}\n`);
    assert.deepEqual((await readdir(file('etc/ssh'))).sort(), [
      ...['ssh_host_ed25519_key', 'ssh_host_ed25519_key.pub', 'sshd_config'],
    ]);
    assert.equal(await read('etc/ssh/ssh_host_ed25519_key'), 'PRIVATE\n');
    assert.equal((await stat(file('etc/ssh/ssh_host_ed25519_key'))).mode & 0o777, 0o600);
    assert.equal(await read('root/.ssh/authorized_keys'), 'ssh-ed25519 AAAA other\nssh-ed25519 BBBB mine\n');
    assert.equal((await stat(file('var/lib/systemd/random-seed'))).size, 512);
    const before = await mounted();
    // and once more, as another again
    const bootId = '99999999-2222-4333-8444-555555555555';
    await agent.wake(wakeAs({ identity: { ...IDENTITY, hostname: 'third', address: '10.9.0.8', bootId } }));
    assert.equal(await read('etc/hosts'), '127.0.0.1 localhost\n::1 ip6-localhost\n127.0.1.1 third\n');
    assert.equal(await said(agent, 'cat /proc/sys/kernel/random/boot_id'), `${bootId}\n`);
    assert.match(before, /^.* ro,.*\n$/, 'once, and for reading');
    assert.equal(await mounted(), before, 'nothing for init to look at');
    assert.doesNotMatch(await said(agent, 'ip -4 -o addr show eth0'), /10\.9\.0\.7/);
  });

  it('ends the connections of the former, and leaves those inside the machine', async (t) => {
    const agent = await (await runInNamespaces(t, program)).connect();
    const script = `
      const net = require('node:net');
      const server = net.createServer((socket) => socket.on('error', () => {}));
      server.listen(8000, '::', () => {
        for (const [name, host] of [['outside', '${PARENT.address}'], ['inside', '127.0.0.1']]) {
          const socket = net.connect({ port: 8000, host });
          socket.once('connect', () => console.log(name, 'connected'));
          socket.on('error', (error) => console.log(name, error.code));
          setInterval(() => name === 'inside' && socket.write('x'), 50);
        }
      });`;
    const channel = agent.exec({ argv: [process.execPath, '-e', script] });
    let output = '';
    channel.on('data', (chunk: Buffer) => {
      output += chunk;
    });
    channel.stderr.resume();
    const until = async (pattern: RegExp) => {
      const deadline = performance.now() + paced(20_000);
      while (!pattern.test(output)) {
        assert.ok(performance.now() < deadline, `it said: ${output}`);
        await delay(20);
      }
    };
    await until(/outside connected[\s\S]*inside connected|inside connected[\s\S]*outside connected/);
    const report = await agent.wake(wakeAs());
    // both ends of the one connection are in this machine
    assert.equal(report.did.get('connections'), 2);
    await until(/outside ECONN/);
    await delay(200);
    assert.doesNotMatch(output, /inside E/);
    channel.destroy();
  });

  it('ends SSH sessions, and has SSH servers read their keys again', async (t) => {
    const running = await runInNamespaces(t, program);
    const agent = await running.connect();
    await copyFile('/bin/bash', join(running.directory, 'sshd'));
    await chmod(join(running.directory, 'sshd'), 0o755);
    const session = './sshd -c "echo session; sleep 1000; echo not reached" & ';
    // it waits without a program of its own: one that is just being started would count as a server
    const idle = 'exec 3<> <(:); wait $!';
    const server = `trap "echo read again" HUP; ${idle}; ${session} while :; do wait; read -t 0.05 -u 3; done`;
    const channel = agent.exec({ argv: ['./sshd', '-c', server], cwd: running.directory });
    let output = '';
    channel.on('data', (chunk: Buffer) => {
      output += chunk;
    });
    while (!output.includes('session')) await once(channel, 'data');
    const { did } = await agent.wake(wakeAs());
    // a program that is just being started by the server is still the server's own
    assert.ok((did.get('ssh-sessions') ?? 0) >= 1);
    assert.equal(did.get('ssh-servers'), 1);
    while (!output.includes('read again')) await once(channel, 'data');
    assert.doesNotMatch(output, /not reached/);
    channel.destroy();
  });

  it('lets SSH servers stand still until whoever woke it has had the guest for a moment', async (t) => {
    const running = await runInNamespaces(t, await compileAgent(['REST_LEAST_MS=400']));
    const group = join(running.directory, 'groups/system.slice/ssh.service');
    await mkdir(group, { recursive: true });
    const freeze = join(group, 'cgroup.freeze');
    await writeFile(freeze, '0');
    const agent = await running.connect();
    await agent.wake(wakeAs({ mode: 'same', identity: undefined }));
    assert.equal(await readFile(freeze, 'utf8'), '0', 'one that goes on as itself keeps its keys');
    await agent.wake(wakeAs());
    assert.equal(await readFile(freeze, 'utf8'), '1');
    assert.equal(await said(agent, 'echo a command runs meanwhile'), 'a command runs meanwhile\n');
    const deadline = performance.now() + paced(10_000);
    while ((await readFile(freeze, 'utf8')) !== '0') {
      assert.ok(performance.now() < deadline, 'they are never let go');
      await delay(20);
    }
  });

  it('does what it left for later once: not while it is held, but before whatever comes when it goes on', async (t) => {
    // due while it is being frozen, which is given up after two seconds where something does not stand still
    const running = await runInNamespaces(t, await compileAgent(['REST_LEAST_MS=1500']));
    const slice = join(running.directory, 'groups/system.slice');
    const freeze = join(slice, 'ssh.service/cgroup.freeze');
    await mkdir(join(slice, 'ssh.service'), { recursive: true });
    for (const [path, content] of [
      [join(running.directory, 'groups/cgroup.controllers'), ''],
      [freeze, '0'],
      [join(slice, 'cgroup.freeze'), '0'],
      [join(slice, 'cgroup.events'), 'populated 1\nfrozen 0\n'],
      [join(slice, 'cgroup.procs'), ''],
    ] as const) {
      await writeFile(path, content);
    }
    const hooks = join(running.directory, 'etc/banger/wake.d');
    const log = join(running.directory, 'hooks.log');
    await mkdir(hooks, { recursive: true });
    // who was before takes its time
    const hook = `#!/bin/sh\n[ $BANGER_WAKE = same ] || sleep 0.5; echo $BANGER_WAKE >> ${log}\n`;
    await writeFile(join(hooks, 'hook'), hook, { mode: 0o755 });
    const ran = async () => await readFile(log, 'utf8').catch(() => '');
    const until = async (text: string) => {
      const deadline = performance.now() + paced(10_000);
      while ((await ran()).length < text.length) {
        assert.ok(performance.now() < deadline, await ran());
        await delay(20);
      }
      assert.equal(await ran(), text);
    };
    const agent = await running.connect();
    const same = () => agent.wake(wakeAs({ mode: 'same', identity: undefined }));
    await agent.wake(wakeAs());
    assert.equal((await agent.quiesce('t')).state, 'frozen');
    assert.deepEqual([await readFile(freeze, 'utf8'), await ran()], ['1', ''], 'it is held');
    await same();
    await agent.ping(); // it answers first and thaws then, before it reads on
    assert.equal(await readFile(freeze, 'utf8'), '0');
    await until('new\nsame\n');
    await same();
    await until('new\nsame\nsame\n');
  });

  it('lets commands that begin right then go first, and has them and no others take turns after that', async (t) => {
    const running = await runInNamespaces(t, await compileAgent(['REST_TIMES=3000', 'REST_MOST_MS=3000']));
    const commands = join(running.directory, 'groups/banger-commands');
    await mkdir(commands, { recursive: true });
    await writeFile(join(running.directory, 'groups/cgroup.controllers'), '');
    // every number that there may be
    const numbers = Array.from({ length: 400 }, (_, index) => `${index + 1}\n`);
    await writeFile(join(commands, 'cgroup.threads'), numbers.join(''));
    const agent = await running.connect();
    const begin = (adjust: string) => {
      const channel = agent.exec({ argv: ['nice', '-n', adjust, 'sh', '-c', 'while read -r line; do nice; done'] });
      return async () => {
        channel.write('\n');
        const [said] = (await once(channel, 'data')) as [Buffer];
        return said.toString().trim();
      };
    };
    const former = begin('-5');
    assert.equal(await former(), '-5');
    await agent.wake(wakeAs());
    const [first, modest] = [begin('0'), begin('7')];
    assert.deepEqual([await first(), await modest()], ['-20', '-13']);
    const deadline = performance.now() + paced(20_000);
    while ((await first()) !== '0') {
      assert.ok(performance.now() < deadline, 'it never takes turns');
      await delay(50);
    }
    assert.deepEqual([await modest(), await former()], ['7', '-5']);
    assert.equal(await begin('0')(), '0', 'one that begins later');
  });

  it('writes into the files that are there while all stands still, if they are nobody else’s', async (t) => {
    const running = await runInNamespaces(t, await compileAgent(['SYSTEMD_RUNS="run"']));
    const at = (path: string) => join(running.directory, path);
    await mkdir(at('groups/system.slice'), { recursive: true });
    const key = 'etc/ssh/ssh_host_ed25519_key';
    for (const [path, content] of [
      ['groups/cgroup.controllers', ''],
      ['groups/system.slice/cgroup.freeze', '0'],
      ['groups/system.slice/cgroup.events', 'populated 1\nfrozen 1\n'],
      ['groups/system.slice/cgroup.procs', ''],
      ['etc/hostname', 'a-parent-of-a-longer-name\n'],
      ['etc/machine-id', `${'f'.repeat(32)}\n`],
      ['etc/elsewhere', 'nameserver 192.0.2.1\n'],
      [key, 'KEY OF THE PARENT\n'],
      ['var/lib/systemd/random-seed', 'x'.repeat(512)],
    ] as const) {
      await writeFile(at(path), content);
    }
    await symlink('elsewhere', at('etc/resolv.conf'));
    await link(at(key), at('etc/backup'));
    const kept = ['etc/hostname', 'etc/hosts', 'etc/machine-id', 'var/lib/systemd/random-seed'];
    const inodes = async () => await Promise.all(kept.map(async (path) => (await stat(at(path))).ino));
    const before = await inodes();
    const agent = await running.connect();
    assert.equal((await agent.quiesce('t')).state, 'frozen');
    await agent.wake(wakeAs());
    assert.deepEqual(await inodes(), before);
    const content = async (path: string) => await readFile(at(path), 'latin1');
    assert.equal(await content('etc/hostname'), 'child\n');
    assert.match(await content('etc/hosts'), /^127\.0\.1\.1 child$/m);
    assert.equal(await content('etc/machine-id'), `${IDENTITY.machineId}\n`);
    assert.equal((await stat(at('etc/machine-id'))).mode & 0o777, 0o444);
    assert.doesNotMatch(await content('var/lib/systemd/random-seed'), /xxxx/);
    assert.deepEqual([await content(key), await content('etc/backup')], ['PRIVATE\n', 'KEY OF THE PARENT\n']);
    assert.deepEqual(
      [await content('etc/resolv.conf'), await content('etc/elsewhere')],
      [IDENTITY.resolver, 'nameserver 192.0.2.1\n'],
    );
    // as long as something goes on, what is there is replaced
    await agent.wake(wakeAs({ identity: { ...IDENTITY, hostname: 'next' } }));
    assert.notDeepEqual(await inodes(), before);
    assert.equal(await content('etc/hostname'), 'next\n');
  });

  it('runs the hooks of the guest, by name, in the background', async (t) => {
    const running = await runInNamespaces(t, program);
    const agent = await running.connect();
    const hooks = join(running.directory, 'etc/banger/wake.d');
    await mkdir(hooks, { recursive: true });
    const hook = async (name: string, script: string, mode = 0o755) => {
      await writeFile(join(hooks, name), `#!/bin/sh\n${script}\n`, { mode });
    };
    await hook('20-second', 'echo second; exit 3');
    await hook('10-first', 'echo "first $BANGER_WAKE $BANGER_GENERATION"; cat');
    await hook('30-editor.bak', 'echo never');
    await hook('40-not-executable', 'echo never', 0o644);
    await hook('50-last', 'echo last');
    const request = wakeAs({ mode: 'same', identity: undefined });
    await agent.wake(request);
    const log = join(running.directory, 'run/wake.log');
    const read = async () => await readFile(log, 'utf8').catch(() => '');
    const deadline = performance.now() + paced(10_000);
    while (!(await read()).includes('last')) {
      assert.ok(performance.now() < deadline, await read());
      await delay(20);
    }
    assert.equal(
      await read(),
      `first same ${request.generation}\nsecond\n/etc/banger/wake.d/20-second ended with status 3\nlast\n`,
    );
  });

  it('fails as a whole when a step does, naming it, and is not remembered', async (t) => {
    const running = await runInNamespaces(t, program);
    const agent = await running.connect();
    const wrong = wakeAs({ identity: { ...IDENTITY, address: 'nonsense' } });
    await assert.rejects(agent.wake(wrong), { trouble: 'refused', message: /^the address could not be set/ });
    const dead = wakeAs({ identity: { ...IDENTITY, files: { '/proc/x/y': { content: '', mode: 0o644 } } } });
    await assert.rejects(agent.wake(dead), { trouble: 'refused', message: /^a file could not be set/ });
    assert.equal((await running.connect()).hello.generation, undefined);
    await agent.wake({ ...dead, identity: IDENTITY });
  });
});
