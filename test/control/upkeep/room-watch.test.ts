import assert from 'node:assert/strict';
import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import { createOperations } from '../../../src/control/operations.ts';
import { createRoomWatch } from '../../../src/control/upkeep/room-watch.ts';
import { pauseVm } from '../../../src/control/vm/pause.ts';
import { problemOf } from '../../../src/control/vm/problem.ts';
import { shownState } from '../../../src/core/vm.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createOperationStore } from '../../../src/state/operations.ts';
import { createStores } from '../../../src/state/stores.ts';
import { vmFiles, vmmSocket } from '../../../src/storage/layout.ts';
import { type FakeVmm, startFakeVmm } from '../../support/fake-vmm.ts';
import { hostSystem } from '../../support/host-system.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

const MIB = 2 ** 20;
const MIN_FREE = 64 * MIB;

/** VMs that run, in a store whose room is what the test says. */
async function setUp(t: TestContext, names: readonly string[], minFreeBytes = MIN_FREE) {
  const home = await tempDir(t);
  const { config: loaded } = await loadConfig({ env: { HOME: home, BANGER_HOME: home }, uid: 0 });
  const config = { ...loaded, storage: { ...loaded.storage, minFreeBytes } };
  const database = openDatabase(':memory:');
  const stores = createStores(database);
  const now = () => new Date();
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  const operations = createOperations(createOperationStore(database), now);
  const health = { silent: new Set<string>(), emulatedMeanwhile: new Set<string>(), processes: new Map() };
  const host = { config, stores, system: hostSystem(), operations, log, now, health };
  await mkdir(join(config.paths.run, 'vmm'), { recursive: true });
  const vmms = new Map<string, FakeVmm>();
  for (const [at, name] of names.entries()) {
    const id = `0000000${at}`;
    const files = vmFiles(config.paths.store, id);
    await mkdir(files.directory, { recursive: true });
    await writeFile(files.rootDisk, '');
    stores.vms.insert(sampleVm({ id, name, address: `172.30.0.${at + 2}`, phase: 'running' }));
    const socketPath = vmmSocket(config.paths.run, id);
    const vmm = await startFakeVmm({ argv: ['vmm', '--api-sock', socketPath, '--log-path', files.vmmLog] });
    vmm.state = 'Running';
    vmms.set(name, vmm);
  }
  const room = { free: 1024 * MIB, looks: [] as string[], onLook: () => {} };
  const watch = createRoomWatch(host, async (place) => {
    room.looks.push(place);
    room.onLook();
    return room.free;
  });
  t.after(async () => {
    watch.close();
    for (const vmm of vmms.values()) await vmm.die();
    database.close();
  });
  const vm = (name: string) => stores.vms.get(name);
  return {
    ...{ host, watch, room, vm, vmms },
    states: () => stores.vms.list().map((each) => `${each.name} ${shownState(each)} ${vmms.get(each.name)?.state}`),
    /** Its guest writes to its disk, and the room is less. */
    async write(name: string, bytes: number) {
      await appendFile(vmFiles(config.paths.store, vm(name).id).rootDisk, Buffer.alloc(bytes, 1));
      room.free -= bytes;
    },
  };
}

