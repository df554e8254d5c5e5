/** What a VMM may write and take follows from the guest that it runs, however its VM came to be what it is. */
import assert from 'node:assert/strict';
import { mkdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { confinementOf, groupOf, letFilesGrow } from '../../src/control/confine.ts';
import type { Host } from '../../src/control/host.ts';
import { launchVm } from '../../src/control/vm/boot.ts';
import { vmmSocketOf } from '../../src/control/vmm.ts';
import type { VmRecord } from '../../src/core/vm.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createStores } from '../../src/state/stores.ts';
import { vmFiles } from '../../src/storage/layout.ts';
import { identifyProcess } from '../../src/system/processes.ts';
import { GIB, MIB } from '../../src/units.ts';
import { until } from '../support/host.ts';
import { hostSystem } from '../support/host-system.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

interface Disks {
  root?: number;
  work?: number;
}

interface Case {
  name: string;
  /** what is on record */
  vm: Partial<VmRecord>;
  /** sizes of the disk files */
  disks: Disks;
  /** whether the guest goes on from memory */
  continues?: true;
  limit: number | undefined;
}

const MIB_OF = (gib: number) => (gib * GIB) / MIB;
const ran = (memoryMib: number) => ({ hostname: 'web', vcpus: 2, memoryMib });

const CASES: Case[] = [
  {
    name: 'a first start, whose disks are grown and made beside it',
    vm: { rootDiskBytes: 4 * GIB, workDiskBytes: 9 * GIB },
    disks: { root: 2 * GIB },
    limit: 9 * GIB,
  },
  {
    name: 'a small VM, which still has logs',
    vm: { rootDiskBytes: 256 * MIB, workDiskBytes: 0, memoryMib: 192 },
    disks: { root: 256 * MIB },
    limit: GIB,
  },
  {
    name: 'a VM with more memory than disk, which may be suspended',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 0, memoryMib: MIB_OF(6) },
    disks: { root: 2 * GIB },
    limit: 6 * GIB,
  },
  {
    name: 'a resume after `set --memory` to less: it is suspended again with all it has',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 0, memoryMib: 512, run: ran(MIB_OF(6)) },
    disks: { root: 2 * GIB },
    continues: true,
    limit: 6 * GIB,
  },
  {
    name: 'a resume after `set --memory` to more',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 0, memoryMib: MIB_OF(16), run: ran(512) },
    disks: { root: 2 * GIB },
    continues: true,
    limit: 2 * GIB,
  },
  {
    name: 'a start after `set --memory` to less: the last run is over',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 0, memoryMib: 512, run: ran(MIB_OF(6)) },
    disks: { root: 2 * GIB },
    limit: 2 * GIB,
  },
  {
    name: 'a fork, which has never run by itself',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 3 * GIB, memoryMib: MIB_OF(4) },
    disks: { root: 2 * GIB, work: 3 * GIB },
    continues: true,
    limit: 4 * GIB,
  },
  {
    name: 'a work disk that was resized while it was stopped',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 20 * GIB },
    disks: { root: 2 * GIB, work: 20 * GIB },
    limit: 20 * GIB,
  },
  {
    name: 'a resize that was cut off after the file had grown, and whose record was put back',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: GIB },
    disks: { root: 2 * GIB, work: 20 * GIB },
    limit: 20 * GIB,
  },
  {
    name: 'a resize that was cut off before the file had grown: the start grows it beside',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 20 * GIB },
    disks: { root: 2 * GIB, work: GIB },
    limit: 20 * GIB,
  },
  {
    name: 'a rebase to a larger image',
    vm: { rootDiskBytes: 12 * GIB, workDiskBytes: GIB },
    disks: { root: 12 * GIB, work: GIB },
    limit: 12 * GIB,
  },
  {
    name: 'a restored, imported or undeleted disk that is larger than its record says',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: GIB },
    disks: { root: 7 * GIB, work: 30 * GIB },
    limit: 30 * GIB,
  },
  {
    name: 'a kept work disk that was attached to a VM without one on record',
    vm: { rootDiskBytes: 2 * GIB, workDiskBytes: 0 },
    disks: { root: 2 * GIB, work: 11 * GIB },
    limit: 11 * GIB,
  },
  {
    name: 'a build whose root disk is cloned beside it: nothing is known yet',
    vm: { rootDiskBytes: 0, workDiskBytes: 0 },
    disks: {},
    limit: undefined,
  },
  {
    name: 'a build that has its root disk',
    vm: { rootDiskBytes: 0, workDiskBytes: 0 },
    disks: { root: 5 * GIB },
    limit: 5 * GIB,
  },
];

async function hostWith(t: TestContext, vm: VmRecord, disks: Disks): Promise<Host> {
  const home = await tempDir(t);
  const { config } = await loadConfig({ env: { BANGER_HOME: home }, uid: 0 });
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  await mkdir(directory, { recursive: true });
  for (const [path, bytes] of [
    [rootDisk, disks.root],
    [workDisk, disks.work],
  ] as const) {
    if (bytes === undefined) continue;
    await writeFile(path, '');
    await truncate(path, bytes);
  }
  const stores = createStores(openDatabase(':memory:'));
  stores.vms.insert(vm);
  return { config, stores, system: hostSystem() } as unknown as Host;
}

