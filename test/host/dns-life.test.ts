/** Names of real VMs from start to deletion: asked by dig, by guests, and by the system's ssh. */
import assert from 'node:assert/strict';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { crash, hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

/** What `getent hosts` prints. */
function hostsLine(address: string, name: string): string {
  return `${address.padEnd(16)}${name}`;
}

describe('names of VMs', { skip: hostSkip('dig') }, () => {
  let host: TestHost;
  let squatter: Socket;
  let port: number;
  let sshConfig: string;

  before(async () => {
    // below those the kernel gives to whoever asks for any: it is to be free again later
    squatter = createSocket('udp4').bind(20_000 + (process.pid % 10_000), '127.0.0.1');
    await once(squatter, 'listening');
    port = squatter.address().port;
    host = await TestHost.create({ lean: true, warm: true, env: { BANGER_DNS_PORT: String(port) } });
    sshConfig = join(host.home, 'ssh_config');
  });
  after(async () => {
    // an open socket would keep this process when the test that closes it has failed
    squatter?.unref();
    await host?.[Symbol.asyncDispose]();
  });

  async function dig(...args: string[]): Promise<string> {
    const argv = ['dig', '@127.0.0.1', '-p', String(port), '+tries=2', '+time=3', ...args] as const;
    return (await runner.run(argv, { okExits: [0, 9] })).stdout.trim();
  }

  async function rcode(name: string): Promise<string> {
    return /status: (\w+)/.exec(await dig(name))?.[1] ?? 'no answer';
  }

  async function serial(): Promise<number> {
    return Number((await dig('+short', 'vm', 'SOA')).split(' ')[2]);
  }

  const ssh = (...args: string[]) =>
    runner.run(['ssh', '-F', sshConfig, ...args], { okExits: [0, 255], timeoutMs: paced(120_000) });

  it('are not worth a daemon that does not start: a port in use is named with its holder, and taken later', async () => {
    await host.daemon();
    const held = `127.0.0.1 port ${port} is in use by ${process.title.split(' ')[0]?.split('/').at(-1)} (pid ${process.pid})`;
    assert.ok((await host.ok('daemon', 'status')).includes(held), await host.ok('daemon', 'status'));
    assert.match(await host.ok('dns', 'status'), /^listener +NOT LISTENING.* in use by /m);
    const refused = await host.run(['dns', 'setup']);
    // 6 where the resolver of this machine cannot be told at all
    assert.ok(refused.status === 5 || refused.status === 6, refused.stderr);
    squatter.close();
    await until('the port is taken', async () => (await dnsState()) === 'listening', 90_000);
    assert.equal(await rcode('nobody.vm'), 'NXDOMAIN');
  });

  async function dnsState(): Promise<string> {
    return (await host.client.call('dnsStatus', {})).host.state;
  }

  it('are found as soon as the VM runs, in every way of asking', LIMIT, async () => {
    const before = await serial();
    await Promise.all([host.ok('run', 'web', '--memory', '256M'), host.ok('run', 'db', '--memory', '256M')]);
    const { address } = await host.vm('web');
    for (const options of [[], ['+tcp'], ['+noedns'], ['+bufsize=512'], ['+dnssec', '+tcp']]) {
      assert.equal(await dig('+short', ...options, 'WEB.vm'), address, options.join(' '));
    }
    assert.equal(await dig('+short', 'a.b.web.vm'), address);
    assert.equal(await dig('+short', '-x', address), 'web.vm.');
    assert.equal(await dig('+short', 'web.vm', 'AAAA'), '');
    assert.equal(await rcode('web.vm.example'), 'REFUSED');
    assert.ok((await serial()) > before, 'the serial grows');
  });

  it('are found inside of VMs, in full and in short, and only those there are', LIMIT, async () => {
    const { address } = await host.vm('db');
    const found = await host.guest('web', 'getent hosts db.vm; getent hosts api.db.vm; getent hosts db');
    const names = found.split('\n').map((line) => line.split(/\s+/));
    assert.deepEqual(names, [
      [address, 'db.vm'],
      [address, 'api.db.vm'],
      [address, 'db.vm'],
    ]);
    assert.equal(await host.guest('web', `getent hosts ${address}`), hostsLine(address, 'db.vm'));
    assert.equal(await host.guest('web', 'getent hosts nobody.vm || echo none'), 'none');
    const user = 'getent hosts db.vm && cat /etc/hosts /etc/hostname';
    const seen = await host.guest('web', `su -s /bin/sh nobody -c '${user}'`);
    assert.match(seen, new RegExp(`^${hostsLine(address, 'db.vm')}\n127[^]*\nweb$`), 'users who are not root');
    assert.match(await host.guest('web', 'cat /etc/resolv.conf'), /^search vm\nnameserver 10\.\d+\.0\.1$/);
    const { guests } = await host.client.call('dnsStatus', {});
    assert.ok((guests.queries.answer ?? 0) >= 3, JSON.stringify(guests));
  });

  it('lead ssh and scp to the VM without any resolver, with the key that belongs to it', LIMIT, async () => {
    await writeFile(sshConfig, 'Host *\n  ConnectTimeout 60\n');
    await host.ok('ssh-config', '--install', '--file', sshConfig);
    assert.equal((await ssh('web.vm', 'hostname')).stdout, 'web\n');
    await runner.run(['scp', '-q', '-F', sshConfig, sshConfig, 'api.db.vm:/root/copied'], {
      timeoutMs: paced(120_000),
    });
    assert.match(await host.guest('db', 'cat /root/copied'), /^Include .*\n\nHost \*\n/m);
    const { stderr } = await ssh('nobody.vm', 'true');
    assert.match(stderr, /^banger: There is no VM named "nobody"\.$/m);
    await host.ok('ssh-config', '--uninstall', '--file', sshConfig);
  });

  it('move with a VM that gets another name while it runs', LIMIT, async () => {
    const { address } = await host.vm('db');
    const before = await serial();
    await host.ok('rename', 'db', 'store');
    assert.equal(await dig('+short', 'store.vm'), address);
    assert.equal(await rcode('db.vm'), 'NXDOMAIN');
    assert.equal(await dig('+short', '-x', address), 'store.vm.');
    assert.equal(await host.guest('web', 'getent hosts db || getent hosts store'), hostsLine(address, 'store.vm'));
    await host.ok('rename', 'store', 'db');
    assert.equal(await dig('+short', 'db.vm'), address);
    assert.ok((await serial()) > before, 'the serial grows');
  });

  it('are gone with a VMM that was killed, and it is told why', LIMIT, async () => {
    crash((await host.vm('web')).pid);
    await until('the record is gone', async () => (await rcode('web.vm')) === 'NXDOMAIN', 10_000);
    const explained = await host.run(['dns', 'status', '--explain', 'web']);
    assert.equal(explained.status, 1);
    assert.match(explained.stdout, /^BROKEN +record +There is no record: no running VM is named web\.$/m);
    assert.equal(await rcode('db.vm'), 'NOERROR');
  });

  it('are there again with the next daemon after one that was killed', LIMIT, async () => {
    const { address } = await host.vm('db');
    const before = await serial();
    await host.killDaemon();
    assert.equal(await rcode('db.vm'), 'no answer');
    await host.daemon();
    assert.equal(await dig('+short', 'db.vm'), address);
    assert.equal(await rcode('web.vm'), 'NXDOMAIN');
    assert.ok((await serial()) > before, 'the serial never goes back');
    assert.equal(await host.guest('db', 'getent hosts api.db.vm'), hostsLine(address, 'api.db.vm'));
  });

  it('end with the last VM, and begin with the next first one', LIMIT, async () => {
    await host.ok('stop', 'db');
    assert.equal(await rcode('db.vm'), 'NXDOMAIN');
    await host.ok('start', 'web');
    const { address } = await host.vm('web');
    assert.equal(await dig('+short', 'web.vm'), address);
    assert.equal(await host.guest('web', 'getent hosts x.web.vm'), hostsLine(address, 'x.web.vm'));
    await host.ok('rm', '--force', 'web');
    assert.equal(await rcode('web.vm'), 'NXDOMAIN');
    assert.equal(await dig('+short', '-x', address), '');
  });
});
