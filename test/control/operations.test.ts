import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { OperationEvent } from '../../src/api/operation.ts';
import { createOperations, type Operations } from '../../src/control/operations.ts';
import { BangerError } from '../../src/errors.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createOperationStore } from '../../src/state/operations.ts';
import { sleep } from '../../src/system/abort.ts';

function operations(): Operations {
  return createOperations(createOperationStore(openDatabase(':memory:')), () => new Date());
}

async function collect(events: AsyncGenerator<OperationEvent>): Promise<OperationEvent[]> {
  const seen: OperationEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}

const never = () => new AbortController().signal;

describe('operations', () => {
  it('show every watcher all events, whenever it comes', async () => {
    const all = operations();
    const gate = Promise.withResolvers<void>();
    const { id } = all.start({
      kind: 'vm.start',
      target: 'web',
      run: async (progress) => {
        progress.step('one', 'step one');
        await gate.promise;
        progress.step('two', 'step two');
        return 42;
      },
    });
    const early = collect(all.events(id, never()));
    await sleep(5);
    gate.resolve();
    await all.finished(id);
    const late = await collect(all.events(id, never()));
    assert.deepEqual(
      (await early).map((event) => (event.type === 'step' ? event.step : event.type)),
      ['one', 'two', 'done'],
    );
    assert.deepEqual(await early, late);
    assert.equal(all.get(id).result, 42);
  });

  it('let a second start of the same VM join the first', async () => {
    const all = operations();
    const request = { kind: 'vm.start', target: 'web', joinable: true, run: () => sleep(10) };
    const first = all.start(request);
    const second = all.start(request);
    assert.equal(second.id, first.id);
    assert.equal(second.joined, true);
    await all.finished(first.id);
  });

  it('keep others from all that they work on', async () => {
    const all = operations();
    const gate = Promise.withResolvers<void>();
    const request = { kind: 'snapshot.copy', target: 'old', also: ['web'], run: () => gate.promise };
    const { id } = all.start(request);
    for (const target of ['old', 'web']) {
      assert.equal(all.activeOn(target)?.id, id);
      assert.throws(() => all.start({ kind: 'vm.stop', target, joinable: true, run: async () => {} }), /a copy of old/);
    }
    assert.throws(() => all.start({ ...request, target: 'older' }), /has to wait: a copy of old is going on/);
    const other = all.start({ kind: 'vm.stop', target: 'db', run: async () => {} });
    assert.equal((await all.finished(other.id)).state, 'succeeded');
    gate.resolve();
    await all.finished(id);
    assert.equal(all.activeOn('web'), undefined);
  });

  it('in the background are called off by what they are in the way of, which waits for their end', async () => {
    for (const [kind, exclusive] of [
      ['vm.start', false],
      ['storage.init', true],
    ] as const) {
      const all = operations();
      const order: string[] = [];
      const { id } = all.start({
        kind: 'image.warm',
        target: 'web',
        background: true,
        async run(_, signal) {
          await sleep(60_000, signal).catch(() => sleep(5));
          order.push('over');
          signal.throwIfAborted();
        },
      });
      assert.equal(all.runningCount(), 0);
      const target = exclusive ? 'the store' : 'web';
      const next = all.start({ kind, target, exclusive, run: async () => void order.push(kind) });
      assert.equal((await all.finished(next.id)).state, 'succeeded');
      assert.equal((await all.finished(id)).state, 'cancelled');
      assert.deepEqual(order, ['over', kind]);
    }
  });

  it('in the background wait for nobody, and are called off by nobody once somebody waits for them', async () => {
    const all = operations();
    const gate = Promise.withResolvers<void>();
    const request = { kind: 'image.warm', target: 'dev', joinable: true, background: true, run: () => gate.promise };
    const { id } = all.start(request);
    assert.throws(() => all.start({ ...request, kind: 'image.other' }), /has to wait/);
    assert.equal(all.start({ ...request, background: false }).id, id);
    assert.equal(all.runningCount(), 1);
    assert.throws(() => all.start({ kind: 'image.delete', target: 'dev', run: async () => {} }), /has to wait/);
    gate.resolve();
    assert.equal((await all.finished(id)).state, 'succeeded');
  });

  it('that nobody asked for are called off by who wants the contrary, and by nobody once somebody has asked', async () => {
    const all = operations();
    const unasked = { kind: 'vm.start', target: 'web', joinable: true, unasked: true };
    const untilCalledOff = async (_: unknown, signal: AbortSignal) => {
      await sleep(60_000, signal).catch(() => {});
      signal.throwIfAborted();
    };
    const stop = { kind: 'vm.stop', target: 'web', joinable: true, endsUnasked: true, run: async () => 'stopped' };
    const first = all.start({ ...unasked, run: untilCalledOff });
    assert.throws(() => all.start({ kind: 'vm.rename', target: 'web', run: async () => {} }), /has to wait/);
    const { id } = all.start(stop);
    // while what was called off is undone, the one that waits for that is what works on it
    assert.equal(all.activeOn('web')?.id, id);
    assert.equal(all.start(stop).id, id);
    assert.throws(() => all.start({ ...stop, kind: 'vm.delete' }), /a stop of web is going on/);
    assert.equal((await all.finished(first.id)).state, 'cancelled');
    assert.equal((await all.finished(id)).result, 'stopped');

    const gate = Promise.withResolvers<void>();
    const second = all.start({ ...unasked, run: () => gate.promise });
    assert.equal(all.start({ ...unasked, unasked: false, run: () => gate.promise }).id, second.id);
    assert.throws(() => all.start(stop), /has to wait/);
    gate.resolve();
    assert.equal((await all.finished(second.id)).state, 'succeeded');
  });

  it('let those join each other that come to the same', async () => {
    const all = operations();
    const kinds = ['vm.run', 'vm.start'].map((kind) => ({ kind, target: 'web', joinable: true, joinsAs: 'vm.start' }));
    for (const [first, second] of [kinds, kinds.toReversed()]) {
      assert.ok(first && second);
      const { id } = all.start({ ...first, run: () => sleep(10) });
      const joined = all.start({ ...second, run: () => assert.fail('it is joined') });
      assert.deepEqual([joined.id, joined.kind, joined.joined], [id, first.kind, true]);
      assert.throws(() => all.start({ ...second, kind: 'vm.stop', joinsAs: 'vm.stop', run: () => sleep(10) }), {
        code: 'conflict',
      });
      await all.finished(id);
    }
  });

  it('that only look are in nobody’s way, and nobody is in theirs', async () => {
    const all = operations();
    const looking = { kind: 'vm.run', target: 'web', joinable: true, onlyLooks: true, run: () => sleep(10) };
    const first = all.start(looking);
    assert.equal(all.activeOn('web'), undefined);
    const changing = all.start({ kind: 'vm.set', target: 'web', run: () => sleep(10) });
    const second = all.start(looking);
    assert.equal(new Set([first.id, changing.id, second.id]).size, 3);
    assert.equal(all.activeOn('web')?.id, changing.id);
    for (const { id } of [first, changing, second]) await all.finished(id);
  });

  it('let an exclusive one begin only alone, and nothing else meanwhile', async () => {
    const all = operations();
    const start = { kind: 'vm.start', target: 'web', run: () => sleep(10) };
    const move = { kind: 'storage.init', target: 'the store', exclusive: true, run: () => sleep(10) };
    const { id } = all.start(start);
    assert.throws(() => all.start(move), {
      code: 'conflict',
      message: /init of the store has to wait: a start of web/,
    });
    await all.finished(id);
    const moving = all.start(move);
    assert.throws(() => all.start(start), {
      code: 'conflict',
      message: /start of web has to wait: a init of the store/,
    });
    await all.finished(moving.id);
    await all.finished(all.start(start).id);
  });

  it('refuse a different action on a busy target and name the one that is going on', async () => {
    const all = operations();
    const first = all.start({ kind: 'vm.start', target: 'web', joinable: true, run: () => sleep(10) });
    assert.throws(() => all.start({ kind: 'vm.delete', target: 'web', run: async () => {} }), {
      code: 'conflict',
      message: new RegExp(`start of web is going on \\(operation ${first.id}\\)`),
    });
    assert.ok(all.start({ kind: 'vm.delete', target: 'db', run: async () => {} }));
    await all.finished(first.id);
  });

  it('are cancelled by their only watcher, and report it', async () => {
    const all = operations();
    const { id } = all.start({ kind: 'vm.start', target: 'web', run: (_progress, signal) => sleep(10_000, signal) });
    const watching = collect(all.events(id, never()));
    await sleep(1);
    assert.deepEqual(all.cancel(id), { cancelled: true, watchers: 0 });
    assert.equal((await watching).at(-1)?.type, 'done');
    assert.equal(all.get(id).state, 'cancelled');
    assert.match(all.get(id).error?.message ?? '', /start of web was cancelled and undone/);
  });

  it('are not cancelled under the eyes of another watcher', async () => {
    const all = operations();
    const { id } = all.start({ kind: 'vm.start', target: 'web', run: () => sleep(20) });
    const watchers = [collect(all.events(id, never())), collect(all.events(id, never()))];
    await sleep(1);
    assert.deepEqual(all.cancel(id), { cancelled: false, watchers: 1 });
    await Promise.all(watchers);
    assert.equal(all.get(id).state, 'succeeded');
  });

  it('keep the code, message and hint of a failure', async () => {
    const all = operations();
    const { id } = all.start({
      kind: 'vm.start',
      target: 'web',
      run: async () => {
        throw new BangerError('preflight_failed', 'no qemu', { hint: 'apt install it' });
      },
    });
    const { state, error } = await all.finished(id);
    assert.equal(state, 'failed');
    assert.deepEqual(
      [error?.code, error?.message, error?.hint, error?.status],
      ['preflight_failed', 'no qemu', 'apt install it', 412],
    );
  });

  it('are all undone at shutdown', async () => {
    const all = operations();
    let undone = false;
    const { id } = all.start({
      kind: 'vm.start',
      target: 'web',
      run: async (_progress, signal) => {
        try {
          await sleep(10_000, signal);
        } finally {
          undone = true;
        }
      },
    });
    await all.shutdown();
    assert.equal(undone, true);
    assert.equal(all.get(id).state, 'cancelled');
    assert.equal(all.runningCount(), 0);
  });

  it('stop a watcher whose client went away', async () => {
    const all = operations();
    const gone = new AbortController();
    const { id } = all.start({ kind: 'x', target: 'y', run: () => sleep(20) });
    const watching = collect(all.events(id, gone.signal));
    gone.abort();
    assert.deepEqual(await watching, []);
    assert.deepEqual(all.cancel(id).watchers, 0);
    await all.finished(id);
  });

  it('that need somebody who follows them end when nobody does', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const all = operations();
    const request = (target: string) => ({
      kind: 'image.build',
      target,
      attended: true,
      run: (_: unknown, signal: AbortSignal) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    });
    const lonely = all.start(request('one'));
    const followed = all.start(request('two'));
    const leave = new AbortController();
    const following = collect(all.events(followed.id, leave.signal));
    t.mock.timers.tick(14_000);
    assert.equal(all.get(lonely.id).state, 'running');
    t.mock.timers.tick(2000);
    const ended = await all.finished(lonely.id);
    assert.deepEqual(
      [ended.state, ended.error?.message],
      ['cancelled', 'The build of one was undone: its client went away.'],
    );
    t.mock.timers.tick(100_000);
    assert.equal(all.get(followed.id).state, 'running');
    leave.abort();
    await following;
    t.mock.timers.tick(16_000);
    assert.equal((await all.finished(followed.id)).state, 'cancelled');
  });

  it('tell what they have said so far to those who do not wait', async () => {
    const all = operations();
    const { id } = all.start({
      kind: 'vm.start',
      target: 'web',
      run: async (progress, signal) => {
        progress.line('said');
        await sleep(10_000, signal);
      },
    });
    const seen = await collect(all.events(id, never(), false));
    assert.deepEqual(
      seen.map((event) => (event.type === 'log' ? event.line : event.type)),
      ['said'],
    );
    all.abort(id);
    await all.finished(id);
  });

  it('end for their clients although nothing can be written down, and say so in the log', async () => {
    const full = () => {
      throw new Error('database or disk is full');
    };
    const store = { ...createOperationStore(openDatabase(':memory:')), insert: full, finish: full };
    const logged: string[] = [];
    const all = createOperations(store, () => new Date(), {
      log: { error: (facts, message) => void logged.push(`${message}: ${(facts as { error: string }).error}`) },
      onChange: () => assert.fail('a listener that throws'),
    });
    const { id } = all.start({ kind: 'vm.stop', target: 'web', run: async () => 'stopped' });
    const events = await collect(all.events(id, never()));
    assert.deepEqual(
      events.map((event) => (event.type === 'done' ? event.operation.state : event.type)),
      ['succeeded'],
    );
    assert.equal((await all.finished(id)).result, 'stopped');
    assert.equal(all.activeOn('web'), undefined);
    assert.ok(logged.includes('an operation could not be recorded: database or disk is full'), logged.join('\n'));
    assert.ok(logged.includes('the end of an operation could not be recorded: database or disk is full'));
    assert.ok(logged.includes('a listener to operations failed: a listener that throws'));
  });

  it('take a few megabytes after a hundred that printed a lot, and still show how each of them went', async () => {
    const all = operations();
    const ids: string[] = [];
    for (let build = 0; build < 100; build++) {
      const { id } = all.start({
        kind: 'image.build',
        target: `image-${build}`,
        run: async (progress) => {
          progress.step('install', 'installing packages');
          for (let n = 0; n < 5000; n++) progress.line(`line ${n} of build ${build} ${'.'.repeat(160)}`);
          progress.warn('something to know');
        },
      });
      await all.finished(id);
      ids.push(id);
    }
    let characters = 0;
    for (const id of ids) {
      const events = await collect(all.events(id, never()));
      const kept = events.filter((event) => event.type === 'log');
      characters += JSON.stringify(events).length;
      assert.match(kept[0]?.line ?? '', /^(line 0 |\[\d+ lines are no longer kept\]$)/);
      assert.match(kept.at(-1)?.line ?? '', /^line 4999 of build/);
      assert.ok(kept.length > 50, `${kept.length} lines`);
      const others = events.filter((event) => event.type !== 'log').map(({ type }) => type);
      assert.deepEqual(others, ['step', 'warning', 'done']);
    }
    assert.ok(characters < 8 * 1024 * 1024, `${characters} characters`);
  });
});
