/**
 * Every place where a daemon can die while it takes, restores or deletes a snapshot, and what the next one makes of it: the disks
 * are those of before or those of after, root and work disk of one moment, and nothing is left over.
 */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { createSnapshot } from '../../../src/control/snapshots/create.ts';
import { copySnapshot } from '../../../src/control/snapshots/new-vm.ts';
import { restoreSnapshot, undoRestore } from '../../../src/control/snapshots/restore.ts';
import { deleteSnapshot, getSnapshot } from '../../../src/control/snapshots/take.ts';
import { becameReady } from '../../../src/core/vm-changes.ts';
import { BangerError } from '../../../src/errors.ts';
import { imageFiles, snapshotsDirectory, vmFiles } from '../../../src/storage/layout.ts';
import { marker, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';

/** Root and work disk by their marks, those of each snapshot by kind, and what has no owner. */
interface Look {
  vm: string;
  disks: string;
  snapshots: string[];
  odd: string[];
}

const RESTORE = { force: true, start: true };

async function mark(path: string, text: string): Promise<void> {
  await using file = await open(path, 'r+');
  await file.write(Buffer.from(`${text}\0`), 0, text.length + 1, 4096);
}

/** A VM with the snapshot `first` of marks `one`, and disks that were marked `two` since. */
async function prepare(runs: boolean): Promise<MortalHost> {
  const place = await mortalHost();
  const { stores, config, vm } = place;
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  for (const disk of [rootDisk, workDisk]) {
    copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, disk);
    await mark(disk, 'one');
  }
  stores.vms.insert(vm);
  const daemon = place.daemon();
  await daemon.finish(() => take(daemon, 'first'));
  for (const disk of [rootDisk, workDisk]) await mark(disk, 'two');
  if (runs) {
    const started = await daemon.finish(() => daemon.life.start('web', { until: 'reachable' }));
    assert.equal(started?.state, 'succeeded');
    stores.vms.update(vm.id, becameReady(stores.vms.get('web'), { at: new Date(), failedUnits: [] }));
  }
  await daemon.drop();
  return place;
}

function take({ host, life }: Daemon, name: string): Operation {
  return life.change('snapshot.create', 'web', (_actions, progress, signal) =>
    createSnapshot(host, 'web', { name, pauseOk: false, diskOnly: true }, progress, signal),
  );
}

function restore({ host, life }: Daemon): Operation {
  return life.change('snapshot.restore', 'web', (actions, progress, signal) =>
    restoreSnapshot(host, actions, 'web', 'first', RESTORE, progress, signal),
  );
}

function undo({ host, life }: Daemon): Operation {
  return life.change('snapshot.undo', 'web', (actions, progress, signal) =>
    undoRestore(host, actions, 'web', RESTORE, progress, signal),
  );
}

function look({ config, stores, vm, vmms }: MortalHost): Look {
  const { store } = config.paths;
  const { rootDisk, workDisk, directory } = vmFiles(store, vm.id);
  const marks = (root: string, work: string) => `${marker(root)} ${marker(work)}`;
  const records = stores.snapshots.list(vm.id);
  const known = new Set(records.map(({ id }) => id));
  const snapshots = records.map(({ id, name, automatic, hasWorkDisk }) => {
    const place = `${snapshotsDirectory(store, vm.id)}/${id}`;
    assert.ok(hasWorkDisk && existsSync(`${place}/manifest.json`));
    return `${automatic ? 'before' : name}: ${marks(`${place}/root.ext4`, `${place}/work.ext4`)}`;
  });
  const usual = /^(root|work)\.ext4$|^seed\.img$|^v\.sock$|^(console|vmm)\.log(\.previous)?$|^snapshots$/;
  const alive = vmms.filter(({ pid }) => existsSync(`/proc/${pid}/cmdline`));
  return {
    vm: `${stores.vms.get('web').phase}${alive.length > 0 ? ' with a VMM' : ''}`,
    disks: marks(rootDisk, workDisk),
    snapshots: snapshots.sort(),
    odd: [
      ...readdirSync(directory).filter((name) => !usual.test(name)),
      ...readdirSync(snapshotsDirectory(store, vm.id)).filter((name) => !known.has(name)),
      ...stores.ledger.of(vm.id).flatMap(({ kind }) => (kind === 'snapshot' || kind === 'restore' ? [kind] : [])),
      // a disk that has two names is written to under both
      ...[rootDisk, workDisk].filter((path) => statSync(path).nlink !== 1),
      ...stores.vms.list().flatMap(({ name, phase }) => (name === 'web' ? [] : [`${name} ${phase}`])),
    ],
  };
}

const TWO: Look = { vm: 'stopped', disks: 'two two', snapshots: ['first: one one'], odd: [] };
const ONE: Look = { ...TWO, disks: 'one one', snapshots: ['before: two two', 'first: one one'] };
const runs = (state: Look): Look => ({ ...state, vm: 'running with a VMM' });

interface Action {
  name: string;
  given?: 'running' | 'restored';
  act(daemon: Daemon): Operation;
  end: Look;
  others: readonly Look[];
}

