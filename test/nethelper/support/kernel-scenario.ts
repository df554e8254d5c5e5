/** Runs in a network of its own: users ask a real helper with a real kernel; prints what came of it. */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { loadConfig } from '../../../src/config/load.ts';
import { createHostNetwork } from '../../../src/control/network/host-network.ts';
import { gatewayOf, parseSubnet } from '../../../src/core/addresses.ts';
import { tableName } from '../../../src/core/network-names.ts';
import { hostMacFor, macFor, type VmRecord } from '../../../src/core/vm.ts';
import { greetHelper } from '../../../src/network/helper-client.ts';
import type { FirewallRules } from '../../../src/network/nftables.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createLedger } from '../../../src/state/ledger.ts';
import { loadLibc } from '../../../src/system/libc.ts';
import { createRunner } from '../../../src/system/runner.ts';
import { sh } from '../../network/support/small-world.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { connectAs, RealHelper } from './real-helper.ts';

const ANNA = 28_001;
const BERT = 28_002;
/** Of linux/if_tun.h. */
const TUNSETIFF = 0x400454can;
const [ANNAS, BERTS] = ['172.30.0.0/16', '172.29.0.0/16'];
const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const { config } = await loadConfig({ env: { HOME: '/nonexistent' }, uid: ANNA });

/** What a daemon of a user has, without the daemon. */
function bangerOf(helper: RealHelper, uid: number, pool: string) {
  const vms: VmRecord[] = [];
  const subnet = parseSubnet(pool);
  const network = createHostNetwork({
    ...{ config, runner, uid, pool: subnet, table: tableName(uid, '') },
    port: helper.portOf(uid, { pool, instance: '' }),
    ledger: createLedger(openDatabase(':memory:')),
    guests: () => vms,
    guestDns: { gateway: gatewayOf(subnet), port: 42_053 },
  });
  return {
    network,
    vm(id: string, last: number): VmRecord {
      const address = pool.replace('0.0/16', `0.${last}`);
      const vm = sampleVm({ id, name: `vm-${id}`, address, mac: macFor(address) });
      vms.push(vm);
      return vm;
    },
  };
}

const answered = async (work: Promise<unknown>) =>
  await work.then(
    () => 'done',
    (error) => String(error.message),
  );
const text = async (script: string) => await sh(`${script} 2>&1 || true`);
/** Ends what a helper that was killed had begun, as systemd does with everything in the unit's control group. */
async function endOrphans(): Promise<void> {
  const orphans = () =>
    readdirSync('/proc').flatMap((pid) => {
      const stat =
        /^\d+$/.test(pid) && existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, 'utf8') : '';
      return /^\d+ \((?:ip|nft)\) [^Z]/.test(stat) ? [Number(pid)] : [];
    });
  for (let left = orphans(); left.length > 0; left = orphans()) {
    for (const pid of left) process.kill(pid, 'SIGKILL');
    await new Promise((resolve) => setImmediate(resolve));
  }
}
/** What is left of VMs on this host. */
const traces = async () =>
  await text(`ip -br link | grep -o '^bgr-[0-9a-f]*'; nft list tables; ip route show proto 119`);
/** Opens a tap as a VMM of a user does, without any right: 0, or an error. */
async function openTap(uid: number, name: string): Promise<number | undefined> {
  const c = await loadLibc({ ioctl: { arguments: ['int32', 'uint64', 'buffer'], return: 'int32' } });
  const fd = openSync('/dev/net/tun', 'r+');
  // struct ifreq: the name, then IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
  const request = Buffer.alloc(40);
  request.write(name);
  request.writeUInt16LE(0x5002, 16);
  try {
    return connectAs(uid, () => c?.ioctl(fd, TUNSETIFF, request), []);
  } finally {
    closeSync(fd);
  }
}

await sh(`ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth1 up; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up
  ip route add default via 192.0.2.2; echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding
  nft add table inet hosts; nft add set inet hosts secret '{ type ipv4_addr; }'`);
const seen: Record<string, unknown> = {};

await using helper = await RealHelper.start();
const status = readFileSync(`/proc/${helper.pid}/status`, 'utf8');
seen.rights = [...status.matchAll(/^(CapEff|CapBnd|NoNewPrivs):\s*(\w+)$/gm)].map(
  ([, name, value]) => `${name} ${value}`,
);

