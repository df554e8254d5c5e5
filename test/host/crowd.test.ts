/** Many VMs and many clients at once, on disks of a few MiB and without guests. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, describe, it } from 'node:test';
import { createClient } from '../../src/client/client.ts';
import { followOperation } from '../../src/client/follow-operation.ts';
import { asBangerError } from '../../src/errors.ts';
import { findVmm } from '../../src/firecracker/launch.ts';
import { hostSkip, TestHost, until } from '../support/host.ts';
import { paced } from '../support/pace.ts';
import { makeDisk } from './tiny-guest.ts';

const LIMIT = { timeout: paced(120_000) };
const CLIENTS = 50;
const RECORDS = 30;
const RUNNING = 10;

describe('a crowd', { skip: hostSkip() }, () => {
  let host: TestHost;
  let disks: string;
  const vmms: ChildProcess[] = [];

  before(async () => {
    disks = await mkdtemp('/tmp/bt-crowd-');
    await makeDisk(join(disks, 'root.ext4'), '8M');
    host = await TestHost.create({
      env: { BANGER_BUNDLE_ROOTFS: join(disks, 'root.ext4'), BANGER_VM_ROOT_DISK: '8MiB', BANGER_VM_WORK_DISK: '0B' },
    });
    await host.daemon();
  });
  after(async () => {
    for (const vmm of vmms) vmm.kill('SIGKILL');
    await host?.[Symbol.asyncDispose]();
    await rm(disks, { recursive: true, force: true });
  });

  it('of clients creates and deletes without losing or breaking anything', LIMIT, async () => {
    const problems: string[] = [];
    const lives = Array.from({ length: CLIENTS }, async (_, index) => {
      const client = createClient({ socketPath: host.socket });
      // every name is wanted by two of them
      const name = `vm-${Math.floor(index / 2)}`;
      const attempt = async (work: () => Promise<{ id: string }>) => {
        try {
          const { state, error } = await followOperation(client, (await work()).id, () => {});
          if (state !== 'succeeded') problems.push(error?.code ?? state);
          return state === 'succeeded';
        } catch (error) {
          problems.push(asBangerError(error).code);
          return false;
        }
      };
      const created = await attempt(() => client.call('createVm', { body: { name } }));
      if (!created) return 0;
      if (index % 4 < 2) return 1;
      const query = { now: index % 3 === 0 };
      return (await attempt(() => client.call('deleteVm', { params: { name }, query }))) ? 0 : 1;
    });
    const left = (await Promise.all(lives)).reduce<number>((sum, each) => sum + each, 0);
    // two that want the same name at once: one of them is told so, and nobody hears of a bug
    assert.deepEqual(
      problems.filter((code) => code !== 'conflict'),
      [],
    );
    const listed = await host.vms();
    assert.equal(listed.length, left);
    assert.equal(new Set(listed.map(({ address }) => address)).size, left, 'no address twice');
    const trashed = await host.client.call('listTrash', {});
    const directories = await readdir(join(host.home, 'state/store/vms'));
    assert.deepEqual(directories.sort(), [...listed, ...trashed].map(({ id }) => id).sort());
    await host.ok('rm', '--now', ...listed.map(({ name }) => name));
    await host.ok('trash', 'empty');
    assert.deepEqual(await readdir(join(host.home, 'state/store/vms')), []);
    await host.assertQuiet('of a crowd');
  });

  it('of VMs is taken over within two seconds after the daemon was killed', LIMIT, async (t) => {
    const started = async (): Promise<number> => {
      const begun = performance.now();
      await host.ok('daemon', 'start');
      await host.vms();
      return performance.now() - begun;
    };
    await host.ok('daemon', 'stop');
    const emptyMs = await started();
    const names = Array.from({ length: RECORDS }, (_, index) => `vm-${String(index).padStart(2, '0')}`);
    for (const name of names) await host.ok('create', name);
    const ids = (await host.vms()).slice(0, RUNNING).map(({ id }) => id);
    await host.killDaemon();
    for (const id of ids) await pretendToRun(id);

    const tookMs = await started();
    const listed = await host.vms();
    const times = `${Math.round(tookMs)} ms, without VMs ${Math.round(emptyMs)} ms`;
    t.diagnostic(`${RECORDS} records, ${RUNNING} running: true after ${times}`);
    assert.equal(listed.length, RECORDS);
    assert.deepEqual(
      listed.filter(({ state }) => state === 'running').map(({ id }) => id),
      ids,
    );
    assert.ok(listed.every(({ failure, problem }) => failure === null && problem === null));
    // where a daemon without VMs takes 0.7 s to start, as on the machines that the limit was chosen on
    assert.ok(tookMs < Math.max(2000, 3 * emptyMs), times);

    vmms[0]?.kill('SIGKILL');
    await until('the end of one is noticed', async () => (await host.vms())[0]?.state === 'failed', 10_000);
    assert.equal((await host.vms()).filter(({ state }) => state === 'running').length, RUNNING - 1);
    await host.ok('rm', '--force', '--now', ...names);
    await host.assertQuiet('of many VMs');
  });

  /** Makes a VM's record and a process that is no VMM look like a run; no daemon may be there. */
  async function pretendToRun(id: string): Promise<void> {
    const socket = join(host.home, 'run/vmm', `${id}.sock`);
    const script = join(import.meta.dirname, '../support/idle-vmm.ts');
    vmms.push(spawn(process.execPath, [script, '--api-sock', socket], { env: host.env, stdio: 'ignore' }));
    await until('it listens', async () => (await readdir(join(host.home, 'run/vmm'))).includes(`${id}.sock`));
    const identity = await findVmm(socket);
    assert.ok(identity);
    const database = new DatabaseSync(join(host.home, 'state/banger.db'));
    database
      .prepare(`UPDATE vms SET phase = 'running', started_at = ?, vmm = 'fcqemu' WHERE id = ?`)
      .run(new Date().toISOString(), id);
    database
      .prepare(`INSERT INTO ledger (vm_id, kind, name, detail, created_at) VALUES (?, 'vmm', ?, ?, '')`)
      .run(id, socket, JSON.stringify({ identity }));
    database.close();
  }
});
