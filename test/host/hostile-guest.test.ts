/** A guest that means harm: the host, the daemon and the other VMs do not notice. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const MIB = 2 ** 20;

/** What the daemon may grow by while a guest does its worst: buffers of a few connections, and noise. */
const DAEMON_GROWTH_BYTES = 48 * MIB;
/** Console logs are cut at 16 MiB every 30 s; a guest that is emulated prints far less in this time. */
const FLOOD_MS = 20_000;
const CONSOLE_LIMIT_BYTES = 16 * MIB;

describe('a hostile guest', { skip: hostSkip('debugfs') }, () => {
  let host: TestHost;

  before(async () => {
    const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', join(import.meta.dirname, '../../.dev'));
    host = await TestHost.create({
      env: { BANGER_BUNDLE_DEFAULT: bundle, BANGER_DNS_ENABLED: 'false', BANGER_NETWORK_VM_TO_HOST: 'true' },
    });
    await host.daemon();
    await Promise.all([host.ok('run', 'evil', '--work-disk', '32M'), host.ok('run', 'good')]);
  });
  after(() => host?.[Symbol.asyncDispose]());

  async function daemonRss(): Promise<number> {
    const { pid } = await host.client.call('status', {});
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
  }

  it('may print without end to its console and to commands that nobody reads', LIMIT, async (t) => {
    const before = await daemonRss();
    // the console of a guest is a file on the host, the output of a command goes through the daemon
    await host.guest('evil', 'for n in 1 2; do (yes "$(seq 200)" > /dev/ttyS0) > /dev/null 2>&1 & done');
    const reader = host.begin(['exec', '-n', 'evil', '--', 'yes']);
    reader.child.stdout?.pause();
    let most = 0;
    for (const end = Date.now() + FLOOD_MS; Date.now() < end; ) {
      await sleep(1000);
      most = Math.max(most, await daemonRss());
      assert.equal(await host.guest('good', 'echo here'), 'here');
    }
    reader.child.kill('SIGKILL');
    await reader.ended;
    const { size } = await stat((await host.vm('evil')).consoleLog);
    t.diagnostic(`daemon ${before / MIB} to ${most / MIB} MiB, console log ${size / MIB} MiB`);
    assert.ok(most < before + DAEMON_GROWTH_BYTES, `the daemon grew from ${before} to ${most} bytes`);
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

  it('that gives up its address is told to be gone, and can be stopped', LIMIT, async () => {
    await host.soon('evil', 'ip addr flush dev eth0');
    await sleep(2000);
    await host.fails(1, ['exec', '-n', 'evil', '--', 'true'], [/evil/, /banger logs evil/]);
    assert.equal(await host.guest('good', 'echo here'), 'here');
    await host.ok('stop', 'evil');
    assert.equal((await host.vm('evil')).state, 'stopped');
    await host.ok('start', 'evil');
    assert.equal(await host.guest('evil', 'echo back'), 'back');
  });

  it('whose SSH server falls silent is told so, and can be stopped', LIMIT, async () => {
    await host.soon('evil', 'kill -STOP $(cat /run/sshd.pid /run/banger/early-sshd.pid)');
    await sleep(2000);
    const vm = await host.vm('evil');
    assert.equal(vm.state, 'running');
    await host.ok('stop', 'evil', '--timeout', '20s');
    assert.equal((await host.vm('evil')).state, 'stopped');
  });
});
