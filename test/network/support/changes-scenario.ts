/** Runs in a network of its own: pulls rules and links about in every way, and tells what was heard of each. */
import { followHostChanges } from '../../../src/network/changes.ts';
import { applyRules } from '../../../src/network/nftables.ts';
import { createPrivileged } from '../../../src/system/privilege.ts';
import { createRunner } from '../../../src/system/runner.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
const TABLE = 'banger_test';
const TAP = 'bgr-00000001';

await setUp();
using changes = await followHostChanges(TABLE);
const heard: Record<string, unknown> = {};
const nft = (...args: string[]) => runner.run(['nft', ...args]);
const ip = (...args: string[]) => runner.run(['ip', ...args]);

await after('nothing at all', async () => {});
await after('table of another', () => nft('add table inet other; add chain inet other c; flush table inet other'));
await after('element deleted', () => nft('delete', 'element', 'inet', TABLE, 'nat', '{ 10.99.0.2 }'));
await after('rule added', () => nft('add', 'rule', 'inet', TABLE, 'forward', 'accept'));
await after('chain flushed', () => nft('flush', 'chain', 'inet', TABLE, 'forward'));
await after('table flushed', () => nft('flush', 'table', 'inet', TABLE));
await after('set added', () => nft('add', 'set', 'inet', TABLE, 'mine', '{ type ipv4_addr; }'));
await after('table deleted', () => nft('delete', 'table', 'inet', TABLE));
await after('ruleset flushed', () => nft('flush', 'ruleset'));
await after('route deleted', () => ip('route', 'delete', '10.99.0.2/32'));
await after('routes flushed', () => ip('route', 'flush', 'dev', TAP));
await after('rule of others', () => ip('rule', 'add', 'to', '10.50.0.0/16', 'lookup', '100'));
await after('address deleted', () => ip('address', 'delete', '10.99.0.1/32', 'dev', TAP));
await after('forwarding switched', () => runner.run(['sysctl', '-q', '-w', `net/ipv4/conf/${TAP}/forwarding=1`]));
await after('forwarding of all switched', () => runner.run(['sysctl', '-q', '-w', 'net/ipv4/ip_forward=1']));
await after('device down', () => ip('link', 'set', TAP, 'down'));
await after('device deleted', () => ip('link', 'delete', TAP));
await after('more than the kernel keeps', async () => {
  const elements = Array.from({ length: 60_000 }, (_, n) => `10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`);
  const sets = Array.from({ length: 3000 }, (_, n) => `add chain inet other c${n}`);
  await runner.run(['nft', '-f', '-'], {
    input: `add table inet other\n${sets.join('\n')}\nadd set inet other s { type ipv4_addr; }\nadd element inet other s { ${elements.join(', ')} }\n`,
  });
});
console.log(JSON.stringify(heard));

/** What was heard after this was done to a host where everything is in place. */
async function after(what: string, change: () => Promise<unknown>): Promise<void> {
  await setUp();
  if (what === 'ruleset flushed') await nft('add', 'table', 'inet', 'other');
  changes.take();
  await change();
  heard[what] = changes.take();
}

async function setUp(): Promise<void> {
  const members = [{ tap: TAP, address: '10.99.0.2', nat: true }];
  await applyRules(privileged, 'nft', { table: TABLE, members, vmToVm: false });
  await runner.run(['ip', 'tuntap', 'add', 'dev', TAP, 'mode', 'tap'], { okExits: [0, 1] });
  await runner.run(['ip', 'address', 'add', '10.99.0.1/32', 'dev', TAP], { okExits: [0, 2] });
  await runner.run(['ip', 'link', 'set', TAP, 'up']);
  await runner.run(['ip', 'route', 'replace', '10.99.0.2/32', 'dev', TAP]);
  await runner.run(['sysctl', '-q', '-w', 'net/ipv4/ip_forward=0', `net/ipv4/conf/${TAP}/forwarding=0`]);
}
