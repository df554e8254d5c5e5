/** A program: the DNS server with RECORDS names, changed CHANGES times a second while it answers. PORT RECORDS CHANGES */
import { DnsServer } from '../../src/dns/server.ts';
import { createZone } from '../../src/dns/zone.ts';

const [port = 0, records = 100, changes = 0] = process.argv.slice(2).map(Number);

const address = (index: number) => `172.30.${Math.floor(index / 250)}.${(index % 250) + 2}`;
const zone = createZone({
  zone: 'vm',
  pools: ['172.30.0.0/16'],
  ttlSeconds: 5,
  serverAddress: '127.0.0.1',
  probeAddress: '172.30.0.1',
});
zone.replace(Array.from({ length: records }, (_, index) => ({ name: `vm${index}`, ipv4: address(index) })));

let turn = 0;
await using server = new DnsServer({ zone, address: '127.0.0.1', port });
await server.start();
process.send?.({ state: server.status.state });
if (changes > 0) setInterval(change, 1000 / changes).unref();
await new Promise((resolve) => process.on('SIGTERM', resolve));

/** A VM that stops, and at the next turn starts again at another address. */
function change(): void {
  const name = `vm${(turn >> 1) % records}`;
  if (turn % 2 === 0) zone.delete(name);
  else zone.set({ name, ipv4: address(records + (turn % 1000)) });
  turn++;
}