const anna = bangerOf(helper, ANNA, ANNAS);
const bert = bangerOf(helper, BERT, BERTS);
const web = anna.vm('000000a1', 2);
await anna.network.attach(web);
seen.attached = (await traces()).split('\n');
seen.owner = readFileSync('/sys/class/net/bgr-000000a1/owner', 'utf8').trim();
seen.forwarding = await text('cat /proc/sys/net/ipv4/conf/{eth0,bgr-000000a1}/forwarding');
seen.opened = [
  await openTap(ANNA, 'bgr-000000a1'),
  await openTap(BERT, 'bgr-000000a1'),
  await openTap(ANNA, 'bgr-000000a9'),
];
seen.mended = await anna.network.mend();
await sh('nft flush table inet banger_u28001; ip route del 172.30.0.2');
seen.mendedAgain = await anna.network.reassert();
seen.again = (await traces()).split('\n');

// another user
await bert.network.attach(bert.vm('000000b1', 2));
const port = helper.portOf(BERT, { pool: BERTS, instance: '' });
const rules: FirewallRules = { table: '', members: [], vmToVm: true };
const tap = (id: string, address: string) => ({
  ...{ name: `bgr-${id}`, address, mac: macFor(address), hostMac: hostMacFor(address) },
  ...{ gateway: '', mtu: 1500, ownerUid: BERT },
});
const member = (id: string, address: string) => ({ tap: `bgr-${id}`, address, nat: true });
const before = await traces();
seen.thief = [
  await answered(port.detach('bgr-000000a1', rules)),
  await answered(port.attach(tap('000000a1', '172.29.0.9'), { ...rules, members: [member('000000a1', '172.29.0.9')] })),
  await answered(port.setUpTap(tap('000000a1', '172.30.0.2'))),
  await answered(port.setForwarding('bgr-000000a1', '1')),
  await answered(helper.portOf(BERT, { pool: ANNAS, instance: '' }).writeRules(rules)),
  await answered(helper.portOf(BERT, { pool: ANNAS, instance: '' }).deletePoolRoute(ANNAS)),
  await answered(port.setForwarding('eth0', '0')),
];
seen.untouched = before === (await traces());
seen.outsider = await answered(connectAs(BERT, () => greetHelper(helper.socket), []));

// more than a user may have, and a helper that dies at any moment
const bunch = [member('000000b1', '172.29.0.2')];
const refusals: string[] = [];
for (let at = 2; at <= 6; at++) {
  const address = `172.29.0.${at + 1}`;
  const next = member(`000000b${at}`, address);
  const said = await answered(port.attach(tap(`000000b${at}`, address), { ...rules, members: [...bunch, next] }));
  if (said === 'done') bunch.push(next);
  else refusals.push(said);
}
seen.limit = [bunch.length, [...new Set(refusals)]];
const own = helper.portOf(ANNA, { pool: ANNAS, instance: '' });
const deaths: string[] = [];
for (let turn = 0; turn < 6; turn++) {
  const address = '172.30.0.3';
  const members = [member('000000a1', '172.30.0.2'), member('000000a2', address)];
  const work = answered(own.attach(tap('000000a2', address), { ...rules, members }));
  await new Promise((resolve) => setTimeout(resolve, turn * 12));
  await helper.kill();
  await endOrphans();
  deaths.push(await work);
  await helper.run();
  await own.detach('bgr-000000a2', { ...rules, members: members.slice(0, 1) });
  if ((await traces()).includes('bgr-000000a2')) deaths.push('left something');
  // whatever happened, what is there has its entry against spoofing
  if (!(await text('nft list set inet banger_u28001 vms')).includes('"bgr-000000a1" . 172.30.0.2')) deaths.push('open');
}
// an address that is given to another VM: whatever the one before sends is dropped
const rival = tap('000000a3', '172.30.0.2');
await own.attach(rival, { ...rules, members: [member('000000a3', '172.30.0.2')] });
const listed = async (set: string) => (await text(`nft list set inet banger_u28001 ${set}`)).match(/"bgr-\w+"/g);
seen.given = [(await listed('taps'))?.sort(), await listed('vms')];
await own.detach(rival.name, { ...rules, members: [member('000000a1', '172.30.0.2')] });
await anna.network.reassert();
seen.deaths = [deaths.length, deaths.filter((said) => said !== 'done' && !/ended before|cannot be reached/.test(said))];

for (const { tap: name } of bunch.slice(1).reverse()) {
  await port.detach(name, { ...rules, members: bunch.filter((other) => other.tap !== name && other.tap < name) });
}
await bert.network.detach({ id: '000000b1' });
await anna.network.detach(web);
// a helper that was killed had lent the device to both; the last one gives it back
await bert.network.reassert();
await anna.network.reassert();
seen.after = await traces();
seen.forwardingAfter = await text('cat /proc/sys/net/ipv4/conf/eth0/forwarding');
seen.logged = helper.log.filter((line) => line.includes('uid 28002') && line.includes('000000a1')).length;
console.log(JSON.stringify(seen).replaceAll(helper.socket, 'SOCKET'));
process.exit(0);
