import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { lacking } from '../bundle/sample-bundle.ts';

const run = promisify(execFile);
const skip = process.getuid?.() !== 0 ? 'a network namespace needs root' : lacking('nft', 'unshare', 'ip');

describe('the packet rules in a real kernel', { skip }, () => {
  it('are as many for 500 VMs as for one, and whatever others do to them is seen', async () => {
    const scenario = join(import.meta.dirname, 'support/rules-scenario.ts');
    const { stdout } = await run('unshare', ['--net', process.execPath, scenario], { timeout: 60_000 });
    const seen = JSON.parse(stdout);
    assert.equal(seen.many.rules, seen.one.rules);
    assert.deepEqual(seen.one.elements, { taps: 1, vms: 1, nat: 1, flows: 0, lent: 0 });
    assert.deepEqual(seen.many.elements, { taps: 500, vms: 500, nat: 500, flows: 0, lent: 0 });
    assert.equal(seen.same, true, 'writing the same again changes nothing that is compared');
    assert.deepEqual(seen.noticed, {
      ruleset: true,
      table: true,
      chain: true,
      element: true,
      addition: true,
      arp: true,
      nothing: false,
      foreign: false,
    });
    assert.ok(seen.tables.includes('table inet other'), 'tables of others are left alone');
  });
});
