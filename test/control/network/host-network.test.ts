import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import { createHostNetwork } from '../../../src/control/network/host-network.ts';
import { parseSubnet } from '../../../src/core/addresses.ts';
import { createLocalPort } from '../../../src/network/port.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createLedger } from '../../../src/state/ledger.ts';
import { createPrivileged } from '../../../src/system/privilege.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { scriptedRunner } from '../../support/scripted-runner.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** A VM that is attached on a host where its table reads as `table` says and its device is gone. */
async function place(t: TestContext, hearsRules = true) {
  const dir = await tempDir(t);
  const { config } = await loadConfig({ env: { HOME: dir, BANGER_HOME: dir }, uid: 0 });
  const database = openDatabase(':memory:');
  t.after(() => database.close());
  const ledger = createLedger(database);
  const vm = sampleVm({ name: 'web' });
  ledger.record(vm.id, { kind: 'tap', name: `bgr-${vm.id}` });
  const table = { text: '{"nftables":[]}', exit: 0, flushes: 0 };
  const runner = scriptedRunner({
    'nft -j list table': () => ({ stdout: table.text, exit: table.exit }),
    'nft -j list table arp': { exit: 1 },
    'nft -f -': () => {
      table.text = table.flushes-- > 0 ? FLUSHED : listingOf(runner.inputs.at(-1) ?? '');
      return {};
    },
    'ip route replace unreachable': {},
    'ip -j -4 route show': { stdout: '[]' },
    'ip -j -4 rule show': { stdout: '[]' },
  });
  const heard = { rules: false, links: false };
  const canary = { arrives: false };
  const network = createHostNetwork({
    config,
    runner,
    port: createLocalPort({
      privileged: createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' }),
      programs: config.programs,
      atOnce: true,
    }),
    ledger,
    guests: () => [vm],
    pool: parseSubnet('10.99.0.0/16'),
    table: 'banger_test',
    uid: 0,
    canary: { port: 4242, arrives: async () => canary.arrives, [Symbol.dispose]() {} },
    followChanges: async () => ({
      hearsRules,
      take: () => {
        const news = { ...heard, ...(hearsRules ? {} : { rules: true }) };
        Object.assign(heard, { rules: false, links: false });
        return news;
      },
      [Symbol.dispose]() {},
    }),
  });
  const ran = () => runner.calls.splice(0);
  return { network, table, heard, canary, ran };
}

/** A table as nft lists it: its rules and elements are counted, whatever they are. */
function listingOf(text: string): string {
  const rules = text.split('\n').flatMap((line) => (/^ {4}(?!type )/.test(line) ? [{ rule: { expr: line } }] : []));
  const sets = [...text.matchAll(/elements = \{ (.*) \}/g)].map(([, list = '']) => ({
    set: { elem: list.split(', ') },
  }));
  return JSON.stringify({ nftables: [...sets, ...rules] });
}

const FLUSHED = '{"nftables":[{"chain":{"name":"forward"}}]}';

const LIST = 'nft -j list table inet banger_test';
const WRITE = 'nft -f -';

describe('a host that is kept as it should be', () => {
  it('is looked at once, and then no program runs until the kernel tells of a change', async (t) => {
    const { network, table, heard, ran } = await place(t);
    await network.mend();
    assert.deepEqual(
      ran().filter((call) => call.startsWith('nft') && !call.includes(' arp ')),
      [LIST, WRITE, LIST],
    );
    for (let round = 0; round < 3; round++) assert.equal((await network.mend()).rules, false);
    assert.deepEqual(
      ran().filter((call) => call.startsWith('nft') && !call.includes(' arp ')),
      [],
    );

    heard.rules = true;
    table.text = '{"nftables":[{"chain":{"name":"mine"}}]}';
    assert.equal((await network.mend()).rules, true);
    assert.deepEqual(
      ran().filter((call) => call.startsWith('nft') && !call.includes(' arp ')),
      [LIST, WRITE, LIST],
    );
  });

  it('takes no table for its own that was flushed before it could be read', async (t) => {
    const { network, table, heard, ran } = await place(t);
    const rules = () => ran().filter((call) => call.startsWith('nft') && !call.includes(' arp '));
    table.flushes = 2;
    assert.equal((await network.mend()).rules, true);
    assert.deepEqual(rules(), [LIST, WRITE, LIST, WRITE, LIST, WRITE, LIST]);
    assert.match(table.text, /masquerade/);

    // longer than one round goes on: without a word from the kernel the next one looks again
    Object.assign(table, { text: FLUSHED, flushes: 4 });
    heard.rules = true;
    await network.mend();
    assert.equal(table.text, FLUSHED);
    assert.equal((await network.mend()).rules, true);
    assert.match(table.text, /masquerade/);
    rules();
    assert.equal((await network.mend()).rules, false);
    assert.deepEqual(rules(), []);
  });

  it('is looked at when a packet arrives that rules should have dropped, where the kernel tells nothing', async (t) => {
    const { network, table, canary, ran } = await place(t, false);
    const rules = () => ran().filter((call) => call.startsWith('nft') && !call.includes(' arp '));
    await network.mend();
    assert.deepEqual(rules(), [LIST, WRITE, LIST]);
    for (let round = 0; round < 3; round++) assert.equal((await network.mend()).rules, false);
    assert.deepEqual(rules(), [], 'no program runs as long as none arrives');
    canary.arrives = true;
    table.text = '{"nftables":[{"chain":{"name":"mine"}}]}';
    assert.equal((await network.mend()).rules, true);
    assert.deepEqual(rules(), [LIST, WRITE, LIST]);
  });

  it('is looked at again after a look that failed', async (t) => {
    const { network, table, heard, ran } = await place(t);
    await network.mend();
    ran();
    heard.rules = true;
    table.exit = 3;
    await assert.rejects(network.mend(), /ended with 3/);
    table.exit = 0;
    await network.mend();
    assert.deepEqual(
      ran().filter((call) => call === LIST),
      [LIST, LIST],
    );
  });

  it('tells of a device that is gone for as long as it is', async (t) => {
    const { network } = await place(t);
    for (let round = 0; round < 3; round++) assert.equal((await network.mend()).goneTaps.length, 1);
  });

  it('asks for the uplink again when a device or route changed, not at every reconcile', async (t) => {
    const { network, heard, ran } = await place(t);
    const asked = () => ran().filter((call) => call === 'ip -j -4 route show table all type unicast').length;
    await network.reassert();
    assert.equal(asked(), 1);
    await network.reassert();
    assert.equal(asked(), 0);
    heard.links = true;
    await network.mend();
    await network.reassert();
    assert.equal(asked(), 1);
  });
});
