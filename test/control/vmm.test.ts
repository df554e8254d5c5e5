import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import type { Config } from '../../src/config/schema.ts';
import { findVmmOf, livesAsRecorded } from '../../src/control/vmm.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createStores } from '../../src/state/stores.ts';
import { vmmSocket } from '../../src/storage/layout.ts';
import { findLeftPrograms, identifyProcess, type ProcessIdentity } from '../../src/system/processes.ts';
import { hostSystem } from '../support/host-system.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

/** A process that waits, with these arguments. */
async function waiting(t: TestContext, args: readonly string[], detached = false): Promise<ChildProcess> {
  const child = spawn('sh', ['-c', 'read _', ...args], { stdio: ['pipe', 'ignore', 'ignore'], detached });
  t.after(() => child.kill('SIGKILL'));
  await once(child, 'spawn');
  return child;
}

async function identify(child: ChildProcess): Promise<ProcessIdentity> {
  const identity = await identifyProcess(child.pid ?? 0);
  assert.ok(identity);
  return identity;
}

describe('the VMM of a VM', () => {
  it('is the process that was written down, whoever else has its arguments, and another one only without it', async (t) => {
    const run = await tempDir(t);
    const database = openDatabase(':memory:');
    t.after(() => database.close());
    const stores = createStores(database);
    const vm = sampleVm();
    const name = vmmSocket(run, vm.id);
    // of the configuration, nothing else is looked at
    const host = { config: { paths: { run } } as Config, stores, system: hostSystem() };
    assert.equal(await findVmmOf(host, vm), undefined);

    const vmm = await waiting(t, ['vmm']);
    const impostor = await waiting(t, ['vmm', '--api-sock', name]);
    const identity = await identify(vmm);
    stores.ledger.record(vm.id, { kind: 'vmm', name, identity });
    assert.equal((await findVmmOf(host, vm))?.pid, vmm.pid);
    assert.ok(await livesAsRecorded(host, vm));
    // another process has its number by now
    stores.ledger.record(vm.id, { kind: 'vmm', name, identity: { ...identity, startTicks: identity.startTicks - 1 } });
    assert.equal((await findVmmOf(host, vm))?.pid, impostor.pid, 'a daemon may have died before it could write');
    assert.ok(!(await livesAsRecorded(host, vm)));
  });
});

describe('programs that a dead daemon left', () => {
  it('lead sessions of their own, unlike what people run on the same files', async (t) => {
    const file = `/nowhere/${process.pid}/root.ext4.part`;
    const left = await waiting(t, [file], true);
    await waiting(t, [file]);
    const found = await findLeftPrograms((argv) => argv.includes(file));
    assert.deepEqual(
      found.map(({ pid }) => pid),
      [left.pid],
    );
  });
});
