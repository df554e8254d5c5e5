/** What a new VM is refused, and what it takes that others want too. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { deleteKept } from '../../../src/control/disks/keep.ts';
import type { Host } from '../../../src/control/host.ts';
import { retireImage } from '../../../src/control/images/catalogue.ts';
import { createVm } from '../../../src/control/vm/create.ts';
import { BangerError } from '../../../src/errors.ts';
import { imageFiles, keptDirectory, vmFiles } from '../../../src/storage/layout.ts';
import type { Runner } from '../../../src/system/runner.ts';
import { DISK_BYTES, marker, OLD } from '../../support/mortal-disks.ts';
import { type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { paced } from '../../support/pace.ts';
import { quietProgress } from '../../support/quiet-progress.ts';

const never = new AbortController().signal;
const shape = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 0 };

describe('a new VM', { timeout: paced(30_000) }, () => {
  it('of an image that runs nothing of its own is told no process, and is not made', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const request = { name: 'job', ...shape, process: { user: 'app' } };
    const error = await createVm(host, request, quietProgress(), never).catch((thrown) => thrown);
    assert.ok(error instanceof BangerError, String(error));
    assert.match(error.message, new RegExp(`^process is for OCI images; ${OLD.name} is none`));
    assert.match(error.hint ?? '', /banger run job -- COMMAND/);
    assert.deepEqual(host.stores.vms.list(), []);
  });
});

describe('a new VM of an image that is replaced meanwhile', { timeout: paced(30_000) }, () => {
  const next = 'ffffffff';

  /** Replaces the image as soon as the VM is on record; its disk is copied after that. */
  async function create({ daemon }: MortalHost, signal: AbortSignal, onReplaced: () => void): Promise<Host> {
    const { host } = daemon();
    const { runner } = host.system;
    let replaced: Promise<void> | undefined;
    const progress = {
      ...quietProgress(),
      step() {
        const old = host.stores.images.get(OLD.name);
        host.stores.images.insert({ ...old, id: next }, { replace: old.id });
        replaced = retireImage(host, old).then(onReplaced);
      },
    };
    const afterThat: Runner = {
      ...runner,
      run: async (...args) => {
        await replaced;
        signal.throwIfAborted();
        return await runner.run(...args);
      },
    };
    await createVm(
      { ...host, system: { ...host.system, runner: afterThat } },
      { name: 'web', ...shape },
      progress,
      signal,
    );
    return host;
  }

  it('is made from it, and keeps its kernel and initrd', async () => {
    await using place = await mortalHost();
    const host = await create(place, never, () => {});
    const { store } = place.config.paths;
    const { id } = host.stores.vms.get('web');
    assert.equal(marker(vmFiles(store, id).rootDisk), OLD.name);
    const { rootfs, kernel, initrd } = imageFiles(store, OLD.id);
    assert.deepEqual([rootfs, kernel, initrd].map(existsSync), [false, true, true]);
  });

  it('leaves nothing of it when it is called off', async () => {
    await using place = await mortalHost();
    const stop = new AbortController();
    await assert.rejects(
      create(place, stop.signal, () => stop.abort(new Error('called off'))),
      /called off/,
    );
    assert.deepEqual(place.stores.vms.list(), []);
    assert.equal(existsSync(imageFiles(place.config.paths.store, OLD.id).directory), false);
  });
});

/** Puts a disk among the kept ones; returns its path. */
function keep({ config }: MortalHost, name: string): string {
  const { store } = config.paths;
  mkdirSync(keptDirectory(store), { recursive: true });
  const path = join(keptDirectory(store), `${name}.ext4`);
  copyFileSync(imageFiles(store, OLD.id).rootfs, path);
  return path;
}

describe('a kept work disk', { timeout: paced(30_000) }, () => {
  const request = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 64 * 2 ** 20, workDiskFrom: 'data' };

  it('is given to one of two VMs that are made of it at once, and the other one is not made', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const path = keep(place, 'data');
    const made = await Promise.allSettled(
      ['a', 'b'].map((name) => createVm(host, { name, ...request }, quietProgress(), never)),
    );
    assert.deepEqual(
      made.map((each) => (each.status === 'fulfilled' ? 'made' : each.reason.code)),
      ['made', 'conflict'],
    );
    const [vm] = host.stores.vms.list();
    assert.ok(vm);
    assert.deepEqual([host.stores.vms.list().length, vm.name], [1, 'a']);
    assert.equal(statSync(vmFiles(place.config.paths.store, vm.id).workDisk).nlink, 1);
    assert.equal(existsSync(path), false);
    // it is nobody's claim any more
    await assert.rejects(createVm(host, { name: 'b', ...request }, quietProgress(), never), { code: 'not_found' });
  });

  it('is not deleted while a VM is about to get it, and is kept when that is not made', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const path = keep(place, 'data');
    let deletion: Promise<unknown> | undefined;
    const progress = {
      ...quietProgress(),
      step() {
        deletion = deleteKept(host, 'data').catch((error) => error);
        throw new Error('it fails here');
      },
    };
    await assert.rejects(createVm(host, { name: 'a', ...request }, progress, never), /it fails here/);
    const refused = await deletion;
    assert.ok(refused instanceof BangerError, 'the deletion was not refused');
    assert.match(refused.message, /"data" is taken by the creation of a/);
    assert.match(refused.hint ?? '', /list --kept/);
    assert.deepEqual([host.stores.vms.list(), existsSync(path)], [[], true]);
    assert.deepEqual(await deleteKept(host, 'data'), { name: 'data' });
    assert.equal(existsSync(path), false);
  });

  it('has one owner wherever a creation with it is cut off', async () => {
    const attempt = async (dieBefore: string | undefined) => {
      await using place = await mortalHost();
      const path = keep(place, 'data');
      const daemon = place.daemon(dieBefore);
      await daemon.finish(() =>
        daemon.host.operations.start({
          ...{ kind: 'vm.create', target: 'a' },
          run: (progress, signal) => createVm(daemon.host, { name: 'a', ...request }, progress, signal),
        }),
      );
      await place.daemon().recover();
      const disks = place.stores.vms.list().map(({ id }) => vmFiles(place.config.paths.store, id).workDisk);
      const names = [path, ...disks].filter((each) => existsSync(each));
      assert.deepEqual(
        names.map((each) => statSync(each).nlink),
        [1],
        `before ${dieBefore}: ${names}`,
      );
      return daemon.mortal.effects;
    };
    const effects = await attempt(undefined);
    const taken = effects.indexOf('link data.ext4 → work.ext4');
    assert.ok(taken > 0, effects.join('\n'));
    for (const effect of effects.slice(taken)) await attempt(effect);
  });
});
