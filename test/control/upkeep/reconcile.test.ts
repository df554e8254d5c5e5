/** What goes wrong while a VM is recovered: it costs nothing that nothing else has, and is tried again. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { sweepHost } from '../../../src/control/upkeep/reconcile.ts';
import { createRestarts } from '../../../src/control/upkeep/restarts.ts';
import { tapName, type VmRecord } from '../../../src/core/vm.ts';
import { memoryFiles, vmFiles } from '../../../src/storage/layout.ts';
import { readBootId } from '../../../src/system/processes.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { withAgents } from '../../support/waking-agents.ts';
import { runningVm } from '../../support/warm-works.ts';

const suspend = ({ life }: Daemon) => life.suspend('web');

/** Looks again as every 30 s, and waits for what follows. */
async function sweep({ host, life, mortal }: Daemon): Promise<void> {
  const nobody = createRestarts(
    host,
    async () => 'failed',
    async () => {},
  );
  await mortal.run(() => sweepHost(host, life, nobody));
  const active = host.operations.activeOn('web');
  if (active) await host.operations.finished(active.id);
}

/** A daemon that cannot free the VM's device, for as long as it is told so. */
function hampered(place: MortalHost): { daemon: Daemon; relieve: () => void } {
  place.stores.ledger.record(place.vm.id, { kind: 'tap', name: tapName(place.vm.id) });
  const daemon = withAgents(place.daemon(), { woken: [] });
  const { network } = daemon.host;
  const { detach } = network;
  network.detach = async () => {
    throw new Error('nft took too long');
  };
  return { daemon, relieve: () => Object.assign(network, { detach }) };
}

/** Its state, and whether its memory is on record and in its directory. */
function look({ stores, config, vm }: MortalHost): [VmRecord['phase'] | undefined, boolean, boolean] {
  const record = stores.vms.findById(vm.id);
  return [
    record?.phase,
    record != null && record.memory !== null,
    existsSync(memoryFiles(config.paths.store, vm.id).memory),
  ];
}

describe('a recovery that fails', () => {
  for (const phase of ['suspended', 'resuming'] as const) {
    it(`leaves a VM that is ${phase} its memory, and is made good by the next sweep`, async () => {
      await using place = await runningVm(suspend);
      place.stores.vms.update(place.vm.id, { phase });
      const { daemon, relieve } = hampered(place);
      await daemon.recover();
      assert.deepEqual(look(place), [phase, true, true]);
      await sweep(daemon);
      assert.deepEqual(look(place), [phase, true, true]);
      relieve();
      await sweep(daemon);
      assert.deepEqual(look(place), ['suspended', true, true]);
      assert.ok(!place.stores.ledger.of(place.vm.id).some(({ kind }) => kind === 'tap'));
      assert.equal((await daemon.finish(() => daemon.life.resume('web')))?.state, 'succeeded');
    });
  }

  it('leaves a VM that was about to go on its memory when it cannot be read what it belongs to', async () => {
    await using place = await runningVm(suspend);
    const { memory } = place.stores.vms.get('web');
    assert.ok(memory);
    place.stores.vms.update(place.vm.id, { phase: 'resuming', memory: { ...memory, spentOn: await readBootId() } });
    const { manifest } = memoryFiles(place.config.paths.store, place.vm.id);
    renameSync(manifest, `${manifest}.away`);
    mkdirSync(manifest);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    assert.deepEqual(look(place), ['resuming', true, true]);
    renameSync(manifest, `${manifest}.directory`);
    renameSync(`${manifest}.away`, manifest);
    await sweep(daemon);
    assert.deepEqual(look(place), ['suspended', true, true]);
  });

  it('lets a VM run on that was taken over before', async () => {
    await using place = await runningVm();
    const { rootDisk, lastRootDisk } = vmFiles(place.config.paths.store, place.vm.id);
    const { image, imageId, rootDiskBytes } = place.vm;
    place.stores.ledger.record(place.vm.id, {
      ...{ kind: 'rebase', name: rootDisk, step: 'settled', imageId, ran: true },
      before: { image, imageId, rootDiskBytes },
    });
    writeFileSync(lastRootDisk, '');
    const failing = place.daemon({
      onEffect(what) {
        if (what.startsWith('rm root.last.ext4')) throw new Error('EIO: i/o error');
      },
    });
    withAgents(failing, { woken: [] });
    await failing.recover();
    assert.ok(existsSync(lastRootDisk));
    await sweep(failing);
    const { phase, failure } = place.stores.vms.get('web');
    assert.deepEqual([phase, failure, failing.life.watches(place.vm.id)], ['running', null, true]);
    assert.deepEqual(place.see(failing).vmms, ['Running']);
    await failing.drop();
    const next = withAgents(place.daemon(), { woken: [] });
    await next.recover();
    assert.deepEqual([existsSync(lastRootDisk), place.see(next).vm], [false, 'running']);
  });

  it('makes no VM of one that is being created or deleted', async () => {
    await using place = await runningVm(({ life }) => life.stop('web'));
    place.stores.vms.update(place.vm.id, { phase: 'creating' });
    const { daemon, relieve } = hampered(place);
    await daemon.recover();
    assert.equal(place.stores.vms.find('web')?.phase, 'creating');
    relieve();
    await sweep(daemon);
    assert.equal(place.see(daemon).vm, 'none');
  });

  it('is told with a VM that has nothing to lose by it', async () => {
    await using place = await runningVm(({ life }) => life.stop('web'));
    place.stores.vms.update(place.vm.id, { phase: 'starting' });
    const { daemon, relieve } = hampered(place);
    await daemon.recover();
    const { phase, failure } = place.stores.vms.get('web');
    assert.deepEqual([phase, failure], ['failed', "After the daemon's restart: nft took too long"]);
    relieve();
    await sweep(daemon);
    assert.deepEqual(place.see(daemon).ledger, ['directory']);
  });
});

describe('a change of image that was not told to be over', () => {
  it('is over for a VM that has run with it and is suspended since', async () => {
    await using place = await runningVm();
    const { rootDisk, lastRootDisk } = vmFiles(place.config.paths.store, place.vm.id);
    const { image, imageId, rootDiskBytes } = place.vm;
    place.stores.ledger.record(place.vm.id, {
      ...{ kind: 'rebase', name: rootDisk, step: 'swapping', imageId, ran: true },
      before: { image, imageId, rootDiskBytes },
    });
    writeFileSync(lastRootDisk, '');
    const first = withAgents(place.daemon(), { woken: [] });
    assert.equal((await first.finish(() => suspend(first)))?.state, 'succeeded');
    await first.drop();
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    assert.deepEqual(look(place), ['suspended', true, true]);
    assert.equal(existsSync(lastRootDisk), false);
    assert.equal((await daemon.finish(() => daemon.life.resume('web')))?.state, 'succeeded');
  });
});

describe('the start of a daemon', () => {
  it('puts a bundle back of which a power cut left only what was being replaced', async () => {
    await using place = await mortalHost();
    const { bundles } = place.config.paths;
    mkdirSync(join(bundles, '.x.replaced'), { recursive: true });
    await place.daemon().recover();
    assert.deepEqual(readdirSync(bundles), ['x']);
  });
});
