import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { parseSubnet } from '../../src/core/addresses.ts';
import type { HelperRequest } from '../../src/network/helper-protocol.ts';
import { attach, detach, OTHER_POOL, POOL, rules, SmallHost, scope, vmAt } from './support/small-host.ts';

const ANNA = 1000;
const BERT = 1001;
const [web, db] = [vmAt(1), vmAt(2)];

describe('what the network helper does for a user', () => {
  it('is a device that is the user’s, behind rules of a table that is the user’s', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    await helper.handle(ANNA, { op: 'pool-route', ...scope(), wanted: true });
    await helper.handle(ANNA, attach([web]));
    assert.deepEqual(host.done, [
      `route ${POOL}`,
      'rules banger_u1000 bgr-00000001',
      'tap bgr-00000001 172.30.0.2 1000',
    ]);
    const { guestDns, vmToVm } = host.tables.get('banger_u1000') ?? {};
    assert.deepEqual({ guestDns, vmToVm }, { guestDns: { gateway: '172.30.0.1', port: 42_053 }, vmToVm: true });

    await helper.handle(ANNA, { op: 'set-up', ...scope(), vm: web.vm, mtu: 1400 });
    await helper.handle(ANNA, { op: 'forwarding', ...scope(), device: 'bgr-00000001', value: '1' });
    await helper.handle(ANNA, detach(web.vm, []));
    await helper.handle(ANNA, { op: 'pool-route', ...scope(), wanted: false });
    assert.deepEqual([...host.taps, ...host.tables, ...host.pools], []);
  });

  it('is apart for each home of a user', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    await helper.handle(ANNA, attach([web]));
    const other = vmAt(7, OTHER_POOL);
    await helper.handle(ANNA, { ...attach([other], OTHER_POOL), instance: '0a1b2c3d' } as HelperRequest);
    assert.deepEqual([...host.tables.keys()], ['banger_u1000', 'banger_u1000_0a1b2c3d']);
    await assert.rejects(helper.handle(ANNA, { op: 'rules', ...scope(POOL, '0a1b2c3d'), rules: rules([]) }), {
      code: 'conflict',
      message: /cannot change/,
    });
  });

  it('goes on with what the journal says after a helper that was killed', async (t) => {
    const host = await SmallHost.create(t);
    host.gate = async (what) => {
      if (what.startsWith('tap')) throw new Error('killed');
    };
    await assert.rejects(host.helper().handle(ANNA, attach([web])));
    host.gate = async () => {};
    const next = host.helper();
    // the address is still hers, and the VM's name
    await assert.rejects(next.handle(BERT, attach([vmAt(2)])), /VMs of user 1000 have addresses of 172.30.0.0\/16/);
    await next.handle(ANNA, detach(web.vm, []));
    await next.handle(ANNA, attach([web]));
    assert.deepEqual([...host.taps], [['bgr-00000001', ANNA]]);
    await host.helper().handle(ANNA, { op: 'set-up', ...scope(), vm: web.vm, mtu: 1500 });
    assert.equal(host.done.at(-1), 'set up bgr-00000001 172.30.0.2');
  });

  it('begins anew with a journal that is not readable', async (t) => {
    const host = await SmallHost.create(t);
    await writeFile(join(host.journal, '1000.json'), '{"names":[],"realms":[{"pool":"172.30.0.0/16\nnft"}]}');
    const helper = host.helper();
    await helper.handle(ANNA, attach([web]));
    assert.match(host.done[0] ?? '', /journal of user 1000 is not readable/);
    assert.deepEqual(await readdir(host.journal), ['1000.json']);
    assert.match(await readFile(join(host.journal, '1000.json'), 'utf8'), /"names":\["00000001"\]/);
  });

  it('takes over what was made for the user before there was a helper', async (t) => {
    const host = await SmallHost.create(t);
    host.taps.set('bgr-00000001', ANNA);
    host.routes.push({ destination: parseSubnet(POOL), device: undefined, type: 'unreachable' });
    host.routes.push({ destination: parseSubnet('172.30.0.2/32'), device: 'bgr-00000001', type: 'unicast' });
    const helper = host.helper();
    await helper.handle(ANNA, { op: 'rules', ...scope(), rules: rules([web]) });
    assert.deepEqual(host.done, ['rules banger_u1000 bgr-00000001']);
    await helper.handle(ANNA, detach(web.vm, []));
    assert.deepEqual([...host.taps], []);
  });

  it('leaves nothing of a range that was given back, in whatever order and however often', async (t) => {
    const host = await SmallHost.create(t);
    const gone: HelperRequest[] = [
      { op: 'pool-route', ...scope(), wanted: false },
      { op: 'pool-rule', ...scope(), wanted: false },
      detach(web.vm, []),
    ];
    for (const order of [gone, gone.toReversed(), [...gone, ...gone]]) {
      const helper = host.helper();
      await helper.handle(ANNA, { op: 'pool-route', ...scope(), wanted: true });
      await helper.handle(ANNA, { op: 'pool-rule', ...scope(), wanted: true });
      await helper.handle(ANNA, attach([web]));
      await helper.handle(ANNA, detach(web.vm, []));
      host.done.length = 0;
      for (const request of order) await helper.handle(ANNA, request);
      assert.ok(host.done.includes(`no rule ${POOL}`), 'the rule is taken away');
      assert.deepEqual([...host.taps, ...host.tables, ...host.pools], []);
      await helper.handle(BERT, attach([vmAt(5)]));
      // hers is gone already, and his is not hers
      await helper.handle(ANNA, detach(web.vm, []));
      assert.deepEqual([...host.tables.keys()], ['banger_u1001']);
      await helper.handle(BERT, detach(vmAt(5).vm, []));
      await helper.handle(BERT, { op: 'pool-route', ...scope(), wanted: false });
    }
  });

  it('is one change at a time for a user, and waits for no other user’s', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const slow = Promise.withResolvers<void>();
    host.gate = (what) => (what.includes('banger_u1000') ? slow.promise : Promise.resolve());
    const first = helper.handle(ANNA, attach([web]));
    const second = helper.handle(ANNA, attach([web, db]));
    const theirs = vmAt(5, OTHER_POOL);
    await helper.handle(BERT, attach([theirs], OTHER_POOL));
    await helper.handle(BERT, { op: 'state', ...scope(OTHER_POOL) });
    assert.deepEqual([...host.taps.keys()], ['bgr-00000005']);
    await helper.handle(ANNA, { op: 'hello' });
    slow.resolve();
    await Promise.all([first, second]);
    assert.deepEqual([...host.taps.keys()].sort(), ['bgr-00000001', 'bgr-00000002', 'bgr-00000005']);
    assert.deepEqual(
      host.tables.get('banger_u1000')?.members.map(({ tap }) => tap),
      ['bgr-00000001', 'bgr-00000002'],
    );
  });

  it('ends well however attach and detach of the same VM meet', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const asked = Array.from({ length: 20 }, (_, turn) => (turn % 2 ? detach(web.vm, [db]) : attach([db, web])));
    const ended = await Promise.allSettled(asked.map((request) => helper.handle(ANNA, request)));
    assert.ok(ended.every(({ status }) => status === 'fulfilled'));
    assert.deepEqual([...host.taps], []);
    assert.equal(host.tables.has('banger_u1000'), false);
  });
});

