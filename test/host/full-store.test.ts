/** A guest that fills the disk which all VMs share: it is paused before nothing is left, and goes on when there is room. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { describeVmm } from '../../src/firecracker/api.ts';
import { spaceOf } from '../../src/storage/file-system.ts';
import { hostSkip, type Running, TestHost, until } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(240_000) };
const MIB = 2 ** 20;
const MIN_FREE = 96 * MIB;

describe('a store that is too small for what its VMs write', {
  skip: hostSkip('debugfs', 'mount', 'fallocate'),
}, () => {
  let host: TestHost;
  let disk: string;
  let writing: Running | undefined;

  before(async () => {
    const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', join(import.meta.dirname, '../../.dev'));
    disk = await mkdtemp('/tmp/bs-');
    await mkdir(store());
    execFileSync('truncate', ['-s', '512M', join(disk, 'image')]);
    execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', join(disk, 'image')]);
    execFileSync('mount', ['-o', 'loop', join(disk, 'image'), store()]);
    host = await TestHost.create({
      env: {
        ...{ BANGER_BUNDLE_DEFAULT: bundle, BANGER_DNS_ENABLED: 'false', BANGER_PATHS_STORE: join(store(), 'vms') },
        BANGER_STORAGE_MIN_FREE: `${MIN_FREE / MIB}MiB`,
      },
    });
    await host.daemon();
    // what somebody can delete
    execFileSync('fallocate', ['-l', '100M', filler()]);
    await Promise.all([host.ok('run', 'evil', '--work-disk', '1G'), host.ok('run', 'good', '--work-disk', 'none')]);
  });
  after(async () => {
    writing?.child.kill('SIGKILL');
    await host?.[Symbol.asyncDispose]();
    execFileSync('umount', [store()]);
    await rm(disk, { recursive: true });
  });

  function store(): string {
    return join(disk, 'store');
  }

  function filler(): string {
    return join(store(), 'filler');
  }

  async function stateOf(name: string): Promise<string> {
    return (await host.vm(name)).state;
  }

  async function vmmState(name: string): Promise<string> {
    const { directory } = await host.vm(name);
    const said = await describeVmm(join(directory, 'api.sock'), 5000);
    return said === 'silent' ? said : said.state;
  }

  it('has the VM that fills it paused, and says why and what helps', LIMIT, async (t) => {
    // what its boot wrote reaches the disk now, not while the other one fills it
    await host.guest('good', 'sync');
    // more than there is, and less than with the filler gone
    const room = (await spaceOf(store())).freeBytes - MIN_FREE;
    const wanted = Math.round((room + 60 * MIB) / MIB);
    writing = host.begin([
      'exec',
      'evil',
      '--',
      'sh',
      '-c',
      // the daemon's end hangs up, which a program that is left to write on may ignore
      `trap '' HUP; dd if=/dev/zero of=/root/big bs=1M count=${wanted} 2>&1; touch /written`,
    ]);
    await until('the VM is paused', async () => (await stateOf('evil')) === 'paused', 60_000);
    const { freeBytes } = await spaceOf(store());
    t.diagnostic(`${Math.round(freeBytes / MIB)} MiB are left of ${MIN_FREE / MIB}`);
    assert.ok(freeBytes > MIN_FREE / 4, `${freeBytes} bytes are left`);
    assert.equal(await vmmState('evil'), 'Paused');
    await writing.says(/evil is paused, and the command with it: .* less than storage\.min_free/);

    const why =
      /evil: It is paused since .* MiB are left in .*, less than storage\.min_free \(96 MiB\), and the disks of evil .*banger trash empty .*banger start evil/;
    const list = await host.run(['ls']);
    assert.match(list.stdout, /^evil +paused \(!\)/m);
    assert.match(list.stdout, /^good +(running|reachable) /m);
    assert.match(list.stderr, why);
    assert.match((await host.run(['stats'])).stderr, why);
    assert.match(await host.ok('show', 'evil'), /state +paused[\s\S]*problem +It is paused since/);
    assert.match(await host.ok('events'), /evil: running -> paused: .* less than storage\.min_free/);
    await host.fails(5, ['exec', 'evil', '--', 'true'], [/evil is paused: .* are left/, /banger start evil/]);
    assert.equal(await host.guest('good', 'echo here'), 'here');
  });

  it('keeps it paused over a restart of the daemon, whatever else is done to it', LIMIT, async () => {
    await host.killDaemon();
    await host.daemon();
    assert.deepEqual([await stateOf('evil'), await vmmState('evil')], ['paused', 'Paused']);
    await host.ok('rename', 'evil', 'worse');
    await host.ok('rename', 'worse', 'evil');
    await host.fails(6, ['restart', 'evil'], [/no room for a run of evil/]);
    assert.deepEqual([await stateOf('evil'), await stateOf('good')], ['paused', 'running']);
  });

  it('lets it go on when there is room, with the right time', LIMIT, async () => {
    await rm(filler());
    await until('the VM goes on', async () => (await stateOf('evil')) === 'running', 20_000);
    assert.equal(await vmmState('evil'), 'Running');
    await until('all is written', async () => (await host.guest('evil', 'ls /')).includes('written'), 60_000);
    await until(
      'its clock is right',
      async () => Math.abs(Number(await host.guest('evil', 'date +%s')) - Date.now() / 1000) < 4,
      20_000,
    );
  });

  it('lets go on by hand, and stop, one that is paused', LIMIT, async () => {
    await host.soon('evil', 'dd if=/dev/zero of=/root/more bs=1M');
    await until('the VM is paused again', async () => (await stateOf('evil')) === 'paused', 60_000);
    await host.ok('start', 'evil');
    await until('and once more, because it goes on writing', async () => (await stateOf('evil')) === 'paused', 60_000);
    await host.ok('stop', 'evil', '--timeout', '20s');
    assert.equal(await stateOf('evil'), 'stopped');
    assert.equal(await host.guest('good', 'echo here'), 'here');
    await host.ok('rm', '--now', 'evil');
    assert.ok((await spaceOf(store())).freeBytes > MIN_FREE);
  });
});
