/** A guest that means harm: the host, the daemon and the other VMs do not notice. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { readFile, stat } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const MIB = 2 ** 20;

/** What a guest gets rid of to a command that nobody reads: windows and buffers of one connection. */
const UNREAD_LIMIT_BYTES = 32 * MIB;
/** Console logs are cut at 16 MiB every 30 s; a guest that is emulated prints far less in this time. */
const CONSOLE_LIMIT_BYTES = 16 * MIB;

describe('a hostile guest', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;

  before(async () => {
    host = await TestHost.create({
      lean: true,
      warm: true,
      env: { BANGER_DNS_ENABLED: 'false', BANGER_NETWORK_VM_TO_HOST: 'true' },
    });
    await host.daemon();
    await Promise.all([host.ok('run', 'evil', '--work-disk', '32M'), host.ok('run', 'good')]);
  });
  after(() => host?.[Symbol.asyncDispose]());

  /** What the command that floods has written so far, as its guest counts it. */
  async function writtenBytes(name: string): Promise<number> {
    const counters = await host.guest(name, 'cat "/proc/$(cat /run/flood)/io"');
    return Number(/^wchar: (\d+)$/m.exec(counters)?.[1]);
  }

  /** Lets a guest do something in a moment, and waits until it has said so on its console. */
  async function afterwards(name: string, script: string): Promise<void> {
    const mark = `done ${performance.now()}`;
    await host.soon(name, `${script}; echo ${mark} > /dev/ttyS0`);
    const { consoleLog } = await host.vm(name);
    await until(script, async () => (await readFile(consoleLog, 'utf8')).includes(mark));
  }

  it('may print without end to its console and to commands that nobody reads', LIMIT, async (t) => {
    // the output of a command goes through the daemon, which takes no more of it than its reader does
    const reader = host.begin(['exec', '-n', 'evil', '--', 'sh', '-c', 'echo $$ > /run/flood; exec yes']);
    reader.child.stdout?.pause();
    // a pipe and the window of one command are full then
    await until('it floods', async () => (await writtenBytes('evil').catch(() => 0)) > MIB / 4);
    // the console of a guest is a file on the host
    await host.guest('evil', 'for n in 1 2; do (yes "$(seq 200)" > /dev/ttyS0) > /dev/null 2>&1 & done');
    for (let asked = 0; asked < 10; asked++) assert.equal(await host.guest('good', 'echo here'), 'here');
    const sent = await writtenBytes('evil');
    reader.child.kill('SIGKILL');
    await reader.ended;
    const { size } = await stat((await host.vm('evil')).consoleLog);
    t.diagnostic(`${sent / MIB} MiB were taken, console log ${size / MIB} MiB`);
    assert.ok(sent < UNREAD_LIMIT_BYTES, `${sent} bytes were taken for a reader that did not read`);
    assert.ok(size < 8 * CONSOLE_LIMIT_BYTES, `the console log has ${size} bytes`);
    await host.ok('kill', 'evil');
    await host.ok('start', 'evil');
  });

  it('may fill its disks: the host keeps its space for the others', LIMIT, async () => {
    const filled = await host.guest(
      'evil',
      'for disk in /root /; do dd if=/dev/zero of=$disk/big bs=1M 2>/dev/null; done; df -P / /root | grep -c 100%',
    );
    assert.equal(filled.trim().split('\n').at(-1), '2');
    await host.guest('good', 'echo fine > /root/note && sync && cat /root/note');
    await host.ok('stop', 'evil');
    await host.ok('start', 'evil');
    await host.guest('evil', 'rm /root/big /big');
  });

  it('cannot send from another address than its own', LIMIT, async () => {
    const [evil, good] = await Promise.all([host.vm('evil'), host.vm('good')]);
    const { pool } = await host.client.call('status', {});
    const gateway = pool.replace(/\.0\/\d+$/, '.1');
    const heard: string[] = [];
    const socket = createSocket('udp4');
    socket.on('message', (message, { address }) => heard.push(`${address} ${message.toString().trim()}`));
    await new Promise<void>((resolve) => socket.bind(0, '0.0.0.0', () => resolve()));
    const { port } = socket.address();
    const send = (text: string) => host.guest('evil', `bash -c 'echo ${text} > /dev/udp/${gateway}/${port}'`);
    try {
      await send('honest');
      await until('the honest packet is here', () => heard.length > 0, 10_000);
      // both the neighbour's address and one nobody has; exec goes on over the VM's own
      for (const address of [good.address, pool.replace(/\.0\/\d+$/, '.250')]) {
        await host.guest(
          'evil',
          `ip addr add ${address}/32 dev eth0 && ip route replace ${gateway} dev eth0 src ${address}`,
        );
        await send('forged');
        await host.guest(
          'evil',
          `ip route replace ${gateway} dev eth0 src ${evil.address} && ip addr del ${address}/32 dev eth0`,
        );
      }
      await send('honest again');
      await until('the last packet is here', () => heard.some((line) => line.endsWith('again')), 10_000);
      assert.deepEqual(heard, [`${evil.address} honest`, `${evil.address} honest again`]);
      assert.equal(await host.guest('good', 'echo here'), 'here');
    } finally {
      socket.close();
    }
  });

  it('that gives up its address still runs commands, and can be stopped', LIMIT, async () => {
    await afterwards('evil', 'ip addr flush dev eth0');
    // its agent needs no address
    assert.equal(await host.guest('evil', 'echo here'), 'here');
    // also to a daemon that has no connection to it yet
    await host.ok('daemon', 'stop');
    assert.equal(await host.guest('evil', 'echo here'), 'here');
    assert.equal(await host.guest('good', 'echo here'), 'here');
    await host.ok('stop', 'evil');
    assert.equal((await host.vm('evil')).state, 'stopped');
    await host.ok('start', 'evil');
    assert.equal(await host.guest('evil', 'echo back'), 'back');
  });

  it('whose SSH server falls silent is told so, and can be stopped', LIMIT, async () => {
    await afterwards('evil', 'kill -STOP $(cat /run/sshd.pid /run/banger/early-sshd.pid)');
    const vm = await host.vm('evil');
    assert.equal(vm.state, 'running');
    await host.ok('stop', 'evil', '--timeout', '20s');
    assert.equal((await host.vm('evil')).state, 'stopped');
  });
});