class Launched extends Error {}

/** The command line that a VMM would be started with. */
async function argvOf(host: Host, vm: VmRecord, continues: boolean): Promise<readonly string[]> {
  let seen: readonly string[] = [];
  const runner = {
    ...host.system.runner,
    startDetached: async (argv: readonly string[]) => {
      seen = argv;
      throw new Launched();
    },
  };
  const boot = { name: 'test', kernel: 'kernel', rootfs: 'rootfs', defaults: {} };
  const checks = { chooseVmm: async () => ({ kind: 'fcqemu', acceleration: 'tcg', program: ['vmm'], env: {} }) };
  const launching = { ...host, checks, system: { ...host.system, runner } } as unknown as Host;
  await assert.rejects(
    launchVm(launching, vm, boot as never, new AbortController().signal, { continues }),
    (error) => error instanceof Launched,
  );
  return seen;
}

describe('the largest file that a VMM writes', () => {
  for (const { name, vm: changes, disks, continues = false, limit } of CASES) {
    it(`is right for ${name}`, async (t) => {
      const vm = sampleVm(changes);
      const host = await hostWith(t, vm, disks);
      const argv = await argvOf(host, vm, continues);
      const found = argv.find((word) => word.startsWith('--fsize='));
      assert.equal(found?.replace(/:$/, ''), limit === undefined ? undefined : `--fsize=${limit}`);
    });
  }
});

describe('the control group of a VM', () => {
  it('has room for the guest that runs, not for the one that is to', async (t) => {
    const vm = sampleVm({ memoryMib: 512, vcpus: 1, run: { hostname: 'web', vcpus: 8, memoryMib: 4096 } });
    const host = await hostWith(t, vm, { root: GIB });
    const directory = await tempDir(t);
    const grouped = { ...host, system: { ...host.system, cgroups: { directory } } } as unknown as Host;
    const limits = async () => ({
      memory: Number(await readFile(join(directory, vm.id, 'memory.max'), 'utf8')) / MIB,
      tasks: Number(await readFile(join(directory, vm.id, 'pids.max'), 'utf8')),
    });
    await argvOf(grouped, vm, true);
    assert.deepEqual(await limits(), { memory: 4096 * 1.25 + 512, tasks: 256 + 8 });
    await argvOf(grouped, vm, false);
    assert.deepEqual(await limits(), { memory: 512 * 1.25 + 512, tasks: 256 + 1 });
    assert.deepEqual(
      host.stores.ledger.of(vm.id).filter(({ kind }) => kind === 'cgroup'),
      [{ kind: 'cgroup', name: join(directory, vm.id) }],
    );
    assert.equal(await groupOf(host, vm, vm), undefined, 'where there are none');
  });
});

describe('a disk or log that grows while its guest runs', () => {
  it('leaves its VMM all it could write before, also what the next start would not give it', async (t) => {
    const vm = sampleVm({
      ...{ phase: 'running', rootDiskBytes: 2 * GIB, workDiskBytes: GIB },
      ...{ memoryMib: 512, run: { hostname: 'web', vcpus: 2, memoryMib: MIB_OF(6) } },
    });
    const host = await hostWith(t, vm, { root: 2 * GIB, work: GIB });
    const { runner } = host.system;
    const confine = await confinementOf(host, vm, { vcpus: 2, memoryMib: MIB_OF(6) }, { acceleration: 'tcg' });
    const { pid } = await runner.startDetached(confine(['sleep', '30']), { stdout: 'ignore', stderr: 'ignore' });
    try {
      const identity = await identifyProcess(pid);
      const socket = vmmSocketOf(host, vm.id);
      host.stores.ledger.record(vm.id, { kind: 'vmm', name: socket, identity: identity ?? assert.fail('it ended') });
      const limit = async () => /^Max file size\s+(\d+)/m.exec(await readFile(`/proc/${pid}/limits`, 'utf8'))?.[1];
      await until('it has its limit', async () => (await limit()) !== undefined);
      for (const [bytes, expected] of [
        [3 * GIB, 6 * GIB],
        [9 * GIB, 9 * GIB],
      ] as const) {
        await truncate(vmFiles(host.config.paths.store, vm.id).workDisk, bytes);
        await letFilesGrow(host, vm);
        assert.equal(await limit(), String(expected));
      }
      const { vmmLog } = vmFiles(host.config.paths.store, vm.id);
      await writeFile(vmmLog, '');
      // it only ever grows, freed of its old lines
      await truncate(vmmLog, 10 * GIB);
      await letFilesGrow(host, vm);
      assert.equal(await limit(), String(11 * GIB));
    } finally {
      process.kill(pid, 'SIGKILL');
    }
  });
});
