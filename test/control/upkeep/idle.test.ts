import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import type { Host } from '../../../src/control/host.ts';
import { createIdleWatch } from '../../../src/control/upkeep/idle.ts';
import { createWaker } from '../../../src/control/vm/awaken.ts';
import { parseSubnet } from '../../../src/core/addresses.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import type { Flow } from '../../../src/network/flows.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createStores } from '../../../src/state/stores.ts';
import { readBootId } from '../../../src/system/processes.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const MINUTE = 60_000;
const READY = { ms: 1, failedUnits: [] };

/** A VM whose VMM is this process, seen at times that the test says. Its tap is missing unless it is `lo`. */
async function setUp(changes: Partial<VmRecord> = {}) {
  const stores = createStores(openDatabase(':memory:'));
  const vm = sampleVm({ phase: 'running', ready: READY, idleSuspendMs: 10 * MINUTE, ...changes });
  stores.vms.insert(vm);
  const { startTicks } = await import('../../../src/system/process-stats.ts').then(
    async ({ readProcessStats }) => (await readProcessStats(process.pid)) ?? assert.fail(),
  );
  const identity = { pid: process.pid, startTicks, bootId: await readBootId() };
  stores.ledger.record(vm.id, { kind: 'vmm', name: '/s', identity } as never);
  let nowMs = 0;
  let own = false;
  let blind = false;
  const flows: Flow[] = [];
  const warnings: string[] = [];
  const suspended: string[] = [];
  let whileSuspended = () => {};
  const host = {
    stores,
    now: () => new Date(nowMs),
    log: {
      info: () => {},
      warn: (_facts: object, text: string) => void warnings.push(text),
      error: (_facts: object, text: string) => assert.fail(text),
    },
    network: { pool: parseSubnet('172.30.0.0/16') },
    guests: { peek: () => (own ? {} : undefined) },
    operations: {
      activeOn: () => undefined,
      async finished() {
        whileSuspended();
        return { error: null };
      },
    },
  } as unknown as Host;
  const life = {
    suspend(name: string) {
      suspended.push(name);
      return { id: 'op' } as Operation;
    },
  };
  const watch = createIdleWatch(host, life, {
    flows: async () => (blind ? undefined : flows),
    packets: async () => 0,
  });
  return {
    ...{ stores, vm, flows, suspended, warnings },
    /** whether the kernel says which connections there are */
    see(does: boolean) {
      blind = !does;
    },
    login: () => {
      own = true;
    },
    /** Another VM, which is looked at first. */
    addFirst() {
      stores.vms.insert({ ...vm, id: '0000000a', name: 'a', address: '172.30.0.9' });
      stores.ledger.record('0000000a', { kind: 'vmm', name: '/a', identity } as never);
    },
    /** What comes about while a VM is being suspended. */
    meanwhile(does: () => void) {
      whileSuspended = does;
    },
    async at(minutes: number) {
      nowMs = minutes * MINUTE;
      await watch.look();
    },
  };
}

const flow = (changes: Partial<Flow>): Flow => ({
  ...{ source: '172.30.0.1', target: '172.30.0.2', protocol: 6, targetPort: 80, ended: false },
  ...changes,
});