const ACTIONS: readonly Action[] = [
  {
    name: 'snapshot',
    act: (daemon) => take(daemon, 'second'),
    end: { ...TWO, snapshots: ['first: one one', 'second: two two'] },
    others: [TWO],
  },
  { name: 'restore', act: restore, end: ONE, others: [TWO] },
  { name: 'restore of a VM that runs', given: 'running', act: restore, end: runs(ONE), others: [runs(TWO), TWO, ONE] },
  {
    name: 'undo',
    given: 'restored',
    act: undo,
    end: { ...TWO, snapshots: ['before: one one', 'first: one one'] },
    others: [ONE],
  },
  {
    name: 'deletion',
    act: ({ host, life }) =>
      life.change('snapshot.delete', 'web', async () => {
        const vm = host.stores.vms.get('web');
        await deleteSnapshot(host, vm, getSnapshot(host, vm, 'first'));
      }),
    end: { ...TWO, snapshots: [] },
    others: [TWO],
  },
  {
    name: 'copy to a new VM',
    act: ({ host }) =>
      host.operations.start({
        kind: 'snapshot.copy',
        target: 'other',
        run: (progress, signal) =>
          copySnapshot(host, 'web', 'first', { name: 'other', diskOnly: false }, progress, signal),
      }),
    end: { ...TWO, odd: ['other stopped'] },
    others: [TWO],
  },
];

async function given(action: Action): Promise<MortalHost> {
  const place = await prepare(action.given === 'running');
  if (action.given !== 'restored') return place;
  const daemon = place.daemon();
  await daemon.finish(() => restore(daemon));
  await daemon.drop();
  return place;
}

describe('a restore of disks that do not come up', () => {
  it('stays, and says how what was there is had back', async () => {
    await using place = await prepare(true);
    const daemon = place.daemon();
    await daemon.recover();
    Object.assign(daemon.host.guests, {
      firstLogin: async () => {
        throw new BangerError('timeout', 'It does not answer.');
      },
    });
    const ended = await daemon.finish(() => restore(daemon));
    assert.match(`${ended?.error?.message}`, /web has the disks of first; what was there is before-\d{8}-\d{6}\./);
    assert.match(`${ended?.error?.hint}`, /banger snapshot undo web/);
    assert.deepEqual(look(place), { ...ONE, vm: 'failed' });
    await daemon.drop();
  });
});

describe('a VM whose guest is paused', () => {
  it('is told to go on first: it cannot hold its file systems still', async () => {
    await using place = await prepare(true);
    place.stores.vms.update(place.vm.id, {
      paused: { at: '2026-11-29T00:00:00.000Z', why: 'No room.', until: 'soon' },
    });
    const daemon = place.daemon();
    await daemon.recover();
    const ended = await daemon.finish(() => take(daemon, 'second'));
    assert.match(`${ended?.error?.message}`, /The guest of web is paused/);
    assert.deepEqual(look(place).snapshots, TWO.snapshots);
    await daemon.drop();
  });
});

describe('a suspended VM', () => {
  it('keeps its disks as they are: they are neither cloned nor replaced', async () => {
    await using place = await prepare(false);
    const memory = { id: 'm1', at: '2026-11-29T00:00:00.000Z', bytes: 1, spentOn: null };
    place.stores.vms.update(place.vm.id, { phase: 'suspended', memory });
    const daemon = place.daemon();
    for (const act of [() => take(daemon, 'second'), () => restore(daemon)]) {
      const ended = await daemon.finish(act);
      assert.equal(ended?.error?.code, 'conflict');
      assert.match(`${ended?.error?.message}`, /web is suspended, and its memory belongs to its disks/);
    }
    assert.deepEqual(look(place), { ...TWO, vm: 'suspended' });
    await daemon.drop();
  });
});

describe('a daemon that dies', () => {
  for (const action of ACTIONS) {
    it(`in the middle of a ${action.name} leaves disks of one moment`, async (t) => {
      const effects = await (async () => {
        await using place = await given(action);
        const daemon = place.daemon();
        await daemon.recover();
        const own = daemon.mortal.effects.length;
        const ended = await daemon.finish(() => action.act(daemon));
        assert.equal(ended?.state, 'succeeded', `${ended?.error?.message}`);
        assert.deepEqual(look(place), action.end, 'when nobody dies');
        return daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
      })();
      const wrong: object[] = [];
      const reached = new Set<number>();
      for (const dieBefore of effects) {
        await using place = await given(action);
        const daemon = place.daemon(dieBefore);
        await daemon.recover();
        await daemon.finish(() => action.act(daemon));
        const next = place.daemon();
        await next.recover();
        await next.drop();
        const seen = look(place);
        const index = [action.end, ...action.others].findIndex((one) => JSON.stringify(one) === JSON.stringify(seen));
        if (index < 0) wrong.push({ dieBefore, seen });
        reached.add(index);
        const third = place.daemon();
        await third.recover();
        assert.deepEqual(look(place), seen, 'a second recovery changes something');
      }
      t.diagnostic(`${action.name}: ${effects.length} deaths`);
      assert.deepEqual(wrong, []);
      assert.ok(
        [...reached].some((index) => index > 0),
        'a death before the first effect leaves what was there',
      );
    });
  }
});
