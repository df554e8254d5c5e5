/** Runs in a network of its own: what VMs reach as the host's routes change, who else does, and what is left of it. */
import { readFile } from 'node:fs/promises';
import { ask, createBanger, createPlace, join, serve, sh, vmAt } from './small-world.ts';

const told: Record<string, unknown> = {};
const forwarding = async (device: string) =>
  (await readFile(`/proc/sys/net/ipv4/conf/${device}/forwarding`, 'utf8')).trim();
const switches = async () => [await forwarding('up0'), await forwarding('vpn0')];

await sh('ip link set lo up');
const [internet, vpn] = [await createPlace(), await createPlace()];
await join(internet, 'up0', '192.0.2.1/30', '192.0.2.2/30');
await sh('ip route add default via 192.0.2.2');
await join(vpn, 'vpn0', '10.8.0.1/24', '10.8.0.2/24');
await vpn.sh('for a in 203.0.113.7 198.51.100.9 10.50.0.9; do ip address add $a/32 dev lo; done');
await internet.sh('ip address add 203.0.113.99/32 dev lo; ip route add 10.8.0.0/24 via 192.0.2.1');
await vpn.sh('ip route add 192.0.2.0/30 via 10.8.0.1');
await serve(internet, 80);
await serve(vpn, 80);

const banger = await createBanger({ pool: '10.99.0.0/24', table: 'banger_one' });
const vm = vmAt('00000001', '10.99.0.2');
const guest = await banger.attach(vm);
const asks = async (what: string, address: string) => {
  await banger.network.mend();
  told[what] = await ask(guest, address, 80);
};

told.before = await switches();
await asks('default route', '203.0.113.99');
await asks('second card', '10.8.0.2');
await sh('ip route add 10.50.0.0/24 via 10.8.0.2');
await asks('split tunnel', '10.50.0.9');
await sh('ip route add 0.0.0.0/1 via 10.8.0.2; ip route add 128.0.0.0/1 via 10.8.0.2');
await asks('VPN by two halves', '203.0.113.7');
await sh('ip route del 0.0.0.0/1; ip route del 128.0.0.0/1; ip route del 10.50.0.0/24');
await sh('ip route add default via 10.8.0.2 table 100; ip rule add priority 100 lookup 100');
await asks('rule before all', '198.51.100.9');
await sh('ip rule del priority 100; ip rule add to 198.51.100.0/24 lookup 100');
await asks('rule for a range', '198.51.100.9');
told.neighbour = await ask(internet, '10.8.0.2', 80);

const other = await createBanger({ pool: '10.98.0.0/24', table: 'banger_two' });
const theirs = vmAt('00000002', '10.98.0.2');
const otherGuest = await other.attach(theirs);
told['guest of the other'] = await ask(otherGuest, '10.8.0.2', 80);
await banger.network.detach(vm);
told['first one gone'] = [await switches(), await ask(otherGuest, '10.8.0.2', 80)];
await other.network.detach(theirs);
told['both gone'] = await switches();
told['rules left'] = await sh('ip rule show | grep -c "lookup main proto 119" || true');

// somebody else wants it on while VMs run
await other.network.attach(theirs);
await sh('for d in up0 vpn0; do echo 1 > /proc/sys/net/ipv4/conf/$d/forwarding; done');
await other.network.mend();
told['neighbour when somebody wants it'] = await ask(internet, '10.8.0.2', 80);
await other.network.detach(theirs);
told['what somebody wanted'] = await switches();
console.log(JSON.stringify(told));
process.exit(0);
