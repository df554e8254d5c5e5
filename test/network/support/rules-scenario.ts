/** Runs in a network of its own: loads the rules of 500 VMs, takes them away in several ways, tells what is seen. */
import { applyRules, readTable } from '../../../src/network/nftables.ts';
import { createPrivileged } from '../../../src/system/privilege.ts';
import { createRunner } from '../../../src/system/runner.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
const TABLE = 'banger_test';

function members(count: number) {
  return Array.from({ length: count }, (_, index) => ({
    tap: `bgr-${index.toString(16).padStart(8, '0')}`,
    address: `172.30.${Math.floor(index / 250)}.${(index % 250) + 2}`,
    nat: true,
  }));
}

async function load(count: number) {
  const begun = performance.now();
  await applyRules(privileged, 'nft', { table: TABLE, members: members(count), vmToVm: true });
  const loadMs = performance.now() - begun;
  const { stdout } = await runner.run(['nft', '-j', 'list', 'table', 'inet', TABLE]);
  const items: { rule?: object; set?: { name: string; elem?: unknown[] } }[] = JSON.parse(stdout).nftables;
  return {
    loadMs,
    rules: items.filter(({ rule }) => rule !== undefined).length,
    elements: Object.fromEntries(items.flatMap(({ set }) => (set ? [[set.name, set.elem?.length ?? 0]] : []))),
  };
}

/** Whether the table still reads as it did, after this was done to it. */
async function noticed(...command: string[]): Promise<boolean> {
  await load(3);
  const before = await readTable(privileged, 'nft', TABLE);
  await runner.run(['nft', ...command]);
  return (await readTable(privileged, 'nft', TABLE)) !== before;
}

const one = await load(1);
const many = await load(500);
await runner.run(['nft', 'add', 'table', 'inet', 'foreign']);
const first = await readTable(privileged, 'nft', TABLE);
await load(500);
const again = await readTable(privileged, 'nft', TABLE);
const tables = async () => (await runner.run(['nft', 'list', 'tables'])).stdout.trim().split('\n');
console.log(
  JSON.stringify({
    one,
    many,
    same: first === again,
    noticed: {
      ruleset: await noticed('flush', 'ruleset'),
      table: await noticed('flush', 'table', 'inet', TABLE),
      chain: await noticed('flush', 'chain', 'inet', TABLE, 'antispoof'),
      element: await noticed('delete', 'element', 'inet', TABLE, 'nat', '{ 172.30.0.2 }'),
      arp: await noticed('flush', 'table', 'arp', TABLE),
      addition: await noticed('insert', 'rule', 'inet', TABLE, 'antispoof', 'accept'),
      nothing: await noticed('list', 'tables'),
      foreign: await noticed('add', 'table', 'inet', 'other'),
    },
    tables: await tables(),
  }),
);