describe('what the network helper does not do', () => {
  const refused = async (host: SmallHost, uid: number, request: HelperRequest, why: RegExp) => {
    const before = JSON.stringify([...host.taps, ...host.tables, ...host.forwarding, ...host.pools]);
    await assert.rejects(host.helper().handle(uid, request), why);
    assert.equal(JSON.stringify([...host.taps, ...host.tables, ...host.forwarding, ...host.pools]), before);
  };

  it('touches no VM of another user, whatever is asked about it', async (t) => {
    const host = await SmallHost.create(t);
    await host.helper().handle(ANNA, attach([web]));
    const stolen = { ...web, address: '172.29.0.2' };
    await refused(host, BERT, attach([stolen], OTHER_POOL), /bgr-00000001 is not this user's/);
    await refused(host, BERT, detach(web.vm, [], OTHER_POOL), /not this user's/);
    await refused(host, BERT, { op: 'rules', ...scope(OTHER_POOL), rules: rules([stolen]) }, /another one's/);
    await refused(host, BERT, { op: 'set-up', ...scope(OTHER_POOL), vm: web.vm, mtu: 576 }, /no VM in/);
    await refused(host, BERT, { op: 'set-up', ...scope(), vm: web.vm, mtu: 576 }, /no VM in/);
    const device = 'bgr-00000001';
    await refused(host, BERT, { op: 'forwarding', ...scope(OTHER_POOL), device, value: '1' }, /not this user's/);
    for (const wanted of [true, false]) {
      await refused(host, BERT, { op: 'pool-route', ...scope(), wanted }, /VMs of user 1000/);
    }
    await refused(host, BERT, { op: 'pool-rule', ...scope(), wanted: true }, /VMs of user 1000/);
    host.done.length = 0;
    await host.helper().handle(BERT, { op: 'pool-rule', ...scope(), wanted: false });
    assert.deepEqual(host.done, []);
    for (const pool of [POOL, OTHER_POOL])
      assert.equal(await host.helper().handle(BERT, { op: 'state', ...scope(pool) }), undefined);
    // a part of her range is hers too
    await refused(host, BERT, { op: 'rules', ...scope('172.30.7.0/24'), rules: rules([]) }, /VMs of user 1000/);
  });

  it('gives nobody the name of a VM that another user has had', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    await helper.handle(ANNA, attach([web]));
    await helper.handle(ANNA, detach(web.vm, []));
    await refused(host, BERT, attach([{ ...web, address: '172.29.0.2' }], OTHER_POOL), /another one's/);
  });

  it('makes no rule about a device that is not there', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    await helper.handle(ANNA, { op: 'rules', ...scope(), rules: rules([web, db]) });
    assert.equal(host.tables.size, 0);
    await helper.handle(ANNA, attach([web, db]));
    assert.deepEqual(
      host.tables.get('banger_u1000')?.members.map(({ tap }) => tap),
      ['bgr-00000002'],
    );
  });

  it('lets no device out of the rules as long as it is there', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    await helper.handle(ANNA, attach([web]));
    await helper.handle(ANNA, { op: 'rules', ...scope(), rules: rules([]) });
    const [member] = host.tables.get('banger_u1000')?.members ?? [];
    assert.deepEqual(member, { tap: 'bgr-00000001', address: web.address, nat: false, closed: true });
    await assert.rejects(helper.handle(ANNA, { op: 'pool-route', ...scope(), wanted: false }), /VMs run in/);
  });

  it('lets no device out of the rules whose address another VM was given, or that could not be taken away', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    await helper.handle(ANNA, attach([web]));
    await helper.handle(ANNA, attach([{ ...db, address: web.address }]));
    const inRules = () => host.tables.get('banger_u1000')?.members.map(({ tap, closed }) => [tap, closed === true]);
    assert.deepEqual(inRules(), [
      ['bgr-00000002', false],
      ['bgr-00000001', true],
    ]);
    host.gate = async (what) => {
      if (what === 'no tap bgr-00000001') throw new Error('it is busy');
    };
    await assert.rejects(helper.handle(ANNA, detach(web.vm, [])));
    await helper.handle(ANNA, detach(db.vm, []));
    assert.deepEqual(inRules(), [['bgr-00000001', true]]);
    await assert.rejects(helper.handle(ANNA, { op: 'pool-route', ...scope(), wanted: false }), /VMs run in/);
    // a helper after this one knows it too
    host.gate = async () => {};
    await host.helper().handle(ANNA, { op: 'rules', ...scope(), rules: rules([db]) });
    assert.deepEqual(inRules(), [['bgr-00000001', true]]);
    await host.helper().handle(ANNA, detach(web.vm, []));
    assert.deepEqual([...host.taps, ...host.tables], []);
  });

  it('touches no device that is no VM’s, and none of root’s', async (t) => {
    const host = await SmallHost.create(t);
    host.devices.add('bgr-00000009');
    const roots = { ...vmAt(9) };
    await refused(host, ANNA, attach([roots]), /not this user's/);
    await refused(host, ANNA, detach(roots.vm, []), /not this user's/);
    await refused(host, ANNA, { op: 'forwarding', ...scope(), device: 'wg0', value: '1' }, /only lent/);
    await refused(host, ANNA, { op: 'forwarding', ...scope(), device: 'lo', value: '2' }, /No route/);
    await refused(host, 0, { op: 'hello' }, /Root/);
  });

  it('gives no range that is not for VMs of users, too large, or led somewhere else', async (t) => {
    const host = await SmallHost.create(t);
    for (const pool of ['8.8.8.0/24', '10.0.0.0/8', '172.28.0.0/15', '192.168.1.0/24', '172.0.0.0/8', '127.0.0.0/16'])
      await refused(host, ANNA, { op: 'rules', ...scope(pool), rules: rules([]) }, /does not give/);
    for (const pool of ['172.30.0.0', '172.30.0.1/16', 'x/16', '172.30.0.0/30'])
      await refused(host, ANNA, { op: 'rules', ...scope(pool), rules: rules([]) }, /range|size|address/);
    host.routes.push({ destination: parseSubnet('172.30.5.0/24'), device: 'docker0', type: 'unicast' });
    await refused(host, ANNA, attach([web]), /a route to docker0/);
    host.routes.splice(0, 1, { destination: parseSubnet('172.30.0.2/32'), device: 'bgr-000000aa', type: 'unicast' });
    host.taps.set('bgr-000000aa', 1_900_000_000);
    await refused(host, ANNA, attach([web]), /a route to bgr-000000aa/);
  });

  it('gives no two users the same range, however close they ask', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const ended = await Promise.allSettled([ANNA, BERT].map((uid) => helper.handle(uid, attach([vmAt(uid - 990)]))));
    assert.deepEqual(ended.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
    assert.equal(host.taps.size, 1);
  });

  it('gives a VM no address but one of the range, and each once', async (t) => {
    const host = await SmallHost.create(t);
    for (const address of ['172.30.0.0', '172.30.0.1', '172.30.255.255', '172.31.0.2', '1.1.1.1'])
      await refused(host, ANNA, attach([{ ...web, address }]), /no address for a VM/);
    await refused(host, ANNA, attach([web, { ...db, address: web.address }]), /twice/);
    await refused(host, ANNA, attach([web, { ...web, address: '172.30.0.9' }]), /twice/);
    const other = { op: 'attach', ...scope(), vm: db.vm, mtu: 1500, rules: rules([web]) } as const;
    await refused(host, ANNA, other, /not among the VMs/);
  });

  it('makes no more VMs than it lets a user have, in all ranges together', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const members: ReturnType<typeof vmAt>[] = [];
    let refusals = 0;
    for (let number = 1; number <= 6; number++) {
      members.push(vmAt(number));
      await helper.handle(ANNA, attach(members)).catch((error) => {
        assert.match(error.message, /may have 4 VMs on this host at a time/);
        refusals++;
      });
    }
    const other = { ...attach([vmAt(9, OTHER_POOL)], OTHER_POOL), instance: '00000001' } as HelperRequest;
    await assert.rejects(helper.handle(ANNA, other), /may have 4 VMs/);
    assert.deepEqual({ taps: host.taps.size, refusals }, { taps: 4, refusals: 2 });
    for (let number = 1; number <= 8; number++) {
      const instance = number.toString(16).padStart(8, '0');
      const request = { op: 'rules', ...scope(`10.${130 + number}.0.0/16`, instance), rules: rules([]) } as const;
      if (number < 8) await helper.handle(ANNA, request);
      else await assert.rejects(helper.handle(ANNA, request), /in 8 ranges already/);
    }
  });

  it('makes no more devices than that for who asks ten thousand times, each time for another VM alone', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const refusals = new Set<string>();
    for (let number = 2; number < 10_002; number++) {
      const member = { ...vmAt(number), address: `172.30.${number >> 8}.${number & 255}` };
      await helper.handle(ANNA, attach([member])).catch(({ message }) => refusals.add(message));
    }
    assert.deepEqual([host.taps.size, host.tables.get('banger_u1000')?.members.length], [4, 4]);
    assert.deepEqual([...refusals], ['A user may have 4 VMs on this host at a time, and not 5.']);
    assert.ok((await readFile(join(host.journal, '1000.json'))).length < 4096);
    // what is there can be taken away, whatever else is asked
    for (const name of host.taps.keys()) await helper.handle(ANNA, detach(name.slice(4), []));
    assert.deepEqual([...host.taps, ...host.tables], []);
  });

  it('drops packets to a port of the host only if it is the user’s', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    const request = { ...attach([web]), rules: rules([web], { canaryPort: 5353 }) } as HelperRequest;
    await helper.handle(ANNA, request);
    assert.equal(host.tables.get('banger_u1000')?.canaryPort, undefined);
    host.ports.add(`${ANNA}:5353`);
    await helper.handle(ANNA, { op: 'rules', ...scope(), rules: rules([web], { canaryPort: 5353 }) });
    assert.equal(host.tables.get('banger_u1000')?.canaryPort, 5353);
  });
});