describe('room for disks', () => {
  it('that gets short has the VM paused that takes it, and no other', async (t) => {
    const { host, watch, room, write, states, vm } = await setUp(t, ['evil', 'good', 'idle']);
    room.free = 100 * MIB;
    await watch.look();
    await Promise.all([write('evil', 40 * MIB), write('good', 4096)]);
    await watch.look();
    assert.deepEqual(states(), ['evil paused Paused', 'good running Running', 'idle running Running']);
    const problem = await problemOf(host, vm('evil'));
    assert.match(
      problem ?? '',
      /^It is paused since \S+: 60 MiB are left in \/.*, less than storage\.min_free \(64 MiB\), and the disks of evil were the ones that grew, by 40 MiB\. It goes on when 80 MiB are free\. .*banger trash empty.* banger start evil$/,
    );
  });

  it('that gets short while a VM comes up has it paused when it runs by then, and its start is not cut off', async (t) => {
    const { host, watch, room, write, states, vm } = await setUp(t, ['evil']);
    host.stores.vms.update(vm('evil').id, { phase: 'starting' });
    const up = Promise.withResolvers<void>();
    const { id } = host.operations.start({
      ...{ kind: 'vm.start', target: 'evil' },
      async run(_progress, signal) {
        await up.promise;
        signal.throwIfAborted();
      },
    });
    room.free = 100 * MIB;
    await watch.look();
    await write('evil', 40 * MIB);
    room.onLook = () => void host.stores.vms.update(vm('evil').id, { phase: 'running' });
    await watch.look();
    up.resolve();
    assert.equal((await host.operations.finished(id)).state, 'succeeded');
    assert.deepEqual(states(), ['evil paused Paused']);
  });

  it('that others take, not VMs, pauses none', async (t) => {
    const { watch, room, states } = await setUp(t, ['a', 'b']);
    for (const free of [100, 50, 40, 10, 1]) {
      room.free = free * MIB;
      await watch.look();
    }
    assert.deepEqual(states(), ['a running Running', 'b running Running']);
  });

  it('pauses one VM after the other as each takes much of what is left', async (t) => {
    const { watch, room, write, states } = await setUp(t, ['a', 'b', 'c']);
    room.free = 70 * MIB;
    await watch.look();
    await Promise.all([write('a', 8 * MIB), write('b', 4 * MIB)]);
    await watch.look();
    assert.deepEqual(states(), ['a paused Paused', 'b running Running', 'c running Running']);
    await watch.look();
    assert.deepEqual(states()[1], 'b running Running', 'what it took before was not too much');
    await write('b', 2 * MIB);
    await watch.look();
    assert.deepEqual(states(), ['a paused Paused', 'b paused Paused', 'c running Running']);
    // the less is left, the less it takes
    room.free = 4 * MIB;
    await write('c', MIB / 4);
    await watch.look();
    assert.deepEqual(states()[2], 'c paused Paused');
  });

  it('pauses one that takes little at a time, once that is much', async (t) => {
    const { watch, room, write, states } = await setUp(t, ['slow']);
    room.free = 64 * MIB - 1;
    for (let looks = 0; looks < 5; looks++) {
      await watch.look();
      assert.deepEqual(states(), ['slow running Running']);
      await write('slow', 400 * 1024);
    }
    await watch.look();
    assert.deepEqual(states(), ['slow paused Paused']);
  });

  it('lets VMs go on when there is room again and some more, the first one first', async (t) => {
    const { host, watch, room, states, vm } = await setUp(t, ['a', 'b']);
    room.free = MIB;
    await pauseVm(host, vm('b'), { at: '2026-11-29T10:00:00.000Z', why: 'no room.', until: '' });
    await pauseVm(host, vm('a'), { at: '2026-11-29T10:00:01.000Z', why: 'no room.', until: '' });
    await watch.look();
    room.free = 79 * MIB;
    await watch.look();
    assert.deepEqual(states(), ['a paused Paused', 'b paused Paused'], 'not at once above the limit');
    room.free = 80 * MIB;
    await watch.look();
    assert.deepEqual(states(), ['a paused Paused', 'b running Running']);
    await watch.look();
    assert.deepEqual(states(), ['a running Running', 'b running Running']);
  });

  it('is the least of all file systems that the store takes room of', async (t) => {
    const { host, watch, room } = await setUp(t, ['a']);
    host.stores.ledger.record('host', { kind: 'store-image', name: '/elsewhere/store.xfs', state: 'mounted' });
    host.stores.vms.update(host.stores.vms.get('a').id, { nat: false });
    await watch.look();
    assert.deepEqual(room.looks, [host.config.paths.store, '/elsewhere']);
  });

  it('is not looked at while no VM runs, and never without a limit', async (t) => {
    const { host, watch, room, vm } = await setUp(t, ['a']);
    host.stores.vms.update(vm('a').id, { phase: 'stopped' });
    await watch.look();
    const unlimited = await setUp(t, ['a'], 0);
    await unlimited.watch.look();
    assert.deepEqual([room.looks, unlimited.room.looks], [[], []]);
  });

  it('is looked at less often where the fastest guest could not use it up, and at once after a change', async (t) => {
    const { host, watch, room, vm } = await setUp(t, ['a']);
    room.free = 100 * 1024 * MIB;
    for (let round = 0; round < 3; round++) await watch.look();
    const once = room.looks.length;
    assert.ok(once > 0);
    host.stores.vms.update(vm('a').id, { workDiskMount: '/srv' });
    await watch.look();
    assert.equal(room.looks.length, 2 * once);
    const narrow = await setUp(t, ['a']);
    narrow.room.free = 10 * 1024 * MIB;
    for (let round = 0; round < 3; round++) await narrow.watch.look();
    assert.equal(narrow.room.looks.length, 3 * once, 'three times');
  });

  it('ends a start and a stop that take it, with the reason', async (t) => {
    const { host, watch, room, write, vm } = await setUp(t, ['a', 'b']);
    room.free = 70 * MIB;
    host.stores.vms.update(vm('a').id, { phase: 'starting' });
    const { id } = host.operations.start({
      ...{ kind: 'vm.start', target: 'a' },
      run: (_, signal) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    });
    await watch.look();
    await write('a', 20 * MIB);
    await watch.look();
    const { state, error } = await host.operations.finished(id);
    assert.equal(state, 'failed');
    assert.match(error?.message ?? '', /^The start of a was cut off: 50 MiB are left/);
    assert.equal(vm('a').paused, null);
  });

  it('is looked at again and again by itself while it shrinks', async (t) => {
    const { watch, room, write, states } = await setUp(t, ['a']);
    room.free = 100 * MIB;
    await watch.look();
    await write('a', 50 * MIB);
    const deadline = Date.now() + 20_000;
    while (!states()[0]?.includes('Paused') && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 20));
    assert.deepEqual(states(), ['a paused Paused']);
  });

  it('leaves a VM as it was whose VMM does not let itself be paused', async (t) => {
    const { watch, room, write, states, vmms } = await setUp(t, ['a', 'b']);
    room.free = 70 * MIB;
    await watch.look();
    await vmms.get('a')?.die();
    await write('a', 20 * MIB);
    await watch.look();
    assert.equal(states()[0]?.startsWith('a running'), true);
    await write('b', 20 * MIB);
    await watch.look();
    assert.equal(states()[1], 'b paused Paused');
  });
});

describe('a pause', () => {
  const why = { at: '2026-11-29T10:00:00.000Z', why: 'no room.', until: '' };

  it('that comes while the VM is stopped is taken back', async (t) => {
    const { host, vm, vmms } = await setUp(t, ['a']);
    const pausing = pauseVm(host, vm('a'), why);
    host.stores.vms.update(vm('a').id, { phase: 'stopping' });
    assert.equal(await pausing, false);
    assert.equal(vmms.get('a')?.state, 'Running');
  });

  it('of one that does not run is none', async (t) => {
    const { host, vm, vmms } = await setUp(t, ['a']);
    host.stores.vms.update(vm('a').id, { phase: 'stopped' });
    assert.equal(await pauseVm(host, vm('a'), why), false);
    assert.equal(vm('a').paused, null);
    assert.equal(vmms.get('a')?.state, 'Running');
  });
});
