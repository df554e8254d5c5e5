/**
 * Snapshots with memory as the host sees them: memory and disks of one moment, put back any number of times, and every place where
 * a daemon can die. Memory is never beside disks that are not its own.
 */
import assert from 'node:assert/strict';
import { appendFileSync, copyFileSync, existsSync, mkdirSync, readdirSync, utimesSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { createSnapshot } from '../../../src/control/snapshots/create.ts';
import { copySnapshot } from '../../../src/control/snapshots/new-vm.ts';
import { type RestoreRequest, restoreSnapshot, undoRestore } from '../../../src/control/snapshots/restore.ts';
import { becameReady } from '../../../src/core/vm-changes.ts';
import { imageFiles, snapshotFiles, vmFiles } from '../../../src/storage/layout.ts';
import { marker, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { NO_AGENTS } from '../../support/no-agents.ts';
import { type Guests, withAgents } from '../../support/waking-agents.ts';

const FORCE = { force: true, start: true };

const noGuests = (): Guests => ({ woken: [] });

async function mark(place: MortalHost, text: string): Promise<void> {
  const { rootDisk, workDisk } = vmFiles(place.config.paths.store, place.vm.id);
  for (const path of [rootDisk, workDisk]) {
    await using file = await open(path, 'r+');
    await file.write(Buffer.from(`${text}\0`), 0, text.length + 1, 4096);
  }
}

/** A VM that runs, with disks of mark `one`. */
async function runningVm(): Promise<MortalHost> {
  const place = await mortalHost();
  const { stores, config, vm } = place;
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  for (const disk of [rootDisk, workDisk]) copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, disk);
  await mark(place, 'one');
  stores.vms.insert(vm);
  const daemon = withAgents(place.daemon(), noGuests());
  const started = await daemon.finish(() => daemon.life.start('web', { until: 'reachable' }));
  assert.equal(started?.state, 'succeeded');
  stores.vms.update(vm.id, becameReady(stores.vms.get('web'), { at: new Date(), failedUnits: [] }));
  await daemon.drop();
  return place;
}

/** The same with a snapshot `first` of that moment, and disks that were marked `two` since. */
async function withSnapshot(): Promise<MortalHost> {
  const place = await runningVm();
  const daemon = withAgents(place.daemon(), noGuests());
  await daemon.recover();
  await succeed(daemon, () => take(daemon));
  await mark(place, 'two');
  await daemon.drop();
  return place;
}

/** The same, suspended with that snapshot again. */
async function asleepVm(): Promise<MortalHost> {
  const place = await withSnapshot();
  const daemon = withAgents(place.daemon(), noGuests());
  await daemon.recover();
  await succeed(daemon, () => restore(daemon, { force: true, start: false }));
  await daemon.drop();
  return place;
}

const take = ({ host, life }: Daemon, diskOnly = false): Operation =>
  life.change('snapshot.create', 'web', (_actions, progress, signal) =>
    createSnapshot(host, 'web', { name: 'first', pauseOk: true, diskOnly }, progress, signal),
  );

const restore = ({ host, life }: Daemon, request: RestoreRequest = FORCE): Operation =>
  life.change('snapshot.restore', 'web', (actions, progress, signal) =>
    restoreSnapshot(host, actions, 'web', 'first', request, progress, signal),
  );

const copy = ({ host, life }: Daemon, diskOnly = false): Operation =>
  host.operations.start({
    kind: 'snapshot.copy',
    target: 'other',
    run: async (progress, signal) => {
      const vm = await copySnapshot(host, 'web', 'first', { name: 'other', diskOnly }, progress, signal);
      if (vm.phase === 'running') life.adopt(vm);
    },
  });

async function succeed(daemon: Daemon, begin: () => Operation): Promise<Operation> {
  const ended = await daemon.finish(begin);
  assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
  return ended;
}

const undo = ({ host, life }: Daemon, request: RestoreRequest): Operation =>
  life.change('snapshot.undo', 'web', (actions, progress, signal) =>
    undoRestore(host, actions, 'web', request, progress, signal),
  );

/** What there is, in a form that is the same on each host. */
function look(place: MortalHost) {
  const { config, stores, vm, vmms } = place;
  const { store } = config.paths;
  const files = vmFiles(store, vm.id);
  const phase = (name: string) => stores.vms.find(name)?.phase ?? 'none';
  const snapshots = stores.snapshots.list(vm.id).map((record) => {
    const of = snapshotFiles(store, vm.id, record.id);
    const memory = existsSync(of.memory) && existsSync(of.state);
    assert.equal(memory, record.memory, 'a record says what is there');
    const marks = `${marker(of.rootDisk)} ${marker(of.workDisk)}`;
    return `${record.automatic ? 'before' : record.name}: ${marks}${memory ? ' memory' : ''}`;
  });
  const usual = /^(root|work)\.ext4$|^seed\.img$|^v\.sock$|^(console|vmm)\.log(\.previous)?$|^snapshots$/;
  const snapshotNames = existsSync(join(files.directory, 'snapshots'))
    ? readdirSync(join(files.directory, 'snapshots'))
    : [];
  return {
    web: phase('web'),
    other: phase('other'),
    vmms: vmms.filter(({ pid }) => existsSync(`/proc/${pid}/cmdline`)).map(({ state }) => state),
    disks: `${marker(files.rootDisk)} ${marker(files.workDisk)}`,
    snapshots: snapshots.sort(),
    odd: [
      ...readdirSync(files.directory).filter((name) => !usual.test(name)),
      ...snapshotNames.filter((id) => stores.snapshots.findById(id) === undefined),
      ...stores.ledger.of(vm.id).flatMap(({ kind }) => (kind === 'snapshot' || kind === 'restore' ? [kind] : [])),
    ],
  };
}

type Look = ReturnType<typeof look>;

const BEFORE: Look = { web: 'running', other: 'none', vmms: ['Running'], disks: 'one one', snapshots: [], odd: [] };
const TAKEN: Look = { ...BEFORE, snapshots: ['first: one one memory'] };
const TWO: Look = { ...TAKEN, disks: 'two two' };
const BACK: Look = { ...TAKEN, snapshots: ['before: two two', 'first: one one memory'] };
const off = (state: Look): Look => ({ ...state, web: 'stopped', vmms: [] });
const ASLEEP: Look = { ...BACK, web: 'suspended', vmms: [], odd: ['suspended'] };
const UNDONE: Look = { ...off(TWO), snapshots: ['before: one one', 'first: one one memory'] };
const BESIDE: Look = { ...TWO, other: 'running', vmms: ['Running', 'Running'] };

describe('a snapshot with memory', () => {
  it('is of one moment, and its VM goes on', async () => {
    await using place = await runningVm();
    const guests = noGuests();
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    await succeed(daemon, () => take(daemon));
    assert.deepEqual(look(place), TAKEN);
    const [record] = place.stores.snapshots.list(place.vm.id);
    assert.deepEqual([record?.taken, record?.saved?.run.memoryMib], ['held', place.vm.memoryMib]);
    assert.ok(record?.pauseMs !== null);
    assert.deepEqual(
      guests.woken.map(({ mode }) => mode),
      ['same'],
    );
  });

  it('has the disks alone where that is asked for, or no agent could wake the guest', async () => {
    for (const agents of [true, false]) {
      await using place = await runningVm();
      const daemon = withAgents(place.daemon(), noGuests());
      if (!agents) daemon.host.agents = NO_AGENTS;
      await daemon.recover();
      // over SSH, whose other end here holds no file system
      const ended = await daemon.finish(() => take(daemon, agents));
      assert.match(`${ended?.error?.message}`, /The guest cannot hold its file systems still/);
      assert.deepEqual(look(place), BEFORE);
    }
  });

  it('is taken of a VM that is suspended, which stays so', async () => {
    await using place = await runningVm();
    const daemon = withAgents(place.daemon(), noGuests());
    await daemon.recover();
    await succeed(daemon, () => daemon.life.suspend('web'));
    await succeed(daemon, () => take(daemon));
    assert.deepEqual(look(place), { ...TAKEN, web: 'suspended', vmms: [], odd: ['suspended'] });
    await succeed(daemon, () => daemon.life.resume('web'));
    await succeed(daemon, () => daemon.life.suspend('web'));
    await mark(place, 'two');
    const refused = await daemon.finish(() =>
      daemon.life.change('snapshot.create', 'web', (_actions, progress, signal) =>
        createSnapshot(daemon.host, 'web', { name: 'second', pauseOk: true, diskOnly: false }, progress, signal),
      ),
    );
    assert.match(
      `${refused?.error?.message}`,
      /while it is suspended: its root disk was changed since; its work disk was/,
    );
  });

  it('is gone on from as often as wanted: each time as one whose memory was loaded before', async () => {
    await using place = await withSnapshot();
    const guests = noGuests();
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    await succeed(daemon, () => restore(daemon));
    assert.deepEqual(look(place), BACK);
    await mark(place, 'three');
    await succeed(daemon, () => restore(daemon, { force: true, start: false }));
    assert.deepEqual(look(place), {
      ...ASLEEP,
      snapshots: ['before: three three', 'before: two two', 'first: one one memory'],
    });
    await succeed(daemon, () => daemon.life.resume('web'));
    assert.deepEqual(
      guests.woken.map(({ mode }) => mode),
      ['again', 'again'],
    );
    assert.equal(new Set(guests.woken.map(({ seed }) => seed.toString('hex'))).size, 2);
    // undone: what was there before the last restore
    await succeed(daemon, () => undo(daemon, { force: true, start: false }));
    assert.deepEqual([look(place).web, look(place).disks], ['stopped', 'three three']);
  });

  it('is not gone on from where it does not fit or was touched; its disks are to be had', async () => {
    for (const [touch, why] of [
      [
        (place: MortalHost) => utimesSync(imageFiles(place.config.paths.store, OLD.id).kernel, 1, 1),
        /its kernel .* was replaced/,
      ],
      [
        ({ config, stores, vm }: MortalHost) => {
          const [record] = stores.snapshots.list(vm.id);
          appendFileSync(snapshotFiles(config.paths.store, vm.id, record?.id ?? '').memory, 'x');
        },
        /its files were changed since/,
      ],
    ] as const) {
      await using place = await withSnapshot();
      const daemon = withAgents(place.daemon(), noGuests());
      await daemon.recover();
      touch(place);
      for (const act of [() => restore(daemon), () => copy(daemon)]) {
        const refused = await daemon.finish(act);
        assert.match(`${refused?.error?.message}`, why);
        assert.match(`${refused?.error?.hint}`, /snapshot restore web first --disk-only/);
        assert.deepEqual(look(place), TWO);
      }
      await succeed(daemon, () => restore(daemon, { ...FORCE, start: false, diskOnly: true }));
      assert.deepEqual(look(place), off(BACK));
      await succeed(daemon, () => copy(daemon, true));
      assert.equal(place.stores.vms.get('other').phase, 'stopped');
    }
  });

  it('becomes another machine, which is nobody before it has acknowledged', async () => {
    await using place = await withSnapshot();
    const guests = noGuests();
    const rules: number[] = [];
    const daemon = withAgents(place.daemon(), guests);
    guests.onWake = () => void rules.push(place.see(daemon).rules.length);
    await daemon.recover();
    await succeed(daemon, () => copy(daemon));
    assert.deepEqual(look(place), BESIDE);
    const [web, other] = ['web', 'other'].map((name) => place.stores.vms.get(name));
    for (const field of ['address', 'mac', 'hostKeyPrivate', 'machineId'] as const) {
      assert.notEqual(web?.[field], other?.[field], field);
    }
    assert.deepEqual(other?.forkedFrom, { id: web?.id, name: 'web' });
    assert.deepEqual(
      guests.woken.map(({ mode, identity }) => [mode, identity?.address, identity?.hostname]),
      [['new', other?.address, 'other']],
    );
    assert.deepEqual(rules, [1]);
    assert.ok(daemon.life.watches(other?.id ?? ''));
  });

  for (const [what, prepare, act, end, others] of [
    ['is taken', runningVm, take, TAKEN, [BEFORE]],
    ['is put back', withSnapshot, restore, BACK, [TWO, off(TWO), ASLEEP]],
    ['becomes another VM', withSnapshot, copy, BESIDE, [TWO]],
    [
      'was put back, and goes with what was there before,',
      asleepVm,
      (daemon: Daemon) => undo(daemon, { force: false, start: true }),
      UNDONE,
      [ASLEEP, off(BACK)],
    ],
  ] as const) {
    it(`that ${what} by a daemon that dies is as before or as after`, async (t) => {
      const effects = await (async () => {
        await using place = await prepare();
        const daemon = withAgents(place.daemon(), noGuests());
        await daemon.recover();
        const own = daemon.mortal.effects.length;
        await succeed(daemon, () => act(daemon));
        assert.deepEqual(look(place), end, 'when nobody dies');
        return daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
      })();
      const wrong: object[] = [];
      const reached = new Set<number>();
      for (const dieBefore of effects) {
        await using place = await prepare();
        const daemon = withAgents(place.daemon(dieBefore), noGuests());
        await daemon.recover();
        await daemon.finish(() => act(daemon));
        const next = withAgents(place.daemon(), noGuests());
        await next.recover();
        const seen = look(place);
        const index = [end, ...others].findIndex((one) => JSON.stringify(one) === JSON.stringify(seen));
        if (index < 0) wrong.push({ dieBefore, seen });
        reached.add(index);
        // memory that is there belongs to the disks beside it
        if (seen.web === 'suspended') {
          await succeed(next, () => next.life.resume('web'));
          assert.deepEqual([look(place).web, look(place).disks], ['running', 'one one'], dieBefore);
        }
        await next.drop();
      }
      t.diagnostic(`${what}: ${effects.length} deaths`);
      assert.deepEqual(wrong, []);
      assert.ok([...reached].some((index) => index > 0));
    });
  }
});
