/** Whoever wants to use a VM while others are at work on it: when it goes on, and when it is left as it is. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Operation } from '../../../src/api/operation.ts';
import type { VmRunResult } from '../../../src/api/vm.ts';
import { awaken, createWaker, type Patience } from '../../../src/control/vm/awaken.ts';
import { awaitUsable } from '../../../src/control/vm/readiness.ts';
import type { VmPhase } from '../../../src/core/vm.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { paced } from '../../support/pace.ts';
import { withAgents } from '../../support/waking-agents.ts';
import { runningVm, takeSnapshot } from '../../support/warm-works.ts';

const never = new AbortController().signal;
const suspend = ({ life }: Daemon) => life.suspend('web');

/** A daemon of that host, and the names of VMs that somebody has it resume. */
async function begun(place: MortalHost): Promise<{ daemon: Daemon; resumed: string[] }> {
  const daemon = withAgents(place.daemon(), { woken: [] });
  await daemon.recover();
  const resumed: string[] = [];
  const { resume } = daemon.life;
  daemon.life.resume = (name) => {
    const operation = resume(name);
    if (!operation.joined) resumed.push(name);
    return operation;
  };
  return { daemon, resumed };
}

/** Does something as soon as the VM gets to a phase. */
function at<T>({ host, mortal }: Daemon, phase: VmPhase, work: () => Promise<T> | T): Promise<T> {
  const { promise, resolve } = Promise.withResolvers<T>();
  const unfollow = host.stores.vms.onChange(({ after }) => {
    if (after?.name !== 'web' || after.phase !== phase) return;
    unfollow();
    resolve(mortal.run(work));
  });
  return promise;
}

/** As a command does that is to run in it. */
const use = ({ host, life, mortal }: Daemon, say = (_text: string) => {}) =>
  mortal.run(() => awaitUsable(host, life, host.stores.vms.get('web').id, 'ready', say, never));

/** As who wants to log in does, or sends a packet. */
const wake = ({ host, life, mortal }: Daemon, patience: Partial<Patience> = {}) =>
  mortal.run(() => awaken(host, life, host.stores.vms.get('web').id, { signal: never, ...patience }));

/** Something else that is at work on the VM until it is told to end, or called off. */
function occupy({ life, mortal }: Daemon, kind = 'snapshot.export'): { operation: Operation; end(): void } {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const work = async (_actions: unknown, _progress: unknown, signal: AbortSignal) => {
    signal.addEventListener('abort', () => reject(signal.reason));
    await promise;
  };
  return { operation: mortal.run(() => life.change(kind, 'web', work)), end: resolve };
}