describe('VMs that are not used', () => {
  it('are suspended, and only those that ask for it and are up', async () => {
    const idle = await setUp();
    await idle.at(0);
    await idle.at(9);
    assert.deepEqual(idle.suspended, []);
    await idle.at(10);
    assert.deepEqual(idle.suspended, ['web']);
    for (const other of [{ idleSuspendMs: 0 }, { ready: null }, { paused: { at: '', why: '', until: '' } }]) {
      const { at, suspended } = await setUp(other);
      await at(0);
      await at(60);
      assert.deepEqual(suspended, [], JSON.stringify(other));
    }
  });

  it('are used by connections that are open, whoever began them, but not by what the daemon keeps open', async () => {
    const used: Partial<Flow>[] = [
      {},
      { source: '172.30.0.2', target: '192.0.2.1' },
      { source: '172.30.0.9', protocol: 17 },
      { targetPort: 22 },
    ];
    for (const each of used) {
      const { at, flows, suspended } = await setUp();
      flows.push(flow(each));
      await at(0);
      await at(60);
      assert.deepEqual(suspended, [], JSON.stringify(each));
    }
    const unused: Partial<Flow>[] = [
      { ended: true },
      { target: '172.30.0.7' },
      // names and the time, asked for by the guest
      { source: '172.30.0.2', target: '192.0.2.1', protocol: 17, targetPort: 53 },
    ];
    const { at, flows, suspended, login } = await setUp();
    login();
    flows.push(...unused.map(flow), flow({ targetPort: 22 }));
    await at(0);
    await at(60);
    assert.deepEqual(suspended, ['web']);
  });

  it('are not suspended at a look that does not see connections, where others do', async () => {
    const { at, flows, suspended, see, warnings } = await setUp();
    // a request that is answered some time, without a byte until then
    flows.push(flow({}));
    await at(0);
    see(false);
    for (const minutes of [10, 20, 60]) await at(minutes);
    assert.deepEqual([suspended, warnings.length], [[], 1]);
    see(true);
    await at(61);
    assert.deepEqual(suspended, []);
    flows.pop();
    await at(70);
    await at(71);
    assert.deepEqual(suspended, ['web']);
  });

  it('are judged by their packets where connections are never seen', async () => {
    const { at, suspended, see, warnings } = await setUp();
    see(false);
    await at(0);
    await at(10);
    assert.deepEqual([suspended, warnings], [['web'], []]);
  });

  it('are judged by what is known when it is their turn: those before them take their time', async () => {
    const meanwhile: Record<string, (idle: Awaited<ReturnType<typeof setUp>>) => void> = {
      'somebody connects': ({ flows }) => void flows.push(flow({})),
      'it is to stay awake': ({ stores, vm }) =>
        void stores.vms.update(vm.id, { awakeUntil: new Date(60 * MINUTE).toISOString() }),
      'it is not suspended when idle any more': ({ stores, vm }) => void stores.vms.update(vm.id, { idleSuspendMs: 0 }),
      'somebody stops it': ({ stores, vm }) => void stores.vms.update(vm.id, { phase: 'stopped' }),
      'it is deleted': ({ stores, vm }) => void stores.vms.remove(vm.id),
      'connections cannot be seen any more': ({ see }) => see(false),
      'a command runs': ({ stores, vm }) => void stores.sessions.begin(vm.id),
    };
    for (const [what, does] of Object.entries(meanwhile)) {
      const idle = await setUp();
      idle.addFirst();
      idle.meanwhile(() => {
        assert.deepEqual(idle.suspended, ['a'], what);
        does(idle);
      });
      await idle.at(0);
      await idle.at(10);
      assert.deepEqual(idle.suspended, ['a'], what);
    }
    const renamed = await setUp();
    renamed.addFirst();
    renamed.meanwhile(() => void renamed.stores.vms.update(renamed.vm.id, { name: 'other' }));
    await renamed.at(0);
    await renamed.at(10);
    assert.deepEqual(renamed.suspended, ['a', 'other']);
  });

  it('are used by commands through the daemon', async () => {
    const { at, stores, vm, suspended } = await setUp();
    const session = stores.sessions.begin(vm.id);
    await at(0);
    await at(60);
    session[Symbol.dispose]();
    session[Symbol.dispose]();
    await at(69);
    assert.deepEqual(suspended, []);
    // one that is over before the next look
    stores.sessions.begin(vm.id)[Symbol.dispose]();
    await at(70);
    await at(79);
    assert.deepEqual(suspended, []);
    await at(80);
    assert.deepEqual(suspended, ['web']);
  });
});

describe('a VM whose name is asked for', () => {
  it('goes on once, however many ask', async () => {
    const { stores } = await setUp({ phase: 'suspended' });
    const { promise, resolve } = Promise.withResolvers<void>();
    const resumed: string[] = [];
    const host = {
      stores,
      log: { info: () => {}, warn: () => {}, error: () => {} },
      operations: {
        activeOn: () => undefined,
        finished: async () => promise.then(() => ({ kind: 'vm.resume', error: null })),
      },
    } as unknown as Host;
    const wake = createWaker(host, {
      resume(name) {
        resumed.push(name);
        return { id: 'op' } as Operation;
      },
    });
    for (let query = 0; query < 100; query++) wake('web');
    wake('unknown');
    stores.vms.update(sampleVm().id, { phase: 'running' });
    resolve();
    await new Promise(setImmediate);
    assert.deepEqual(resumed, ['web']);
  });
});