describe('forwarding that the network helper lends', () => {
  const forward = (device: string, value: '0' | '1' | '2', pool = POOL): HelperRequest => ({
    op: 'forwarding',
    ...scope(pool),
    device,
    value,
  });

  it('is behind a wall before it is on, and is given back when no VM needs it', async (t) => {
    const host = await SmallHost.create(t);
    const helper = host.helper();
    let wall: readonly string[] = [];
    host.gate = async (what) => {
      if (what === 'forward eth0 2') wall = host.tables.get('banger_u1000')?.lent ?? [];
    };
    await helper.handle(ANNA, forward('eth0', '2'));
    assert.deepEqual(wall, ['eth0']);
    await helper.handle(ANNA, attach([web]));
    assert.deepEqual(host.tables.get('banger_u1000')?.lent, ['eth0']);

    const theirs = vmAt(5, OTHER_POOL);
    await helper.handle(BERT, attach([theirs], OTHER_POOL));
    assert.deepEqual(host.tables.get('banger_u1001')?.lent, ['eth0'], 'each table has the walls of all');
    await assert.rejects(helper.handle(BERT, forward('eth0', '0', OTHER_POOL)), /still need/);
    await helper.handle(BERT, detach(theirs.vm, [], OTHER_POOL));
    await assert.rejects(helper.handle(BERT, forward('eth0', '0', OTHER_POOL)), /still need/);
    await helper.handle(ANNA, detach(web.vm, []));
    await helper.handle(ANNA, forward('eth0', '0'));
    assert.equal(host.forwarding.get('eth0'), '0');
    assert.equal(host.tables.size, 0);
  });

  it('stays on for VMs of root', async (t) => {
    const host = await SmallHost.create(t);
    host.forwarding.set('eth0', '2');
    host.pools.add('10.213.0.0/16');
    await assert.rejects(host.helper().handle(ANNA, forward('eth0', '0')), /still need/);
    // what somebody has wished for is theirs
    host.forwarding.set('wg0', '1');
    await host.helper().handle(ANNA, forward('wg0', '0'));
    await host.helper().handle(ANNA, forward('wg0', '2'));
    assert.equal(host.forwarding.get('wg0'), '1');
  });

  it('has no wall any more when somebody wants it for more than VMs, though no daemon asks', async (t) => {
    const host = await SmallHost.create(t);
    await host.helper().handle(ANNA, forward('eth0', '2'));
    await host.helper().handle(ANNA, attach([web]));
    const next = host.helper();
    assert.equal(await next.mendWalls(), true);
    host.forwarding.set('eth0', '1');
    await next.mendWalls();
    assert.deepEqual(host.tables.get('banger_u1000')?.lent, []);
    assert.equal(await next.mendWalls(), false);
  });
});