/** Everybody has come as far as they can without the disk. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await setImmediate();
}

async function outcomeOf({ host }: Daemon, { id }: Operation): Promise<[string, boolean, boolean]> {
  const { state, error, result } = await host.operations.finished(id);
  const { started, resumed } = (result ?? {}) as Partial<VmRunResult>;
  return [error?.message ?? state, started ?? false, resumed ?? false];
}

describe('somebody who wants to use a VM', { timeout: paced(60_000) }, () => {
  it('waits for the moment in which a snapshot or fork of it is taken', async () => {
    for (const begin of [takeSnapshot, ({ life }: Daemon) => life.fork('web', ['twin'])]) {
      await using place = await runningVm();
      const { daemon, resumed } = await begun(place);
      const used = at(daemon, 'suspending', () => use(daemon));
      const run = at(daemon, 'suspending', () => daemon.life.run('web', {}));
      const ended = await daemon.finish(() => begin(daemon));
      assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
      assert.equal((await used).phase, 'running');
      assert.deepEqual(await outcomeOf(daemon, await run), ['succeeded', false, false]);
      assert.deepEqual(resumed, []);
    }
  });

  it('has a suspended one go on after a snapshot of it, once', async () => {
    await using place = await runningVm(suspend);
    const { daemon, resumed } = await begun(place);
    const snapshot = daemon.mortal.run(() => takeSnapshot(daemon));
    const uses = [use(daemon), use(daemon)];
    const run = daemon.mortal.run(() => daemon.life.run('web', {}));
    for (const used of uses) assert.equal((await used).phase, 'running');
    assert.equal((await daemon.host.operations.finished(snapshot.id)).state, 'succeeded');
    assert.deepEqual(await outcomeOf(daemon, run), ['succeeded', true, true]);
    assert.deepEqual(resumed, ['web']);
  });

  it('has it go on by its name after what is at work on it, without a minute in between', async () => {
    await using place = await runningVm(suspend);
    const { daemon, resumed } = await begun(place);
    const { host, life, mortal } = daemon;
    const wanted = mortal.run(() => createWaker(host, life));
    const other = occupy(daemon);
    for (let query = 0; query < 10; query++) mortal.run(() => wanted('web'));
    await settle();
    assert.deepEqual([resumed, place.stores.vms.get('web').phase], [[], 'suspended']);
    const up = at(daemon, 'running', () => {});
    other.end();
    await up;
    assert.deepEqual(resumed, ['web']);
  });

  it('waits for a start, run or restart by which it goes on', async () => {
    for (const act of ['start', 'run', 'restart'] as const) {
      await using place = await runningVm(suspend);
      const { daemon, resumed } = await begun(place);
      const used = at(daemon, 'resuming', () => use(daemon));
      const woken = at(daemon, 'resuming', async () => {
        await wake(daemon);
        return place.stores.vms.get('web').phase;
      });
      const ended = await daemon.finish(() => daemon.life[act]('web', {}));
      assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
      assert.deepEqual([(await used).phase, await woken], ['running', 'running'], act);
      assert.deepEqual(resumed, [], act);
    }
  });

  it('has none go on that is stopped, killed or deleted while it waits', async () => {
    const deletion = { force: true, now: false, keepWorkDisk: false };
    const stop = ({ life }: Daemon) => life.stop('web', { discardMemory: true });
    const remove = ({ life }: Daemon) => life.delete('web', deletion);
    for (const [end, says] of [
      [stop, /web is not running \(stopped\)/],
      [remove, /The VM was deleted meanwhile/],
    ] as const) {
      await using place = await runningVm(suspend);
      const { daemon, resumed } = await begun(place);
      const ending = daemon.finish(() => end(daemon));
      await assert.rejects(use(daemon), says);
      assert.equal((await ending)?.state, 'succeeded');
      assert.deepEqual(resumed, []);
    }
    // which calls off what is waited for
    await using place = await runningVm(suspend);
    const { daemon, resumed } = await begun(place);
    const other = occupy(daemon);
    const refused = assert.rejects(use(daemon), /web is not running \(stopped\)/);
    const run = daemon.mortal.run(() => daemon.life.run('web', {}));
    await settle();
    const killed = await daemon.finish(() => daemon.life.kill('web'));
    assert.equal(killed?.state, 'succeeded');
    await refused;
    assert.deepEqual(await outcomeOf(daemon, run), ['web is not running (stopped).', false, false]);
    assert.deepEqual([resumed, (await daemon.host.operations.finished(other.operation.id)).state], [[], 'cancelled']);
  });

  it('is refused at once as ever where nothing that is at work lets it be used', async () => {
    await using place = await runningVm(({ life }) => life.stop('web'));
    const { daemon } = await begun(place);
    const other = occupy(daemon);
    await assert.rejects(use(daemon), /web is not running \(stopped\)/);
    assert.throws(() => daemon.life.run('web', {}), { code: 'conflict', details: { operation: other.operation.id } });
    other.end();
  });

  it('is told what for when it takes long, once for each operation, and may leave', async () => {
    await using place = await runningVm(suspend);
    const { daemon, resumed } = await begun(place);
    const { operation, end } = occupy(daemon);
    const said: string[] = [];
    const leaving = new AbortController();
    const left = assert.rejects(wake(daemon, { signal: leaving.signal }), { code: 'cancelled' });
    const impatient = assert.rejects(wake(daemon, { limitMs: 20 }), {
      code: 'conflict',
      message: `web has to wait for another operation, snapshot export (${operation.id}), which goes on.`,
    });
    const used = use(daemon, (text) => void said.push(text));
    leaving.abort();
    await Promise.all([left, impatient]);
    while (said.length === 0) await setImmediate();
    end();
    assert.equal((await used).phase, 'running');
    assert.deepEqual(said, [
      `web has to wait for another operation, snapshot export (${operation.id}); the command runs then`,
    ]);
    assert.deepEqual(resumed, ['web']);
  });

  it('waits also for what works on all VMs', async () => {
    await using place = await runningVm(suspend);
    const { daemon, resumed } = await begun(place);
    const moved = Promise.withResolvers<void>();
    daemon.host.operations.start({
      ...{ kind: 'storage.init', target: 'the store', exclusive: true },
      run: () => moved.promise,
    });
    const used = use(daemon);
    await settle();
    assert.deepEqual(resumed, []);
    moved.resolve();
    assert.equal((await used).phase, 'running');
  });

  it('hears why it cannot go on', async () => {
    await using place = await runningVm(suspend);
    const { daemon } = await begun(place);
    daemon.host.checks = {
      ...daemon.host.checks,
      beforeStart: async () => assert.fail('the host is on fire'),
    };
    await assert.rejects(use(daemon), /the host is on fire/);
    const start = daemon.mortal.run(() => daemon.life.start('web'));
    await assert.rejects(use(daemon), /the host is on fire/);
    await daemon.host.operations.finished(start.id);
  });
});
