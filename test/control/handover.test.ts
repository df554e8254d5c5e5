import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { programWithinReach } from '../../src/control/confine.ts';
import {
  freeUser,
  handOverFile,
  makeFileForVmm,
  sealAgainstVmm,
  settleUser,
  takeBack,
  userOf,
  withinReach,
} from '../../src/control/handover.ts';
import type { Host } from '../../src/control/host.ts';
import { letLoadShared, needsOwnMemory, shareMemory } from '../../src/control/memory/share.ts';
import type { Fit } from '../../src/core/fit.ts';
import { chooseUser, NO_VM_USERS, type UserRange } from '../../src/core/vm-users.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createStores } from '../../src/state/stores.ts';
import { memoryFiles, vmFiles } from '../../src/storage/layout.ts';
import { confinedArgv } from '../../src/system/confinement.ts';
import { createRunner } from '../../src/system/runner.ts';
import { hostSystem } from '../support/host-system.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

const skip = process.getuid?.() !== 0 && 'other users need root';
/** Away from that of bangers of this host. */
const RANGE: UserRange = { first: 2_000_000_000, last: 2_000_000_015 };

async function hostWithVm(t: TestContext, user: number | null = null, range: UserRange | undefined = RANGE) {
  const home = await tempDir(t);
  const { config } = await loadConfig({ env: { BANGER_HOME: home }, uid: 0 });
  const stores = createStores(openDatabase(':memory:'));
  const system = { ...hostSystem(), vmUsers: { range, kvmGroup: undefined } };
  const vm = sampleVm({ user });
  stores.vms.insert(vm);
  const { directory, rootDisk } = vmFiles(config.paths.store, vm.id);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeFile(rootDisk, 'data', { mode: 0o600 });
  return { host: { config, stores, system } as unknown as Host, vm, home, directory, rootDisk };
}

describe('the user of a VM', { skip }, () => {
  it('comes at its next start to one of an earlier banger, with its files', async (t) => {
    const { host, vm, rootDisk, directory } = await hostWithVm(t);
    assert.equal(userOf(host, vm), undefined);
    const settled = await settleUser(host, vm);
    assert.equal(settled.user, chooseUser(RANGE, vm.id, new Set()));
    assert.equal(host.stores.vms.get(vm.name).user, settled.user);
    assert.equal((await stat(rootDisk)).uid, settled.user);
    const { uid, gid, mode } = await stat(directory);
    assert.deepEqual([uid, gid, mode & 0o7777], [0, settled.user, 0o710]);
    assert.equal((await settleUser(host, settled)).user, settled.user, 'and stays');
  });

  it('is another one when somebody else runs programs as it', async (t) => {
    const { host, vm, rootDisk } = await hostWithVm(t, RANGE.first + 3);
    const runner = createRunner();
    const foreign = await runner.startDetached(confinedArgv(['sleep', '30'], { user: RANGE.first + 3, limits: {} }), {
      stdout: 'ignore',
      stderr: 'ignore',
    });
    t.after(() => process.kill(foreign.pid, 'SIGKILL'));
    for (let owner = 0; owner !== RANGE.first + 3; owner = (await stat(`/proc/${foreign.pid}`)).uid);
    const { user } = await settleUser(host, vm);
    assert.notEqual(user, RANGE.first + 3);
    assert.equal((await stat(rootDisk)).uid, user);
  });

  it('is another one when the range is', async (t) => {
    const { host, vm } = await hostWithVm(t, 1_234_567);
    const { user } = await settleUser(host, vm);
    assert.ok(user !== null && user > RANGE.first && user <= RANGE.last);
  });

  it('is none that another VM has, be it deleted or an image build', async (t) => {
    const { host } = await hostWithVm(t, RANGE.first + 1);
    host.stores.trash.put(
      sampleVm({ id: '00000002', name: 'gone', user: RANGE.first + 2 }),
      '2026-01-01T00:00:00.000Z',
    );
    for (let left = RANGE.last - RANGE.first - 2; left > 0; left--) {
      const id = (left + 100).toString(16).padStart(8, '0');
      const user = freeUser(host, id);
      assert.ok(user !== null && ![RANGE.first, RANGE.first + 1, RANGE.first + 2].includes(user));
      const address = `172.30.1.${left}`;
      host.stores.vms.insert(sampleVm({ id, name: `vm-${left}`, address, user }));
    }
    assert.throws(() => freeUser(host, 'ffffffff'), { code: 'conflict' });
  });

  it('is none where VMs run as the daemon does', async (t) => {
    const { host, vm, rootDisk } = await hostWithVm(t, RANGE.first + 3);
    Object.assign(host.system, { vmUsers: NO_VM_USERS });
    assert.equal(freeUser(host, vm.id), null);
    assert.equal(userOf(host, vm), undefined);
    assert.deepEqual(await settleUser(host, vm), vm);
    await handOverFile(host, vm, rootDisk);
    assert.equal((await stat(rootDisk)).uid, 0);
  });
});

