import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { imageFiles, keptDirectory, vmFiles } from '../../../src/storage/layout.ts';
import { DISK_BYTES, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { paced } from '../../support/pace.ts';

const never = new AbortController().signal;
const shape = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 0 };

/** A VM at rest, made by somebody. */
function addVm({ stores, config, vm }: MortalHost): void {
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  for (const disk of [rootDisk, workDisk]) copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, disk);
  stores.vms.insert(vm);
}

/** Begins something and calls it off, as the first Ctrl-C does, when it waits for the end of the boot. */
async function callOff(
  daemon: Daemon,
  begin: () => Operation,
): Promise<{ ended: Operation | undefined; steps: string[] }> {
  const { operations } = daemon.host;
  const steps: string[] = [];
  const follow = async (id: string) => {
    for await (const event of operations.events(id, never)) {
      if (event.type !== 'step') continue;
      steps.push(event.step);
      if (event.step === 'wait-for-ready') assert.equal(operations.cancel(id).cancelled, true);
    }
  };
  let followed: Promise<void> | undefined;
  const ended = await daemon.finish(() => {
    const operation = begin();
    followed = follow(operation.id);
    return operation;
  });
  await followed;
  return { ended, steps: steps.slice(steps.indexOf('wait-for-ready')) };
}

describe('what is called off while its guest is not ready yet', { timeout: paced(30_000) }, () => {
  it('is a start or restart: its VM is stopped, with nothing left of the run', async () => {
    for (const action of ['start', 'restart'] as const) {
      await using place = await mortalHost();
      addVm(place);
      const daemon = place.daemon();
      if (action === 'restart') await daemon.finish(() => daemon.life.start('web'));
      place.stayUnready();
      const { ended, steps } = await callOff(daemon, () => daemon.life[action]('web'));
      assert.deepEqual([ended?.state, steps], ['cancelled', ['wait-for-ready', 'undo']], action);
      const { vm, vmms, watched, devices, rules, ledger, odd } = place.see(daemon);
      assert.deepEqual(
        { vm, vmms, watched, devices, rules, ledger, odd },
        { vm: 'stopped', vmms: [], watched: false, devices: [], rules: [], ledger: ['directory'], odd: [] },
        action,
      );
      assert.deepEqual([place.stores.vms.get('web').failure, place.stores.vms.get('web').vmm], [null, null]);
    }
  });

  it('is the run of a new VM: it is gone', async () => {
    await using place = await mortalHost();
    place.stayUnready();
    const daemon = place.daemon();
    const { ended } = await callOff(daemon, () => daemon.life.run('web', shape));
    assert.equal(ended?.state, 'cancelled');
    const { vm, vmms, watched, devices, routes, rules, ledger, odd } = place.see(daemon);
    assert.deepEqual(
      { vm, vmms, watched, devices, routes, rules, ledger, odd },
      { vm: 'none', vmms: [], watched: false, devices: [], routes: [], rules: [], ledger: [], odd: [] },
    );
  });

  it('is the run of a new VM with a kept work disk: that is kept under the name it had', async () => {
    await using place = await mortalHost();
    place.stayUnready();
    const { config } = place;
    const kept = keptDirectory(config.paths.store);
    mkdirSync(kept, { recursive: true });
    copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, join(kept, 'cache.ext4'));
    const daemon = place.daemon();
    const request = { ...shape, workDiskBytes: 64 * 2 ** 20, workDiskFrom: 'cache' };
    const { ended } = await callOff(daemon, () => daemon.life.run('web', request));
    assert.deepEqual([ended?.state, place.see(daemon).vm], ['cancelled', 'none']);
    assert.deepEqual(readdirSync(kept), ['cache.ext4']);
  });

  it('is the run of a new VM with a copy of a file: the copy is gone with it', async () => {
    await using place = await mortalHost();
    place.stayUnready();
    const { config } = place;
    const seed = imageFiles(config.paths.store, OLD.id).rootfs;
    const daemon = place.daemon();
    const request = { ...shape, workDiskBytes: 64 * 2 ** 20, workDiskFrom: seed };
    const { ended } = await callOff(daemon, () => daemon.life.run('web', request));
    assert.deepEqual([ended?.state, place.see(daemon).vm], ['cancelled', 'none']);
    assert.equal(existsSync(keptDirectory(config.paths.store)), false);
    assert.equal(existsSync(seed), true);
  });

  it('is the run of a VM that was there: it is stopped', async () => {
    await using place = await mortalHost();
    addVm(place);
    place.stayUnready();
    const daemon = place.daemon();
    const { ended } = await callOff(daemon, () => daemon.life.run('web', shape));
    assert.equal(ended?.state, 'cancelled');
    assert.deepEqual([place.see(daemon).vm, place.see(daemon).vmms], ['stopped', []]);
  });
});
