/** Runs in a network of its own: whether a canary tells that the table is there, and that it is gone. */
import { openCanary } from '../../../src/network/canary.ts';
import { applyRules } from '../../../src/network/nftables.ts';
import { createPrivileged } from '../../../src/system/privilege.ts';
import { createRunner } from '../../../src/system/runner.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
await runner.run(['ip', 'link', 'set', 'lo', 'up']);
// a canary alone keeps no process running
const timer = setInterval(() => {}, 1000);
using canary = await openCanary();
const members = [{ tap: 'bgr-00000001', address: '10.99.0.2', nat: true }];
const write = () =>
  applyRules(privileged, 'nft', { table: 'banger_test', members, vmToVm: false, canaryPort: canary?.port });
const told: unknown[] = [];
const tell = async () => told.push(await canary?.arrives());

await tell();
await write();
await tell();
await tell();
await runner.run(['nft', 'flush', 'ruleset']);
await tell();
await write();
await tell();
await runner.run(['nft', 'delete', 'table', 'inet', 'banger_test']);
await tell();
console.log(JSON.stringify(told));
clearInterval(timer);
