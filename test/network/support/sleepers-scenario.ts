/** Runs in a network of its own: who wakes VMs that are asleep, and as whom. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createBanger, createPlace, join, type Place, serve, sh, vmAt } from './small-world.ts';

const told: Record<string, unknown> = {};
const [APART, TOGETHER, OTHER] = ['10.99.0', '10.98.0', '10.97.0'];

await sh('ip link set lo up');
// as a network of containers: the host forwards for them, under its own address
const container = await createPlace();
await join(container, 'br0', '10.88.0.1/24', '10.88.0.2/24');
await container.sh('ip route add default via 10.88.0.1');
await sh(`echo 1 > /proc/sys/net/ipv4/conf/br0/forwarding
  nft 'table ip containers { chain out { type nat hook postrouting priority srcnat; ip saddr 10.88.0.0/24 oifname != br0 masquerade; }; }'`);

const settings = { BANGER_NETWORK_VM_TO_VM: 'false' };
const apart = await createBanger({
  ...{ pool: `${APART}.0/24`, table: 'banger_apart', sleepDevice: 'bgr-0badcaf1', settings },
});
const together = await createBanger({
  ...{ pool: `${TOGETHER}.0/24`, table: 'banger_together', sleepDevice: 'bgr-0badcaf2' },
});
const other = await createBanger({ pool: `${OTHER}.0/24`, table: 'banger_other' });
const stranger = await other.attach(vmAt('00000021', `${OTHER}.2`));

async function tries(asleep: { wanted(): string[] }, address: string, places: Record<string, Place | undefined>) {
  const found: Record<string, string> = {};
  for (const [who, place] of Object.entries(places)) {
    const connects = `timeout 1 bash -c 'exec 3<>/dev/tcp/${address}/80' || true`;
    await (place ? place.sh(connects) : sh(connects));
    found[who] = asleep.wanted().join(' ');
  }
  return found;
}

const [natVm, aloneVm] = [vmAt('00000001', `${APART}.2`), vmAt('00000002', `${APART}.3`, { nat: false })];
const [nat, alone] = [await apart.attach(natVm), await apart.attach(aloneVm)];
const first = await apart.layToSleep(`${APART}.9`);
told['VMs apart'] = await tries(first, `${APART}.9`, { nat, alone, stranger, container, host: undefined });
for (const vm of [natVm, aloneVm]) await apart.network.detach(vm);
told['none of them runs'] = await tries(first, `${APART}.9`, { stranger, container, host: undefined });
await apart.network.mend();
await sh('nft delete table inet banger_apart');
told['put back'] = [(await apart.network.reassert()).rules, (await apart.network.reassert()).rules];
told['somebody flushed'] = await tries(first, `${APART}.9`, { stranger });
await first.end();

const [guest, inside] = [
  await together.attach(vmAt('00000011', `${TOGETHER}.2`)),
  await together.attach(vmAt('00000012', `${TOGETHER}.3`, { nat: false })),
];
const second = await together.layToSleep(`${TOGETHER}.9`);
told['VMs together'] = await tries(second, `${TOGETHER}.9`, {
  ...{ nat: guest, alone: inside, stranger, container, host: undefined },
});
second.passOn();
told['sent on too early'] = second.wanted();
for (const [who, place] of Object.entries({ nat: guest, alone: inside })) {
  const address = `${TOGETHER}.${who === 'nat' ? 10 : 11}`;
  await second.lead(address);
  const answer = place.sh(`timeout 20 bash -c 'exec 3<>/dev/tcp/${address}/80; cat <&3'`);
  while (second.wanted().length === 0) await sleep(20);
  await serve(await together.attach(vmAt(who === 'nat' ? '0000001a' : '0000001b', address)), 80);
  second.passOn();
  told[`woken by ${who}`] = await answer;
}
await second.end();
told['rules left'] = (await sh('nft list tables')).split('\n').filter((line) => line.includes('apart'));
console.log(JSON.stringify(told));
process.exit(0);
