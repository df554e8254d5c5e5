/** The way back from a restore: what is kept of before, and that what is said to bring it back does so. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { copySnapshot } from '../../../src/control/snapshots/new-vm.ts';
import { type RestoreRequest, restoreSnapshot, undoRestore } from '../../../src/control/snapshots/restore.ts';
import { deleteSnapshot, getSnapshot } from '../../../src/control/snapshots/take.ts';
import { BangerError } from '../../../src/errors.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { withAgents } from '../../support/waking-agents.ts';
import { runningVm, takeSnapshot } from '../../support/warm-works.ts';

const STAY_DOWN = { force: false, start: false };

const restore = ({ host, life }: Daemon, request: RestoreRequest, name = 'first'): Operation =>
  life.change('snapshot.restore', 'web', (actions, progress, signal) =>
    restoreSnapshot(host, actions, 'web', name, request, progress, signal),
  );

const undo = ({ host, life }: Daemon, request: RestoreRequest): Operation =>
  life.change('snapshot.undo', 'web', (actions, progress, signal) =>
    undoRestore(host, actions, 'web', request, progress, signal),
  );

async function succeed(daemon: Daemon, begin: () => Operation): Promise<void> {
  const ended = await daemon.finish(begin);
  assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
}

async function refusal(daemon: Daemon, begin: () => Operation) {
  const ended = await daemon.finish(begin);
  assert.ok(ended?.error, 'it was not refused');
  return ended.error;
}

const automatic = ({ stores, vm }: MortalHost) =>
  stores.snapshots.list(vm.id).flatMap(({ automatic, name }) => (automatic ? [name] : []));

/** A VM that is suspended with its snapshot `first`. */
async function putBack(place: MortalHost): Promise<Daemon> {
  const daemon = withAgents(place.daemon(), { woken: [] });
  await daemon.recover();
  await succeed(daemon, () => restore(daemon, { force: true, start: false }));
  assert.equal(place.stores.vms.get('web').phase, 'suspended');
  return daemon;
}

describe('the way back from a restore', () => {
  it('leads to the last three states', async () => {
    await using place = await runningVm(takeSnapshot);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const kept: string[] = [];
    for (let time = 0; time < 4; time++) {
      await succeed(daemon, () => restore(daemon, { force: true, start: false, diskOnly: true }));
      const [newest] = automatic(place).filter((name) => !kept.includes(name));
      kept.push(newest ?? '');
    }
    assert.deepEqual(automatic(place), kept.slice(-3));
    // each undo uses one up and leaves one
    await succeed(daemon, () => undo(daemon, STAY_DOWN));
    assert.equal(automatic(place).length, 3);
  });

  it('is open without a word while the snapshot has the memory too', async () => {
    for (const act of [undo, restore]) {
      await using place = await runningVm(takeSnapshot);
      const daemon = await putBack(place);
      await succeed(daemon, () => act(daemon, { ...STAY_DOWN, diskOnly: true }));
      const { phase, memory } = place.stores.vms.get('web');
      assert.deepEqual([phase, memory], ['stopped', null]);
      await succeed(daemon, () => daemon.life.start('web', { until: 'reachable' }));
    }
  });

  it('is what is named when the memory cannot go on, and when its VM runs and is not ready', async () => {
    await using place = await runningVm(takeSnapshot);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const { checks } = daemon.host;
    daemon.host.checks = {
      ...checks,
      beforeStart: async () => {
        throw new BangerError('host_unprepared', 'The host has no memory left.');
      },
    };
    const asleep = await refusal(daemon, () => restore(daemon, { force: true, start: true }));
    assert.match(asleep.message, /no memory left/);
    assert.match(`${asleep.hint}`, /: banger snapshot undo web$/);
    await succeed(daemon, () => undo(daemon, { force: false, start: true }));

    daemon.host.checks = checks;
    await succeed(daemon, () => daemon.life.start('web', { until: 'reachable' }));
    const unready = await refusal(daemon, () =>
      daemon.life.change('snapshot.restore', 'web', (actions, progress, signal) => {
        const settle = async () => {
          throw new BangerError('timeout', 'It was not ready in time.');
        };
        const request = { force: true, start: true, diskOnly: true };
        return restoreSnapshot(daemon.host, { ...actions, settle }, 'web', 'first', request, progress, signal);
      }),
    );
    assert.match(`${unready.hint}`, /: banger snapshot undo web --force$/);
    await succeed(daemon, () => undo(daemon, { force: true, start: false }));
  });

  it('is not open at the cost of memory that is nowhere else', async () => {
    for (const [what, lose] of [
      [
        'its snapshot was deleted',
        async ({ host }: Daemon) => {
          const vm = host.stores.vms.get('web');
          await deleteSnapshot(host, vm, getSnapshot(host, vm, 'first'));
        },
      ],
      [
        'it went on, and was suspended since',
        async (daemon: Daemon) => {
          await succeed(daemon, () => daemon.life.resume('web'));
          await succeed(daemon, () => daemon.life.suspend('web'));
        },
      ],
    ] as const) {
      await using place = await runningVm(takeSnapshot);
      const daemon = await putBack(place);
      await lose(daemon);
      const { message, hint } = await refusal(daemon, () => undo(daemon, { force: true, start: true }));
      assert.match(message, /web is suspended, and its memory belongs to its disks/, what);
      assert.match(`${hint}`, /banger stop --discard-memory web/);
      assert.equal(place.stores.vms.get('web').phase, 'suspended');
      await succeed(daemon, () => daemon.life.stop('web', { discardMemory: true }));
      await succeed(daemon, () => undo(daemon, STAY_DOWN));
    }
  });
});

describe('memory of a guest with another address', () => {
  it('is refused before its VM is touched, and becomes another VM all the same', async () => {
    await using place = await runningVm(takeSnapshot);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    // as after an undelete, when another VM has its address
    await succeed(daemon, () => daemon.life.stop('web'));
    place.stores.vms.update(place.vm.id, { address: '172.30.0.77' });
    await succeed(daemon, () => daemon.life.start('web', { until: 'reachable' }));
    const { message, hint } = await refusal(daemon, () => restore(daemon, { force: true, start: true }));
    assert.match(message, /its address was 172\.30\.0\.2, now 172\.30\.0\.77/);
    assert.match(`${hint}`, /snapshot restore web first --disk-only/);
    assert.equal(place.stores.vms.get('web').phase, 'running');
    assert.deepEqual(automatic(place), []);
    await succeed(daemon, () =>
      daemon.host.operations.start({
        ...{ kind: 'snapshot.copy', target: 'other' },
        run: async (progress, signal) => {
          const request = { name: 'other', diskOnly: false };
          daemon.life.adopt(await copySnapshot(daemon.host, 'web', 'first', request, progress, signal));
        },
      }),
    );
    await succeed(daemon, () => restore(daemon, { force: true, start: false, diskOnly: true }));
  });

  it('is refused with everything else that keeps it from going on', async () => {
    await using place = await runningVm(takeSnapshot);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const { checks } = daemon.host;
    daemon.host.checks = {
      ...checks,
      chooseVmm: async (boot) => ({ ...(await checks.chooseVmm(boot)), kind: 'firecracker', acceleration: 'kvm' }),
    };
    const { message } = await refusal(daemon, () => restore(daemon, { force: true, start: true }));
    assert.match(message, /it ran on QEMU .*, now Firecracker .*; it was emulated, and would be run by KVM/);
    assert.equal(place.stores.vms.get('web').phase, 'running');
    assert.deepEqual(automatic(place), []);
  });
});
