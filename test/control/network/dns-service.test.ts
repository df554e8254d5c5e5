import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import type { Config } from '../../../src/config/schema.ts';
import type { Log } from '../../../src/control/host.ts';
import { createDnsService, type DnsService } from '../../../src/control/network/dns-service.ts';
import { parsePool } from '../../../src/core/addresses.ts';
import { inTransaction, openDatabase } from '../../../src/state/database.ts';
import { createSettings } from '../../../src/state/settings.ts';
import { createVmStore, type VmStore } from '../../../src/state/vms.ts';
import { askUdp } from '../../dns/support/clients.ts';
import { query } from '../../dns/support/packets.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const web = sampleVm({ id: 'aaaaaaaa', name: 'web', address: '127.30.0.2' });
const db = sampleVm({ id: 'bbbbbbbb', name: 'db', address: '127.30.0.3' });

interface Setting {
  dnsService: DnsService;
  vms: VmStore;
  warnings: string[];
  database: ReturnType<typeof openDatabase>;
}

/** A pool on loopback, so that the gateway has its address without any tap. */
function setUp(t: TestContext, dns: Partial<Config['dns']> = {}, database = openDatabase(':memory:')): Setting {
  const warnings: string[] = [];
  const log: Log = { info() {}, error() {}, warn: (_facts, message) => void warnings.push(message) };
  const vms = createVmStore(database, (error) => warnings.push(error));
  const dnsService = createDnsService({
    config: { dns: { enabled: true, address: '127.0.0.1', port: 0, zone: 'vm', ttlSeconds: 10, ...dns } },
    pool: parsePool('127.30.0.0/16'),
    vms,
    settings: createSettings(database),
    log,
  });
  t.after(() => dnsService[Symbol.asyncDispose]());
  return { dnsService, vms, warnings, database };
}

function known(dnsService: DnsService): string[] {
  return dnsService.zone
    .records()
    .filter(({ type, name }) => type === 'A' && !name.startsWith('_'))
    .map(({ name, data }) => `${name} ${data}`);
}

function stateOf({ guests }: DnsService): string {
  return guests.state;
}

