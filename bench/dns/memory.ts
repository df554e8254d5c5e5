/** A program: what an idle server adds to a process that has sockets already; prints bytes. */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

declare const gc: () => void;

/** Memory of this process alone, in bytes; pages shared with other processes count in part. */
async function proportionalSize(): Promise<number> {
  for (let round = 0; round < 3; round++) {
    gc();
    await delay(100);
  }
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync('/proc/self/smaps_rollup', 'utf8'))?.[1]) * 1024;
}

// the daemon has both kinds of sockets, the crypto module and type stripping without DNS too
createSocket('udp4').bind(0, '127.0.0.1');
createServer().listen(0, '127.0.0.1');
await import('node:crypto');
await import('../../src/system/files.ts');
await delay(300);
const before = await proportionalSize();
const { DnsServer } = await import('../../src/dns/server.ts');
const { createZone } = await import('../../src/dns/zone.ts');
const zone = createZone({
  zone: 'vm',
  pools: ['172.30.0.0/16'],
  ttlSeconds: 5,
  serverAddress: '127.0.0.1',
  probeAddress: '172.30.0.1',
});
for (let index = 2; index < 102; index++) zone.set({ name: `vm${index}`, ipv4: `172.30.0.${index}` });
const server = new DnsServer({ zone, address: '127.0.0.1', port: 0 });
await server.start();
process.stdout.write(String((await proportionalSize()) - before));
process.exit(0);
