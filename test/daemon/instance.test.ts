import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, mkdir, rename, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { resolvePaths } from '../../src/config/paths.ts';
import { decideInstance, type Instance } from '../../src/daemon/instance.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createLedger, type Ledger } from '../../src/state/ledger.ts';
import { createSettings } from '../../src/state/settings.ts';
import { tempDir } from '../support/temp-dir.ts';

const UID = 1000;
const ROUTE = { kind: 'pool-route', name: '10.130.0.0/16' } as const;

/** A start of the daemon with that `BANGER_HOME`, and what it does to its ledger. */
async function start(home: string, work: (ledger: Ledger) => void = () => {}): Promise<Instance> {
  const { state } = resolvePaths({ HOME: '/nowhere', BANGER_HOME: home }, UID);
  await mkdir(state, { recursive: true });
  const database = openDatabase(join(state, 'banger.db'));
  try {
    const ledger = createLedger(database);
    const instance = await decideInstance({ home, uid: UID, state, settings: createSettings(database), ledger });
    work(ledger);
    return instance;
  } finally {
    database.close();
  }
}

const vmStarts = (ledger: Ledger) => ledger.record('host', ROUTE);
const vmStops = (ledger: Ledger) => ledger.strike(ROUTE.kind, ROUTE.name);

const digitsOf = (home: string) => createHash('sha256').update(home).digest('hex').slice(0, 8);

async function homes(t: TestContext): Promise<{ home: string; other: string }> {
  const dir = await tempDir(t);
  return { home: join(dir, 'a'), other: join(dir, 'b') };
}

describe('which banger it is', () => {
  it('is said by its home, as it was named from the beginning', async (t) => {
    const { home } = await homes(t);
    const instance = await start(home);
    const name = digitsOf(home);
    assert.deepEqual(instance, { name, number: Number.parseInt(name, 16), table: `banger_u1000_${name}` });
  });

  it('does not depend on how the home is written', async (t) => {
    const { home, other } = await homes(t);
    await mkdir(home);
    await symlink(home, other);
    const first = await start(home, vmStarts);
    for (const spelling of [`${home}/`, other, `${other}/`, join(home, '..', 'a'), `${home}/../a`, `${home}//.`])
      assert.deepEqual(await start(spelling), first, spelling);
    await start(other, vmStops);
    for (const spelling of [`${home}/`, other]) assert.deepEqual(await start(spelling), first, spelling);
  });

  it('stays while VMs of a home that was moved have something on the host', async (t) => {
    const { home, other } = await homes(t);
    const first = await start(home, vmStarts);
    await rename(home, other);
    assert.deepEqual(await start(other), first);
    await mkdir(join(home, 'state'), { recursive: true }); // somebody makes another one there
    assert.deepEqual(await start(other, vmStops), first);
    assert.equal((await start(other)).name, digitsOf(other));
  });

  it('is another for a copy, while the original goes on under its own', async (t) => {
    const { home, other } = await homes(t);
    const first = await start(home, vmStarts);
    await cp(home, other, { recursive: true });
    assert.equal((await start(other)).name, digitsOf(other));
    assert.deepEqual(await start(home), first);
    assert.equal((await start(other)).name, digitsOf(other), 'it stays that');
  });

  it('stays what an earlier banger took it for while that has VMs', async (t) => {
    const { home } = await homes(t);
    const state = join(home, 'state');
    await mkdir(state, { recursive: true });
    const database = openDatabase(join(state, 'banger.db'));
    vmStarts(createLedger(database));
    database.close();
    assert.equal((await start(`${home}/`)).name, digitsOf(`${home}/`));
    assert.equal((await start(home, vmStops)).name, digitsOf(`${home}/`), 'it is remembered');
    assert.equal((await start(`${home}/`)).name, digitsOf(home));
  });

  it('is the usual one of its user without a home', async (t) => {
    const state = await tempDir(t);
    const database = openDatabase(':memory:');
    t.after(() => database.close());
    const stores = { settings: createSettings(database), ledger: createLedger(database) };
    const instance = await decideInstance({ home: undefined, uid: 0, state, ...stores });
    assert.deepEqual(instance, { name: '', number: undefined, table: 'banger' });
  });
});
