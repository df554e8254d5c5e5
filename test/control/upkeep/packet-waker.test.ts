import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Host } from '../../../src/control/host.ts';
import { createPacketWaker } from '../../../src/control/upkeep/packet-waker.ts';
import { parseSubnet } from '../../../src/core/addresses.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import { goneOn, resuming, stopped, suspended } from '../../../src/core/vm-changes.ts';
import { BangerError } from '../../../src/errors.ts';
import type { SleepDeviceOptions } from '../../../src/network/sleep-device.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { HOST_OWNER } from '../../../src/state/ledger.ts';
import { createStores } from '../../../src/state/stores.ts';
import { createMutex } from '../../../src/system/mutex.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const MEMORY = { id: 'm', at: '2026-11-30T00:00:00.000Z', bytes: 1, spentOn: null };
const NAME = 'bgr-0badcafe';

function syn(target: string, source = '172.30.0.1', flags = 2): Buffer {
  const bytes = Buffer.alloc(40);
  bytes.writeUInt8(0x45, 0);
  bytes.writeUInt16BE(40, 2);
  bytes.writeUInt8(6, 9);
  bytes.set(source.split('.').map(Number), 12);
  bytes.set(target.split('.').map(Number), 16);
  bytes.writeUInt8(flags, 33);
  return bytes;
}

/** VMs that sleep, and a device that is a list of what it was told. */
async function setUp({ vmToVm = false, fails = false } = {}) {
  const stores = createStores(openDatabase(':memory:'));
  const make = (change: Partial<VmRecord>) => {
    const vm = sampleVm({ idleSuspendMs: 600_000, phase: 'suspended', memory: MEMORY, ...change });
    stores.vms.insert(vm);
    return vm;
  };
  const web = make({});
  const mutex = createMutex();
  const told: string[] = [];
  const resumed: string[] = [];
  let other: { id: string; kind: string } | undefined;
  let endOther = () => {};
  let options: SleepDeviceOptions | undefined;
  let let_go = Promise.withResolvers<void>();
  const host = {
    stores,
    config: { network: { vmToVm }, programs: {} },
    log: { info: () => {}, warn: () => {}, error: () => {} },
    network: {
      pool: parseSubnet('172.30.0.0/16'),
      alone: (work: Parameters<Host['network']['alone']>[0]) =>
        mutex.run(() => work(async () => void told.push(stores.ledger.of(HOST_OWNER).length > 0 ? 'wall' : 'no wall'))),
    },
    operations: {
      activeOn: () => other,
      async finished(id: string) {
        if (id === other?.id) {
          await new Promise<void>((resolve) => {
            endOther = resolve;
          });
          other = undefined;
          return { kind: 'snapshot.export', error: null };
        }
        await let_go.promise;
        if (fails) return { kind: 'vm.resume', error: { code: 'conflict', message: 'no memory' } };
        stores.vms.update(web.id, goneOn({ at: new Date(), vmm: 'fcqemu' }));
        return { kind: 'vm.resume', error: null };
      },
    },
    system: {},
  } as unknown as Host;
  const life = {
    resume(name: string) {
      resumed.push(name);
      stores.vms.update(web.id, resuming());
      return { id: 'op' } as never;
    },
  };
  const waker = createPacketWaker(host, life, {
    name: NAME,
    ownAddresses: () => ['172.30.0.1', '10.0.0.5'],
    async open(given) {
      told.push('open');
      options = given;
      return {
        async lead(addresses, kept = []) {
          told.push(`lead ${addresses.join(' ')}${kept.length > 0 ? `, keep ${kept.join(' ')}` : ''}`);
        },
        passOn: (packet) => void told.push(`pass on to ${[...packet.subarray(16, 20)].join('.')}`),
        [Symbol.dispose]: () => void told.push('close'),
      };
    },
  });
  const settle = async () => {
    for (let turn = 0; turn < 20; turn++) await setImmediate();
  };
  waker.begin();
  await settle();
  return {
    ...{ stores, web, make, told, resumed, waker, settle },
    packet: async (...words: Parameters<typeof syn>) => {
      options?.onPacket(syn(...words));
      await settle();
    },
    lose: async () => {
      options?.onLost(new BangerError('internal', 'gone'));
      await settle();
    },
    /** Something else works on it. @returns what ends that */
    occupy() {
      other = { id: 'other', kind: 'snapshot.export' };
      return async () => {
        endOther();
        await settle();
      };
    },
    async letGo() {
      let_go.resolve();
      await settle();
      let_go = Promise.withResolvers<void>();
    },
  };
}

