import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { formatSubnet, poolCandidates } from '../../src/core/addresses.ts';
import { createPoolClaim, type DecidedPool, decidePool, isStranger, type PoolChoice } from '../../src/daemon/pool.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createSettings } from '../../src/state/settings.ts';
import type { Runner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

/** The place in the list at which two bangers meet; by process, because tests run side by side. */
const INSTANCE = process.pid;

async function choice(t: TestContext, pool = 'auto'): Promise<PoolChoice> {
  const home = await tempDir(t);
  const env = { PATH: process.env.PATH, BANGER_HOME: home, BANGER_NETWORK_POOL: pool };
  const { config } = await loadConfig({ env, uid: 0, arch: 'x64' });
  const database = openDatabase(join(home, 'banger.db'));
  t.after(() => database.close());
  const noRoutes = { run: async () => ({ stdout: '[]', stderr: '', exitCode: 0 }) } as unknown as Runner;
  const settings = createSettings(database);
  return { config, settings, runner: noRoutes, instance: INSTANCE, vmCount: 0, ownRoutes: [] };
}

async function decide(t: TestContext, chosen: PoolChoice): Promise<{ decided: DecidedPool; pool: string }> {
  const decided = await decidePool(chosen);
  t.after(() => decided.claim.release());
  return { decided, pool: formatSubnet(decided.pool) };
}

describe('the pools of two bangers side by side', () => {
  it('are never the same, although neither has a route yet', async (t) => {
    const [first, second] = await Promise.all([choice(t), choice(t)]);
    const pools = [(await decide(t, first)).pool, (await decide(t, second)).pool];
    // other bangers of this machine have some of them, too
    const places = pools.map((pool) => poolCandidates(INSTANCE).map(formatSubnet).indexOf(pool));
    assert.ok(places[0] !== undefined && places[1] !== undefined && places[0] >= 0, `${pools}`);
    assert.ok(places[1] > places[0], `${pools}`);
  });

  it('belong to the first that took it, until that is gone', async () => {
    const [ours, theirs] = [createPoolClaim('10.1.0.0/16'), createPoolClaim('10.1.0.0/16')];
    assert.deepEqual([await ours.hold(), await ours.hold(), await theirs.hold()], [true, true, false]);
    ours.release();
    assert.equal(await theirs.hold(), true);
    theirs.release();
  });

  it('stay what the configuration or VMs ask for, and are known not to be held', async (t) => {
    const { pool } = await decide(t, await choice(t, '10.99.0.0/16'));
    assert.equal(pool, '10.99.0.0/16');
    const second = await decide(t, await choice(t, '10.99.0.0/16'));
    assert.deepEqual([second.pool, await second.decided.claim.hold()], ['10.99.0.0/16', false]);

    const withVms = await choice(t);
    withVms.settings.set('network.pool', '10.99.0.0/16');
    const kept = await decide(t, { ...withVms, vmCount: 1 });
    assert.deepEqual([kept.pool, await kept.decided.claim.hold()], ['10.99.0.0/16', false]);
    const free = await decide(t, withVms);
    assert.notEqual(free.pool, '10.99.0.0/16');
  });

  it('stay where a daemon died whose routes are still there, and not where they are of somebody else', async (t) => {
    const left = JSON.stringify([
      { type: 'unreachable', dst: '10.98.0.0/16' },
      { dst: '10.98.255.254', dev: 'bgr-00000000' },
    ]);
    const runner = { run: async () => ({ stdout: left, stderr: '', exitCode: 0 }) } as unknown as Runner;
    const again = { ...(await choice(t)), runner };
    again.settings.set('network.pool', '10.98.0.0/16');
    assert.notEqual((await decide(t, again)).pool, '10.98.0.0/16');
    again.settings.set('network.pool', '10.98.0.0/16');
    assert.equal((await decide(t, { ...again, ownRoutes: ['10.98.0.0/16'] })).pool, '10.98.0.0/16');
    const network = JSON.stringify([{ dst: '10.98.7.0/24', dev: 'tun0' }]);
    const taken = { run: async () => ({ stdout: network, stderr: '', exitCode: 0 }) } as unknown as Runner;
    const after = await decide(t, { ...again, runner: taken, ownRoutes: ['10.98.0.0/16'] });
    assert.notEqual(after.pool, '10.98.0.0/16', 'the host was started again, and a VPN came first');
  });
});

describe('the pool beside a VPN', () => {
  const withRoutes = (routes: object[]) =>
    ({ run: async () => ({ stdout: JSON.stringify(routes), stderr: '', exitCode: 0 }) }) as unknown as Runner;

  /** What is decided for who had a range before, and has no VMs. */
  async function decideBeside(t: TestContext, routes: object[]): Promise<string> {
    const chosen = { ...(await choice(t)), runner: withRoutes(routes) };
    chosen.settings.set('network.pool', '10.95.0.0/16');
    return (await decide(t, chosen)).pool;
  }

  it('stays where the default route is in pieces, which lead to everything', async (t) => {
    const halves = ['0.0.0.0/1', '128.0.0.0/1'].map((dst) => ({ dst, gateway: '10.8.0.1', dev: 'tun0' }));
    assert.equal(await decideBeside(t, halves), '10.95.0.0/16');
  });

  it('is another one where a network has it', async (t) => {
    for (const dst of ['10.95.7.0/24', '10.64.0.0/10', '10.0.0.0/9'])
      assert.notEqual(await decideBeside(t, [{ dst, dev: 'tun0' }]), '10.95.0.0/16', dst);
  });

  it('is another one where a table of its own leads to the network, which banger’s rule would come before', async (t) => {
    const network = { dst: '10.95.0.0/16', dev: 'tailscale0', table: '52' };
    assert.notEqual(await decideBeside(t, [network]), '10.95.0.0/16');
    // what a table leaves to the next ones, addresses of the host, and what leads to everything
    const others = [
      { type: 'throw', dst: '10.95.0.0/16', table: '52' },
      { type: 'local', dst: '10.95.0.1', dev: 'eth0', table: 'local' },
      { type: 'broadcast', dst: '10.95.255.255', dev: 'eth0', table: 'local' },
      { dst: 'default', dev: 'wg0', table: '51820' },
    ];
    assert.equal(await decideBeside(t, others), '10.95.0.0/16');
  });
});

/** Takes names as a user who is neither root nor this one, and keeps them. */
const SQUAT = `
  process.setgid(65534);
  process.setuid(65534);
  const { createServer } = require('node:net');
  let left = process.argv.length - 1;
  for (const name of process.argv.slice(1))
    createServer().on('error', () => here()).listen('\\0banger-pool ' + name, () => here());
  // what others of this machine have is taken, too
  function here() { if (--left === 0) console.log('here'); }
`;

describe('names of pools that another user has taken', {
  skip: process.getuid?.() !== 0 && 'another user takes root',
}, () => {
  async function squat(t: TestContext, pools: readonly string[]): Promise<number> {
    const child = spawn(process.execPath, ['--eval', SQUAT, ...pools], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    return child.pid ?? 0;
  }

  it('are told with their process and user', async (t) => {
    const pid = await squat(t, ['10.97.0.0/16']);
    const claim = createPoolClaim('10.97.0.0/16');
    assert.equal(await claim.hold(), false);
    assert.deepEqual(await claim.holder(), { pid, uid: 65_534 });
    assert.ok(isStranger(await claim.holder()));
    const own = createPoolClaim('10.96.0.0/16');
    t.after(() => own.release());
    await own.hold();
    const holder = await createPoolClaim('10.96.0.0/16').holder();
    assert.deepEqual([holder?.pid, isStranger(holder)], [process.pid, false]);
  });

  it('are left to them where there are others, and shut nobody out where there are none', async (t) => {
    const candidates = poolCandidates(INSTANCE).map(formatSubnet);
    await squat(t, candidates.slice(0, 3));
    assert.ok(candidates.indexOf((await decide(t, await choice(t))).pool) >= 3);
    await squat(t, candidates.slice(3));
    const { decided } = await decide(t, await choice(t));
    assert.equal(await decided.claim.hold(), false);
    assert.equal((await decided.claim.holder())?.uid, 65_534);
  });
});
