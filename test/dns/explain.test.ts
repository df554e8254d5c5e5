import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type ExplainedLink, type ExplainOptions, explainName } from '../../src/dns/explain.ts';
import { DnsServer } from '../../src/dns/server.ts';
import { exampleZone } from './support/packets.ts';

const RESOLVER = {
  kind: 'dnsmasq',
  reason: 'resolv.conf names 127.0.0.1, and dnsmasq runs.',
  nameservers: ['127.0.0.1'],
  init: 'systemd',
  networkManager: false,
  networkd: false,
} as const;

async function explain(options: Partial<ExplainOptions>): Promise<ExplainedLink[]> {
  const zone = exampleZone();
  await using server = new DnsServer({ zone, address: '127.0.0.1', port: 0 });
  await server.start();
  const lookup = async () => ['172.30.0.2'];
  return await explainName({
    name: 'web',
    zone,
    server: server.status,
    resolver: RESOLVER,
    setUp: true,
    lookup,
    ...options,
  });
}

function chain(links: readonly ExplainedLink[]): string {
  return links.map(({ link, ok }) => `${link} ${ok ? 'ok' : 'broken'}`).join(', ');
}

describe('explaining a name', () => {
  it('shows every link when all hold', async () => {
    for (const name of ['web', 'WEB.vm.', 'api.web.vm']) {
      const links = await explain({ name });
      assert.equal(chain(links), 'record ok, listener ok, resolver ok, lookup ok');
      assert.equal(links[0]?.message, 'The zone has web.vm at 172.30.0.2.');
    }
  });

  it('follows the probe name and VMs with IPv6 only', async () => {
    const probe = await explain({ name: 'f00._probe.vm', lookup: async () => ['172.30.0.1'] });
    assert.equal(chain(probe), 'record ok, listener ok, resolver ok, lookup ok');
    const six = await explain({ name: 'six', lookup: async () => ['fd42::6'] });
    assert.equal(chain(six), 'record ok, listener ok, resolver ok, lookup ok');
  });

  it('ends at the first broken link with what to do', async () => {
    const foreign = await explain({ name: 'example.com' });
    assert.equal(chain(foreign), 'name broken');
    const missing = await explain({ name: 'nobody' });
    assert.equal(chain(missing), 'record broken');
    assert.equal(missing[0]?.hint, 'See which VMs run: banger ls');
    const untold = await explain({ setUp: false });
    assert.equal(chain(untold), 'record ok, listener ok, resolver broken');
    assert.equal(untold.at(-1)?.hint, 'Tell it: banger dns setup');
    const elsewhere = await explain({ lookup: async () => ['192.0.2.66'] });
    assert.equal(chain(elsewhere), 'record ok, listener ok, resolver ok, lookup broken');
    assert.match(elsewhere.at(-1)?.message ?? '', /getaddrinfo says 192\.0\.2\.66/);
  });

  it('names a listener that waits for its port, and one that does not answer', async () => {
    const zone = exampleZone();
    const server = new DnsServer({ zone, address: '127.0.0.1', port: 0 });
    const stopped = await explain({ server: server.status });
    assert.equal(chain(stopped), 'record ok, listener broken');
    assert.match(stopped.at(-1)?.message ?? '', /does not listen/);
    const silent = await explain({ server: { ...server.status, state: 'listening', port: 9 } });
    assert.equal(chain(silent), 'record ok, listener broken');
    assert.match(silent.at(-1)?.message ?? '', /did not bring the record back/);
  });
});
