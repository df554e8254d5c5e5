import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { link, mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import { requireFreeDisks } from '../../../src/control/vm/free-disks.ts';
import { releaseVm } from '../../../src/control/vm/release.ts';
import { launchVmm } from '../../../src/firecracker/launch.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createLedger } from '../../../src/state/ledger.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { isAlive } from '../../../src/system/processes.ts';
import { createRunner } from '../../../src/system/runner.ts';
import { fakeVmm } from '../../firecracker/fake-vmm.ts';
import { NO_AGENTS } from '../../support/no-agents.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

const vm = sampleVm({ name: 'web' });

/** A VM's disk, and a program that has a file open as the shell says. */
async function place(t: TestContext) {
  const dir = await tempDir(t);
  const { config } = await loadConfig({ env: { HOME: dir, BANGER_HOME: dir }, uid: process.getuid?.() ?? 0 });
  const { rootDisk } = vmFiles(config.paths.store, vm.id);
  await mkdir(dirname(rootDisk), { recursive: true });
  await writeFile(rootDisk, 'disk');
  const open = async (redirection: string, file: string) => {
    const child = spawn('sh', ['-c', `exec 3${redirection}"$1"; echo ready; exec sleep 60`, 'sh', file], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    return child;
  };
  return { dir, config, rootDisk, open };
}

describe('a start', () => {
  it('is refused while a process writes to a disk of the VM, by whatever name', async (t) => {
    const { dir, config, rootDisk, open } = await place(t);
    const alias = join(dir, 'alias');
    await link(rootDisk, alias);
    await requireFreeDisks({ config }, vm);
    const backup = await open('<', rootDisk);
    await requireFreeDisks({ config }, vm);
    const writer = await open('<>', alias);
    await assert.rejects(requireFreeDisks({ config }, vm), {
      code: 'conflict',
      message: `web cannot start: process ${writer.pid} (sleep) writes to its disk ${rootDisk}.`,
    });
    for (const child of [backup, writer]) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    await requireFreeDisks({ config }, vm);
  });
});

describe('a release', () => {
  it('ends every VMM of the socket, and the one that was written down', async (t) => {
    const { dir, config } = await place(t);
    const socketPath = join(dir, 'vm.sock');
    const start = async (path: string, log: string) =>
      await launchVmm(createRunner(), {
        ...{ program: await fakeVmm(dir, 'ready'), id: 'banger-5f3a9c01', directory: dir, socketPath: path },
        ...{ consoleLog: join(dir, `${log}.console`), vmmLog: join(dir, log), env: process.env },
      });
    const vmms = [await start(socketPath, 'a'), await start(socketPath, 'b'), await start(join(dir, 'moved'), 'c')];
    const [, , recorded] = vmms;
    const database = openDatabase(':memory:');
    t.after(() => database.close());
    const ledger = createLedger(database);
    ledger.record(vm.id, { kind: 'vmm', name: socketPath, ...(recorded && { identity: recorded.identity }) });
    const host = {
      config,
      guests: { drop: async () => {} },
      agents: NO_AGENTS,
      health: { silent: new Set(), emulatedMeanwhile: new Set(), processes: new Map() },
      stores: { ledger },
      network: { detach: async () => {} },
      system: { privileged: { kill: async () => assert.fail('they are ours') } },
    } as unknown as Parameters<typeof releaseVm>[0];
    await releaseVm(host, vm);
    for (const { identity } of vmms) assert.equal(await isAlive(identity), false);
    assert.deepEqual(ledger.of(vm.id), []);
  });
});