describe('names of VMs', () => {
  it('are there while the VM runs', (t) => {
    const { dnsService, vms } = setUp(t);
    vms.insert({ ...web, phase: 'creating' });
    for (const phase of ['stopped', 'starting'] as const) {
      vms.update(web.id, { phase });
      assert.deepEqual(known(dnsService), [], phase);
    }
    for (const end of ['stopping', 'failed', 'stopped', 'starting'] as const) {
      vms.update(web.id, { phase: 'running' });
      assert.deepEqual(known(dnsService), ['web.vm 127.30.0.2']);
      vms.update(web.id, { phase: end });
      assert.deepEqual(known(dnsService), [], end);
    }
    vms.update(web.id, { phase: 'running' });
    vms.remove(web.id);
    assert.deepEqual(known(dnsService), []);
  });

  it('stay while it is suspended: its address is for life', (t) => {
    const { dnsService, vms } = setUp(t);
    vms.insert({ ...web, phase: 'running' });
    for (const phase of ['suspending', 'suspended', 'resuming', 'running'] as const) {
      vms.update(web.id, { phase });
      assert.deepEqual(known(dnsService), ['web.vm 127.30.0.2'], phase);
    }
    vms.update(web.id, { phase: 'suspended' });
    vms.update(web.id, { phase: 'stopped' });
    assert.deepEqual(known(dnsService), []);
  });

  it('move with a rename, also to a name that another VM gives up', (t) => {
    const { dnsService, vms } = setUp(t);
    vms.insert({ ...web, phase: 'running' });
    vms.insert({ ...db, phase: 'running' });
    vms.update(web.id, { name: 'old' });
    vms.update(db.id, { name: 'web' });
    assert.deepEqual(known(dnsService).sort(), ['old.vm 127.30.0.2', 'web.vm 127.30.0.3']);
    vms.update(web.id, { phase: 'stopped', name: 'db' });
    assert.deepEqual(known(dnsService), ['web.vm 127.30.0.3']);
  });

  it('come from the records at the start, and agree with them again after a change was undone', async (t) => {
    const { dnsService, vms, database } = setUp(t, { enabled: false });
    vms.insert({ ...web, phase: 'running' });
    assert.throws(() =>
      inTransaction(database, () => {
        vms.remove(web.id);
        throw new Error('undone');
      }),
    );
    assert.deepEqual(known(dnsService), []);
    dnsService.refresh();
    assert.deepEqual(known(dnsService), ['web.vm 127.30.0.2']);

    const again = setUp(t, { enabled: false }, database);
    assert.deepEqual(known(again.dnsService), []);
    await again.dnsService.start();
    assert.deepEqual(known(again.dnsService), ['web.vm 127.30.0.2']);
    assert.equal(again.dnsService.server.state, 'stopped');
  });

  it('have a serial that grows with each change and over restarts, whatever the clock says', async (t) => {
    const { dnsService, vms, database } = setUp(t);
    const first = dnsService.zone.serial;
    vms.insert({ ...web, phase: 'running' });
    const second = dnsService.zone.serial;
    assert.ok(second > first);
    vms.update(web.id, { memoryMib: 300 });
    assert.equal(dnsService.zone.serial, second, 'nothing DNS shows has changed');
    for (let change = 0; change < 20; change++) vms.update(web.id, { phase: change % 2 ? 'running' : 'stopped' });
    const last = dnsService.zone.serial;
    assert.equal(last, second + 20, 'ahead of the clock');
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(setUp(t, {}, database).dnsService.zone.serial > last);
  });

  it('are answered, for VMs too once one has a link', async (t) => {
    const { dnsService, vms, warnings } = setUp(t);
    vms.insert({ ...web, phase: 'running' });
    vms.update(web.id, { phase: 'stopped' });
    await dnsService.start();
    assert.equal(dnsService.guests.state, 'stopped');
    vms.update(web.id, { phase: 'running' });
    const answer = await askUdp(dnsService.server, query({ name: 'web.vm' }));
    assert.equal(answer?.answers?.length, 1);
    dnsService.linkUp();
    while (stateOf(dnsService) !== 'listening') await new Promise((resolve) => setTimeout(resolve, 5));
    // asked from 127.0.0.1, which is of no pool
    assert.equal(await askUdp(dnsService.guests, query({ name: 'web.vm' }), 200), undefined);
    assert.deepEqual(warnings, []);
  });

  it('of VMs that are suspended when idle are answered, and tell that they are wanted', async (t) => {
    const { dnsService, vms } = setUp(t);
    vms.insert({ ...web, phase: 'suspended', idleSuspendMs: 120_000 });
    vms.insert({ ...web, id: '0000000b', name: 'db', address: '127.30.0.9', phase: 'suspended' });
    const wanted: string[] = [];
    dnsService.onWanted((name) => wanted.push(name));
    await dnsService.start();
    const ask = async (name: string) => (await askUdp(dnsService.server, query({ name })))?.answers?.length;
    assert.deepEqual([await ask('web.vm'), await ask('www.web.vm'), await ask('db.vm')], [1, 1, 1]);
    assert.deepEqual(wanted, ['web', 'web'], 'one that a person suspended stays so');
    assert.equal(await ask('nosuch.vm'), 0);
    vms.update(web.id, { phase: 'running' });
    await ask('web.vm');
    assert.equal(wanted.length, 2, 'one that runs is not wanted');
  });

  it('are answered for VMs from the start when one had its link before', async (t) => {
    const { dnsService } = setUp(t);
    dnsService.linkUp();
    assert.equal(dnsService.guests.state, 'stopped');
    await dnsService.start();
    assert.equal(dnsService.guests.state, 'listening');
  });

  it('are answered for nobody when they are switched off', async (t) => {
    const { dnsService, vms } = setUp(t, { enabled: false });
    vms.insert({ ...web, phase: 'running' });
    dnsService.linkUp();
    await dnsService.start();
    assert.deepEqual([dnsService.server.state, dnsService.guests.state], ['stopped', 'stopped']);
  });

  it('wait for a port that is in use, and name the process that has it', async (t) => {
    const squatter = createSocket('udp4').bind(0, '127.0.0.1');
    await once(squatter, 'listening');
    t.after(() => squatter.close());
    const { dnsService, warnings } = setUp(t, { port: squatter.address().port });
    await dnsService.start();
    assert.equal(dnsService.server.state, 'waiting');
    assert.match(dnsService.server.holder ?? '', new RegExp(`\\(pid ${process.pid}\\)$`));
    assert.match(warnings.join(), /^DNS queries of this host are not answered yet: .* is in use by \S+ \(pid \d+\)\.$/);
  });
});
