import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { formatSubnet, poolCandidates } from '../../src/core/addresses.ts';
import { createPoolClaim, type DecidedPool, decidePool, type PoolChoice } from '../../src/daemon/pool.ts';
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
    const [best, next] = poolCandidates(INSTANCE).map(formatSubnet);
    assert.deepEqual(pools, [best, next]);
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
