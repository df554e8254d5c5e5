/** Resumes whose daemon dies when the guest has gone on, or is about to: the next one finishes them. */
import assert from 'node:assert/strict';
import { appendFileSync, existsSync, rmSync } from 'node:fs';
import { describe, it } from 'node:test';
import { restoreSnapshot } from '../../../src/control/snapshots/restore.ts';
import { sweepHost } from '../../../src/control/upkeep/reconcile.ts';
import { createRestarts } from '../../../src/control/upkeep/restarts.ts';
import { renameVm } from '../../../src/control/vm/rename.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import { memoryFiles, vmFiles } from '../../../src/storage/layout.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';
import { type Guests, withAgents } from '../../support/waking-agents.ts';
import { runningVm, takeSnapshot } from '../../support/warm-works.ts';

const suspend = ({ life }: Daemon) => life.suspend('web');
const resume = ({ life }: Daemon) => life.resume('web');

const restore = ({ host, life }: Daemon) =>
  life.change('snapshot.restore', 'web', (actions, progress, signal) =>
    restoreSnapshot(host, actions, 'web', 'first', { force: true, start: true }, progress, signal),
  );

/** A VM whose daemon died before its guest, which goes on from memory, had acknowledged that it was woken. */
async function wokenInVain(mode: 'same' | 'again'): Promise<MortalHost> {
  const place = await runningVm(mode === 'same' ? suspend : takeSnapshot);
  const daemon = withAgents(place.daemon(`agent: wake ${mode}`), { woken: [] });
  await daemon.recover();
  await daemon.finish(() => (mode === 'same' ? resume : restore)(daemon));
  assert.ok(daemon.mortal.dead);
  assert.equal(place.stores.vms.get('web').phase, 'resuming');
  await daemon.drop();
  return place;
}

const noGuests = (): Guests => ({ woken: [] });
const modes = ({ woken }: Guests) => woken.map(({ mode }) => mode);

describe('a resume that is cut off when its guest may have gone on', () => {
  for (const mode of ['same', 'again'] as const) {
    it(`is finished by the next daemon, which wakes its guest as ${mode}`, async () => {
      await using place = await wokenInVain(mode);
      const guests = noGuests();
      const daemon = withAgents(place.daemon(), guests);
      const began = new Date().toISOString();
      await daemon.recover();
      assert.deepEqual(modes(guests), [mode]);
      const { phase, vmm, startedAt, memory } = place.stores.vms.get('web');
      assert.deepEqual([phase, vmm, memory], ['running', 'fcqemu', null]);
      assert.ok(startedAt && startedAt >= began, `${startedAt}`);
      assert.ok(daemon.life.watches(place.vm.id));
      assert.ok(!existsSync(memoryFiles(place.config.paths.store, place.vm.id).directory));
      for (const next of [suspend, resume]) {
        const done = await daemon.finish(() => next(daemon));
        assert.equal(done?.state, 'succeeded', done?.error?.message ?? 'it died');
      }
    });
  }

  it('is finished by whichever daemon does not die of it', async (t) => {
    const recovery = async (dieBefore?: string) => {
      const place = await wokenInVain('again');
      const guests = noGuests();
      const daemon = withAgents(place.daemon(dieBefore ?? {}), guests);
      await daemon.recover();
      return { place, daemon, guests };
    };
    const effects = await (async () => {
      const { place, daemon } = await recovery();
      await using _ = place;
      return daemon.mortal.effects.filter((each) => !each.startsWith('look '));
    })();
    assert.ok(effects.includes('agent: wake again'));
    for (const dieBefore of effects) {
      const { place, daemon, guests } = await recovery(dieBefore);
      await using _ = place;
      await daemon.drop();
      const third = withAgents(place.daemon(), guests);
      await third.recover();
      const { phase, vmm } = place.stores.vms.get('web');
      assert.deepEqual([phase, vmm], ['running', 'fcqemu'], dieBefore);
      assert.ok(guests.woken.length > 0 && modes(guests).every((mode) => mode === 'again'), dieBefore);
    }
    t.diagnostic(`${effects.length} deaths`);
  });

  it('has the guest learn the name that it was given meanwhile', async () => {
    await using place = await runningVm(suspend);
    const first = withAgents(place.daemon('agent: wake same'), noGuests());
    await first.recover();
    await renameVm(first.host, 'web', 'shop', quietProgress());
    await first.finish(() => first.life.resume('shop'));
    assert.ok(first.mortal.dead);
    await first.drop();
    const daemon = withAgents(place.daemon(), noGuests());
    await daemon.recover();
    const active = daemon.host.operations.activeOn('shop');
    if (active) await daemon.host.operations.finished(active.id);
    assert.ok(daemon.mortal.effects.includes('tell the guest something'));
    const { phase, run } = place.stores.vms.get('shop');
    assert.deepEqual([phase, run?.hostname], ['running', 'shop']);
  });

  it('keeps no daemon from its clients: who wants the VM waits with it', async () => {
    await using place = await wokenInVain('same');
    const guests = noGuests();
    const daemon = withAgents(place.daemon(), guests);
    const { connect } = daemon.host.agents;
    const answers = Promise.withResolvers<void>();
    daemon.host.agents.connect = async (...given) => {
      await answers.promise;
      return await connect(...given);
    };
    await daemon.mortal.run(() => daemon.upkeep.recover());
    assert.equal(place.stores.vms.get('web').phase, 'resuming');
    const start = daemon.mortal.run(() => daemon.life.start('web'));
    assert.equal(start.joined, true);
    answers.resolve();
    assert.equal((await daemon.host.operations.finished(start.id)).state, 'succeeded');
    assert.deepEqual([place.stores.vms.get('web').phase, modes(guests)], ['running', ['same']]);
  });

  it('is finished by the sweep where the daemon lives on', async () => {
    await using place = await wokenInVain('again');
    const guests = noGuests();
    const { host, life, mortal } = withAgents(place.daemon(), guests);
    const nobody = createRestarts(
      host,
      async () => 'failed',
      async () => {},
    );
    await mortal.run(() => sweepHost(host, life, nobody));
    const active = host.operations.activeOn('web');
    if (active) await host.operations.finished(active.id);
    assert.deepEqual([place.stores.vms.get('web').phase, modes(guests)], ['running', ['again']]);
  });

  for (const [what, write, end] of [
    ['has written nothing is suspended again', false, ['suspended', null, [], true]],
    ['has written goes on', true, ['running', 'fcqemu', ['Running'], false]],
  ] as const) {
    it(`and whose guest does not acknowledge this time either and ${what}`, async () => {
      await using place = await wokenInVain('same');
      if (write) appendFileSync(vmFiles(place.config.paths.store, place.vm.id).rootDisk, 'x');
      const onWake = () => {
        throw new AgentError('refused', 'it is too busy');
      };
      const daemon = withAgents(place.daemon(), { woken: [], onWake });
      await daemon.recover();
      const { phase, vmm, memory } = place.stores.vms.get('web');
      assert.deepEqual([phase, vmm, place.see(daemon).vmms, memory !== null], end);
      assert.equal(memory?.spentOn ?? null, null);
      assert.equal(daemon.life.watches(place.vm.id), write);
    });
  }

  it('lets its guest go on also where nobody knows any more what it was suspended with', async () => {
    await using place = await wokenInVain('same');
    rmSync(memoryFiles(place.config.paths.store, place.vm.id).manifest);
    const guests = noGuests();
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    assert.deepEqual([place.stores.vms.get('web').phase, modes(guests)], ['running', ['same']]);
    assert.deepEqual(place.see(daemon).vmms, ['Running']);
  });
});