describe('a file that a VMM works with', { skip }, () => {
  it('is made for it, and taken back', async (t) => {
    const { host, vm, directory } = await hostWithVm(t, RANGE.first + 3);
    const memory = join(directory, 'memory');
    await writeFile(memory, 'of an earlier one');
    await makeFileForVmm(host, vm, memory);
    const made = await stat(memory);
    assert.deepEqual([made.uid, made.size], [RANGE.first + 3, 0]);
    await takeBack(host, memory);
    assert.equal((await stat(memory)).uid, 0);
    await sealAgainstVmm(host, vm);
    assert.equal((await stat(directory)).mode & 0o7777, 0o710);
  });

  it('is named by its path where everybody may read it, and by a name in the directory where not', async (t) => {
    const { host, vm, home, directory } = await hostWithVm(t, RANGE.first + 3);
    assert.equal(await withinReach(host, vm, '/bin/true', true), '/bin/true');
    const kernel = join(home, 'vmlinux');
    await writeFile(kernel, 'kernel');
    await chmod(home, 0o700);
    assert.equal(await withinReach(host, vm, kernel), 'use-vmlinux');
    assert.equal(await readFile(join(directory, 'use-vmlinux'), 'utf8'), 'kernel');
    const program = join(home, 'fcqemu');
    await writeFile(program, '#!/bin/sh\n', { mode: 0o755 });
    assert.deepEqual(await programWithinReach(host, vm, [program]), ['./use-fcqemu']);
    await assert.rejects(programWithinReach(host, vm, ['/bin/sh', program]), {
      code: 'host_unprepared',
      message: /may not read/,
    });
    assert.deepEqual(await programWithinReach(host, { ...vm, user: null }, [program]), [program]);
  });
});

describe('memory that several VMs begin with', { skip }, () => {
  const fit = (vmm: 'firecracker' | 'fcqemu') => ({ vmm }) as Fit;
  const never = new AbortController().signal;

  it('is one file that none may write, or a copy for whoever opens it for writing', async (t) => {
    const { host, vm, home } = await hostWithVm(t, RANGE.first + 3);
    const other = sampleVm({ id: '00000002', name: 'other', user: RANGE.first + 4 });
    const source = { memory: join(home, 'template.memory'), state: join(home, 'template.state') };
    for (const path of Object.values(source)) await writeFile(path, 'of a template', { mode: 0o600 });
    const runner = createRunner();
    const loaded = await Promise.all(
      [vm, other].map(async (each) => {
        const files = memoryFiles(host.config.paths.store, each.id);
        await mkdir(files.directory, { recursive: true, mode: 0o700 });
        return { each, files };
      }),
    );
    const writes = async (user: number | null, path: string) => {
      const argv = confinedArgv(['sh', '-c', `echo x >> ${basename(path)}`], { user: user ?? 0, limits: {} });
      return (await runner.run(argv, { cwd: dirname(path), okExits: [0, 1, 2] })).exitCode === 0;
    };
    for (const vmm of ['firecracker', 'fcqemu'] as const) {
      const own = needsOwnMemory(host, vm, fit(vmm));
      assert.equal(own, vmm === 'fcqemu');
      for (const { each, files } of loaded) {
        for (const path of [files.memory, files.state]) await rm(path, { force: true });
        await shareMemory(host, source, files, own, never);
        await letLoadShared(host, each, files, own);
      }
      for (const { each, files } of loaded) {
        assert.equal(await readFile(files.memory, 'utf8'), 'of a template');
        assert.equal(await writes(each.user, files.state), false, `${vmm}: the state`);
        assert.equal(await writes(each.user, files.memory), own, vmm);
      }
      assert.equal(await readFile(source.memory, 'utf8'), 'of a template', vmm);
      const inodes = await Promise.all([source, ...loaded.map(({ files }) => files)].map(({ memory }) => stat(memory)));
      assert.equal(new Set(inodes.map(({ ino }) => ino)).size, own ? 3 : 1);
    }
  });

  it('is one file for all where all run as one user', async (t) => {
    const { host, vm } = await hostWithVm(t, null, undefined);
    assert.equal(needsOwnMemory(host, vm, fit('fcqemu')), false);
  });
});
