/** Runs in a network of its own: what guests reach of their host, of clouds, and of tables that are everybody's. */
import { readFile } from 'node:fs/promises';
import { ask, createBanger, createPlace, join, type Place, serve, sh, vmAt } from './small-world.ts';

const told: Record<string, unknown> = {};
await sh('ip link set lo up; ip address add 169.254.10.1/32 dev lo');
const internet = await createPlace();
await join(internet, 'up0', '192.0.2.1/30', '192.0.2.2/30');
await sh('ip route add default via 192.0.2.2');
await internet.sh('for a in 203.0.113.99 168.63.129.16 100.100.100.200; do ip address add $a/32 dev lo; done');
await serve(internet, 80);
await serve(undefined, 80);
await serve(undefined, 42_053);

const walled = await createBanger({ pool: '10.99.0.0/24', table: 'banger_one' });
const guest = await walled.attach(vmAt('00000001', '10.99.0.2'));
const neighbour = await walled.attach(vmAt('00000003', '10.99.0.3'));
const open = await createBanger({
  pool: '10.98.0.0/24',
  table: 'banger_two',
  settings: { BANGER_NETWORK_VM_TO_HOST: 'true' },
});
const welcome = await open.attach(vmAt('00000002', '10.98.0.2'));
await serve(guest, 80);

async function reached(from: Place, gateway: string) {
  const findings: Record<string, string> = {};
  const addresses = { gateway, lan: '192.0.2.1', linkLocal: '169.254.10.1', otherGateway: '10.98.0.1' };
  for (const [what, address] of Object.entries(addresses)) findings[what] = await ask(from, address, 80);
  for (const address of ['168.63.129.16', '100.100.100.200', '203.0.113.99'])
    findings[address] = await ask(from, address, 80);
  findings.names = await ask(from, gateway, 53);
  return findings;
}

told.walled = await reached(guest, walled.gateway);
told.open = await reached(welcome, open.gateway);
told.host = await sh("timeout 5 bash -c 'exec 3<>/dev/tcp/10.99.0.2/80; cat <&3'");

await guest.sh('for i in $(seq 6000); do echo > /dev/udp/203.0.113.99/$((1024 + i)); done 2> /dev/null');
const flows = Number(await readFile('/proc/sys/net/netfilter/nf_conntrack_count', 'utf8'));
told.flows = flows > 3000 && flows < 4400 ? 'limited' : flows;
told.neighbourAfter = await ask(neighbour, '203.0.113.99', 80);

// senders that are nobody's: the host would remember each of them
const STRANGERS = 40;
const SENDER = `const ip = (...args) => require('node:child_process').execFileSync('ip', args);
(async () => {
  for (let i = 1; i <= ${STRANGERS}; i++) {
    const address = '10.97.0.' + i;
    ip('address', 'add', address + '/32', 'dev', 'eth0');
    ip('neighbour', 'flush', 'dev', 'eth0');
    const socket = require('node:dgram').createSocket('udp4');
    await new Promise((done) => socket.bind({ address }, () => socket.send('', 9, '${walled.gateway}', done)));
    socket.close();
  }
})();`;
told.sender = await guest.sh(`'${process.execPath}' --eval "${SENDER}"`);
told.neighbours = await sh('ip neigh show dev bgr-00000001 | grep -c "10.97" || true');

console.log(JSON.stringify(told));
process.exit(0);
