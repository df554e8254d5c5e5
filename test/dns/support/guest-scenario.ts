/**
 * A program for a namespace of its own: two "guests" behind virtual cables, as VMs are behind their taps, one of
 * them known to banger; the host's resolver is on loopback. Prints what the guests find as JSON.
 */
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { GuestListener } from '../../../src/dns/guest-listener.ts';
import { followResolvConf } from '../../../src/dns/resolv-conf.ts';
import { DnsServer } from '../../../src/dns/server.ts';
import { createZone } from '../../../src/dns/zone.ts';
import { prepareNamespace } from './namespace.ts';
import { ZONE_OPTIONS } from './packets.ts';

const GATEWAY = '172.30.0.1';
const run = promisify(execFile);
const findings: Record<string, unknown> = {};

async function ip(line: string): Promise<void> {
  await run('ip', line.split(' '));
}

async function resolverAt(address: string, intranet: string): Promise<DnsServer> {
  const options = { zone: 'corp.example', pools: [], serverAddress: address, probeAddress: address };
  const zone = createZone({ ...ZONE_OPTIONS, ...options });
  zone.set({ name: 'intranet', ipv4: intranet });
  const server = new DnsServer({ zone, address, port: 53 });
  await server.start();
  return server;
}

async function addGuest(name: string, address: string): Promise<void> {
  await ip(`netns add ${name}`);
  await ip(`link add tap-${name} type veth peer name eth0 netns ${name}`);
  await ip(`address add ${GATEWAY}/32 dev tap-${name}`);
  await ip(`link set tap-${name} up`);
  await ip(`route add ${address}/32 dev tap-${name}`);
  await ip(`-n ${name} link set lo up`);
  await ip(`-n ${name} address add ${address}/32 dev eth0`);
  await ip(`-n ${name} link set eth0 up`);
  await ip(`-n ${name} route add ${GATEWAY}/32 dev eth0`);
  await mkdir(`/etc/netns/${name}`, { recursive: true });
  await writeFile(`/etc/netns/${name}/resolv.conf`, `nameserver ${GATEWAY}\noptions timeout:1 attempts:1\n`);
}

/** What a program in a guest finds, through its own glibc; "nothing" when the lookup fails. */
async function inGuest(name: string, ...command: string[]): Promise<string> {
  const { stdout } = await run('ip', ['netns', 'exec', name, ...command]).catch(() => ({ stdout: 'nothing' }));
  return stdout.trim().split('\n')[0]?.split(/\s+/).slice(0, 2).join(' ') ?? '';
}

await prepareNamespace();
await resolverAt('127.0.0.1', '192.0.2.80');
await resolverAt('127.0.0.9', '192.0.2.90');
await writeFile('/etc/resolv.conf', 'nameserver 127.0.0.1\n');

const zone = createZone(ZONE_OPTIONS);
zone.replace([
  { name: 'web', ipv4: '172.30.0.2' },
  { name: 'db', ipv4: '172.30.0.3' },
]);
const guests = new GuestListener({
  zone,
  address: GATEWAY,
  port: 53,
  isVm: (address) => address === '172.30.0.2',
  upstreams: followResolvConf(),
});
await guests.start();
findings.beforeFirstTap = guests.status.state;
await addGuest('web', '172.30.0.2');
await addGuest('stranger', '172.30.0.66');
await guests.retryNow();
findings.afterFirstTap = guests.status.state;

findings.otherVm = await inGuest('web', 'getent', 'ahostsv4', 'db.vm');
findings.below = await inGuest('web', 'getent', 'ahostsv4', 'api.db.vm');
findings.reverse = await inGuest('web', 'getent', 'hosts', '172.30.0.3');
findings.outside = await inGuest('web', 'getent', 'ahostsv4', 'intranet.corp.example');
findings.missing = await inGuest('web', 'getent', 'ahostsv4', 'nobody.vm');
findings.stranger = await inGuest('stranger', 'getent', 'ahostsv4', 'db.vm');
await writeFile('/etc/resolv.conf', 'nameserver 127.0.0.9\n');
await new Promise((resolve) => setTimeout(resolve, 1100));
findings.afterChange = await inGuest('web', 'getent', 'ahostsv4', 'intranet.corp.example');
findings.forwarded = guests.status.forwarded;
process.stdout.write(JSON.stringify(findings));
process.exit(0);
