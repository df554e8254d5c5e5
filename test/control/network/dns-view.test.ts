import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import type { Config } from '../../../src/config/schema.ts';
import { createDnsService, type DnsService } from '../../../src/control/network/dns-service.ts';
import { planDns, type ResolverHost, setUpDns } from '../../../src/control/network/dns-setup.ts';
import { viewDnsStatus, viewDnsSummary, viewExplanation } from '../../../src/control/network/dns-view.ts';
import { parsePool } from '../../../src/core/addresses.ts';
import { BangerError } from '../../../src/errors.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createSettings } from '../../../src/state/settings.ts';
import { createVmStore } from '../../../src/state/vms.ts';
import { hostSystem } from '../../support/host-system.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const silent = { step: () => {}, report: () => {}, warn: () => {}, line: () => {} };

function setUp(t: TestContext, dns: Partial<Config['dns']> = {}): { host: ResolverHost; dnsService: DnsService } {
  const database = openDatabase(':memory:');
  const vms = createVmStore(database, assert.fail);
  const pool = parsePool('127.30.0.0/16');
  const config = { dns: { enabled: true, address: '127.0.0.1', port: 0, zone: 'vm', ttlSeconds: 10, ...dns } };
  const log = { info() {}, error() {}, warn() {} };
  const dnsService = createDnsService({ config, pool, vms, settings: createSettings(database), log });
  t.after(() => dnsService[Symbol.asyncDispose]());
  vms.insert(sampleVm({ phase: 'running', address: '127.30.0.2' }));
  return { host: { config, network: { pool }, system: hostSystem() } as unknown as ResolverHost, dnsService };
}

describe('what is said of names', () => {
  it('has zone, listeners and records; off is off', async (t) => {
    const { host, dnsService } = setUp(t);
    const status = await viewDnsStatus(host, dnsService);
    assert.deepEqual([status.zone, status.vms, status.reverseZones], ['vm', 1, ['30.127.in-addr.arpa']]);
    assert.ok(status.records.some(({ name, data }) => name.startsWith('web.vm') && data === '127.30.0.2'));
    assert.equal(viewDnsSummary({ dns: { ...host.config.dns, enabled: false } }, dnsService).state, 'off');
  });

  it('explains that nothing is answered where names are switched off', async (t) => {
    const { host, dnsService } = setUp(t, { enabled: false });
    const { links } = await viewExplanation(host, dnsService, 'web.vm');
    assert.deepEqual(
      links.map(({ link, ok }) => [link, ok]),
      [['listener', false]],
    );
    assert.match(links[0]?.hint ?? '', /dns\.enabled = true/);
  });
});

describe('a setup of names', () => {
  it('is a plan for this host, or says why there is none; nothing is done for names that are off', async (t) => {
    const { host, dnsService } = setUp(t, { enabled: false });
    const plan = await planDns(host, false).catch((error: unknown) => error);
    if (plan instanceof BangerError) assert.equal(plan.code, 'host_unprepared');
    else assert.match((plan as { text: string }).text, /vm/);
    const refused = await setUpDns(host, dnsService, false, silent, new AbortController().signal).catch(
      (error) => error,
    );
    assert.equal(refused.code, plan instanceof BangerError ? 'host_unprepared' : 'conflict');
    if (refused.code === 'conflict') assert.match(refused.message, /switched off/);
  });
});
