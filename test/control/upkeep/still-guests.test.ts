/** What becomes of guests that stand still in a store that moves: their files are others, and only banger knows that they are the same. */
import assert from 'node:assert/strict';
import { appendFileSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { describe, it } from 'node:test';
import { restoreSnapshot } from '../../../src/control/snapshots/restore.ts';
import { movePlaces } from '../../../src/control/store/image.ts';
import { initStorage, undoStorage } from '../../../src/control/store/init.ts';
import { createStillGuests } from '../../../src/control/upkeep/still-guests.ts';
import { createStandbyPool } from '../../../src/control/warm/standby.ts';
import { snapshotFiles } from '../../../src/storage/layout.ts';
import { copyTree, unmountStoreImage } from '../../../src/storage/store-image.ts';
import { MIB } from '../../../src/units.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { hostSystem } from '../../support/host-system.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';
import { withAgents } from '../../support/waking-agents.ts';
import { until, warmHost } from '../../support/warm-host.ts';
import { runningVm, takeSnapshot } from '../../support/warm-works.ts';

process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const system = hostSystem();
const never = new AbortController().signal;

function cannotMount(): string | false {
  if (process.getuid?.() !== 0) return 'mounts need root';
  if (!existsSync('/dev/loop-control')) return 'there is no /dev/loop-control';
  return lacking('mkfs.xfs', 'xfs_growfs', 'losetup', 'mount');
}

/** A stopped VM with two snapshots with memory, the second of which was touched since. */
async function withSnapshots(): Promise<{ place: MortalHost; daemon: Daemon }> {
  const place = await runningVm(takeSnapshot, (daemon) => takeSnapshot(daemon, 'second'));
  const daemon = withAgents(place.daemon(), { woken: [] });
  await daemon.recover();
  assert.equal((await daemon.finish(() => daemon.life.stop('web')))?.state, 'succeeded');
  const second = place.stores.snapshots.find(place.vm.id, 'second');
  appendFileSync(snapshotFiles(place.config.paths.store, place.vm.id, second?.id ?? '').memory, 'x');
  return { place, daemon };
}

/** Why a snapshot is not put back with its memory; undefined when it is. */
async function refusal({ host, life, finish }: Daemon, name: string): Promise<string | undefined> {
  const ended = await finish(() =>
    life.change('snapshot.restore', 'web', (actions, progress, signal) =>
      restoreSnapshot(host, actions, 'web', name, { force: true, start: true }, progress, signal),
    ),
  );
  if (ended?.state !== 'succeeded') return `${ended?.error?.message}`;
  assert.equal(host.stores.vms.get('web').phase, 'running');
  assert.equal((await finish(() => life.stop('web')))?.state, 'succeeded');
  return undefined;
}

describe('snapshots with memory in a store that moves', () => {
  it('are known by their copies from the moment that is written down, but for those that were touched', async () => {
    const { place, daemon } = await withSnapshots();
    await using _place = place;
    const { store } = place.config.paths;
    // one that is of no use keeps no store where it is
    const second = place.stores.snapshots.find(place.vm.id, 'second');
    rmSync(snapshotFiles(store, place.vm.id, second?.id ?? '').state);
    const { filling } = movePlaces(place);
    mkdirSync(filling);
    await copyTree(system.runner, 'cp', store, filling, never);
    const warnings: string[] = [];
    const progress = { ...quietProgress(), warn: (text: string) => void warnings.push(text) };
    const before = place.stores.snapshots.list();
    const write = await createStillGuests(daemon.host).follow(filling, progress);
    assert.deepEqual(place.stores.snapshots.list(), before, 'a move that is undone changes nothing');
    assert.equal(await refusal(daemon, 'first'), undefined);

    renameSync(store, `${store}.before`);
    renameSync(filling, store);
    rmSync(`${store}.before`, { recursive: true });
    assert.match(`${await refusal(daemon, 'first')}`, /its files were changed since/);
    write();
    assert.equal(await refusal(daemon, 'first'), undefined);
    assert.match(`${await refusal(daemon, 'second')}`, /its files were changed since/);
    const changed = 'its files were changed before.';
    assert.deepEqual(warnings, [`Nothing can go on from the memory in second of web: ${changed}`]);
  });

  it('go on from there after it moved into an image, and out of it again', { skip: cannotMount() }, async () => {
    const { place, daemon } = await withSnapshots();
    await using _place = place;
    const host = { ...daemon.host, system };
    const guests = createStillGuests(host);
    try {
      const shown = await initStorage(host, guests, { sizeBytes: 320 * MIB }, quietProgress(), never);
      assert.equal(shown.fileSystem, 'xfs');
      assert.equal(await refusal(daemon, 'first'), undefined);
      assert.match(`${await refusal(daemon, 'second')}`, /its files were changed since/);
      await undoStorage(host, guests, quietProgress(), never);
      assert.equal(await refusal(daemon, 'first'), undefined);
      assert.match(`${await refusal(daemon, 'second')}`, /its files were changed since/);
    } finally {
      await unmountStoreImage(system.privileged, place.config.paths.store);
    }
  });

  it('and the store are what they were when it is in use at the end', { skip: cannotMount() }, async () => {
    const { place, daemon } = await withSnapshots();
    await using _place = place;
    const { store } = place.config.paths;
    const host = { ...daemon.host, system };
    const guests = createStillGuests(host);
    try {
      await initStorage(host, guests, { sizeBytes: 320 * MIB }, quietProgress(), never);
      const { pid } = await system.runner.startDetached(['sleep', '600'], {
        stdout: 'ignore',
        stderr: 'ignore',
        cwd: store,
      });
      const undone = undoStorage(host, guests, quietProgress(), never);
      await assert.rejects(undone, { code: 'conflict', message: /in use/ });
      process.kill(pid);
      assert.equal(await refusal(daemon, 'first'), undefined);
      const states = place.stores.ledger.all().flatMap(({ resource }) => ('state' in resource ? [resource.state] : []));
      assert.deepEqual(states, ['mounted'], 'the next daemon uses it as it is');
    } finally {
      await unmountStoreImage(system.privileged, store);
    }
  });
});

describe('guests that are made again', () => {
  it('are forgotten before the store moves, and those that stand ready are waited for', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    const host = { ...daemon.host, config: { ...daemon.host.config, pool: { ready: 1 } } };
    const pool = daemon.mortal.run(() => createStandbyPool(host, { quietMs: 1, settleMs: 1 }));
    daemon.mortal.run(() => pool.begin());
    await until(() => pool.count().ready === 1);
    const layer = {
      key: 'a'.repeat(64),
      parent: null,
      base: 'old',
      step: 'run true',
      sizeBytes: 1,
      unsyncedBoot: null,
    };
    const at = { createdAt: '2026-11-30T00:00:00.000Z', usedAt: '2026-11-30T00:00:00.000Z' };
    host.stores.layers.insert({ ...layer, ...at, machine: JSON.stringify({ done: 1 }) });

    // nobody gives it up
    const early = createStillGuests(host, { limitMs: 1 }).giveUp(never);
    await assert.rejects(early, { code: 'conflict', message: /a guest stands ready/ });
    assert.deepEqual(place.stores.templates.list(), []);
    assert.equal(place.stores.layers.find(layer.key)?.machine, null);
    const given = createStillGuests(host).giveUp(never);
    daemon.mortal.run(() => pool.begin());
    await given;
    assert.equal(pool.count().ready, 0);
    assert.deepEqual(place.see(daemon).vmms, []);
    await daemon.mortal.run(() => pool.close());
  });
});