describe('a VM that sleeps until it is wanted', () => {
  it('goes on at the first packet of a connection, which is sent on when it is up', async () => {
    const { stores, web, told, resumed, packet, letGo } = await setUp();
    // nobody gets there before the rules say who may
    assert.deepEqual(told.splice(0), ['wall', 'open', `lead ${web.address}`]);
    assert.equal(stores.ledger.of(HOST_OWNER)[0]?.name, NAME);
    for (let again = 0; again < 100; again++) await packet(web.address);
    assert.deepEqual([resumed, told.filter((each) => !each.startsWith('lead'))], [['web'], []]);
    told.length = 0;
    await letGo();
    // no more than are held, and the device goes after them
    assert.deepEqual(told, [...Array.from({ length: 32 }, () => `pass on to ${web.address}`), 'close', 'no wall']);
    assert.deepEqual(stores.ledger.of(HOST_OWNER), []);
  });

  it('sleeps on for packets that begin nothing, and for strangers', async () => {
    for (const vmToVm of [false, true]) {
      const { web, make, resumed, packet } = await setUp({ vmToVm });
      const other = make({ id: '0000beef', name: 'other', address: '172.30.0.77', phase: 'running', memory: null });
      await packet(web.address, '172.30.0.1', 0b10000);
      await packet(web.address, '192.0.2.1');
      await packet('172.30.0.200');
      assert.deepEqual(resumed, []);
      await packet(web.address, other.address);
      assert.deepEqual(resumed, vmToVm ? ['web'] : []);
    }
  });

  it('that cannot go on is left alone for a while', async () => {
    const { stores, web, told, resumed, packet, letGo } = await setUp({ fails: true });
    await packet(web.address);
    stores.vms.update(web.id, suspended(MEMORY));
    await letGo();
    await packet(web.address);
    assert.deepEqual(resumed, ['web']);
    assert.ok(!told.some((each) => each.startsWith('pass on')));
  });

  it('goes on when another operation is over that is at work on it, with the packets from before', async () => {
    const { web, told, resumed, packet, letGo, occupy } = await setUp();
    const end = occupy();
    for (let again = 0; again < 3; again++) await packet(web.address);
    assert.deepEqual(resumed, []);
    await end();
    assert.deepEqual(resumed, ['web']);
    told.length = 0;
    await letGo();
    assert.deepEqual(told, [...Array.from({ length: 3 }, () => `pass on to ${web.address}`), 'close', 'no wall']);
  });

  it('that was stopped meanwhile gets no packet, and may be wanted again at once', async () => {
    const { stores, web, told, resumed, packet, occupy } = await setUp();
    const end = occupy();
    await packet(web.address);
    stores.vms.update(web.id, stopped());
    await end();
    assert.ok(!told.some((each) => each.startsWith('pass on')));
    assert.deepEqual(resumed, []);
    stores.vms.update(web.id, suspended(MEMORY));
    await packet(web.address);
    assert.deepEqual(resumed, ['web']);
  });

  it('is led there as long as it sleeps, and nobody else is', async () => {
    const { stores, web, make, told, settle, waker } = await setUp();
    told.length = 0;
    const other = make({ id: '0000beef', name: 'other', address: '172.30.0.77' });
    make({ id: '0000cafe', name: 'by-hand', address: '172.30.0.78', idleSuspendMs: 0 });
    await settle();
    assert.equal(told.at(-1), `lead ${other.address} ${web.address}`);
    stores.vms.update(web.id, resuming());
    await settle();
    assert.equal(told.at(-1), `lead ${other.address}, keep ${web.address}`);
    stores.vms.update(other.id, { idleSuspendMs: 0 });
    stores.vms.update(web.id, goneOn({ at: new Date(), vmm: 'fcqemu' }));
    await settle();
    assert.deepEqual(told.slice(-2), ['close', 'no wall']);
    stores.vms.update(web.id, suspended(MEMORY));
    await settle();
    assert.deepEqual(told.slice(-3), ['wall', 'open', `lead ${web.address}`]);
    await waker.close();
    assert.deepEqual(told.slice(-2), ['close', 'no wall']);
  });
});
