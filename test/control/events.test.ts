import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Event } from '../../src/api/event.ts';
import { createEvents, describeTransition, type Events } from '../../src/control/events.ts';
import { createOperations } from '../../src/control/operations.ts';
import type { VmRecord } from '../../src/core/vm.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createOperationStore } from '../../src/state/operations.ts';
import { createVmStore } from '../../src/state/vms.ts';
import { sampleVm } from '../support/sample-vm.ts';

const NEVER = new AbortController().signal;

/** Events at one second each, from 12:00:01 on. */
function clocked(kept?: number): Events {
  let second = 0;
  return createEvents(() => new Date(Date.UTC(2026, 0, 2, 12, 0, ++second)), kept);
}

function deleted(events: Events, ...names: string[]): void {
  for (const vm of names) events.publish({ type: 'vm.deleted', vm, id: '5f3a9c01' });
}

async function all(events: AsyncIterable<Event>): Promise<Event[]> {
  return await Array.fromAsync(events);
}

/** What an event is about: a VM's name, or how many were dropped. */
function gist(event: Event): string | number {
  if (event.type === 'dropped') return event.count;
  return 'vm' in event ? event.vm : event.kind;
}

describe('events of a VM', () => {
  it('follow from what the store tells, in the form the API promises', async () => {
    const events = createEvents(() => new Date());
    const vms = createVmStore(openDatabase(':memory:'));
    vms.onChange(events.vmChanged);
    const { id } = sampleVm();
    vms.insert(sampleVm({ phase: 'creating' }));
    vms.update(id, { phase: 'stopped' });
    vms.update(id, { phase: 'starting', failure: null, bootTimeline: [], bootMs: null });
    vms.update(id, { phase: 'failed', failure: 'the guest panicked' });
    vms.update(id, { name: 'shop', memoryMib: 1024, nat: false });
    vms.update(id, { bootMs: 5 });
    vms.remove(id);
    const told = await all(events.read({ follow: false, signal: NEVER }));
    assert.deepEqual(
      told.map(({ seq, at, ...facts }) => facts),
      [
        { type: 'vm.created', vm: 'web', id, state: 'creating' },
        { type: 'vm.state', vm: 'web', id, from: 'creating', to: 'stopped', reason: null },
        { type: 'vm.state', vm: 'web', id, from: 'stopped', to: 'starting', reason: null },
        { type: 'vm.state', vm: 'web', id, from: 'starting', to: 'failed', reason: 'the guest panicked' },
        { type: 'vm.renamed', vm: 'shop', id, from: 'web' },
        { type: 'vm.changed', vm: 'shop', id, fields: ['memoryMib', 'nat'] },
        { type: 'vm.deleted', vm: 'shop', id },
      ],
    );
    assert.deepEqual(
      told.map(({ seq }) => seq),
      [1, 2, 3, 4, 5, 6, 7],
    );
    for (const event of told) assert.deepEqual(Event.parse(event), event);
  });

  it('are short however long the reason is', () => {
    const failed = sampleVm({ phase: 'failed', failure: 'x'.repeat(100_000) });
    const [event] = describeTransition({ before: sampleVm(), after: failed });
    assert.ok(event?.type === 'vm.state' && (event.reason?.length ?? 0) <= 1000);
  });

  it('tell of an end that nobody wanted, once', () => {
    const lastEnd = { at: '2026-01-01T00:00:00.000Z', kind: 'panic' as const, why: 'It panicked.', lines: ['a', 'b'] };
    const before = sampleVm({ phase: 'running' });
    const after = sampleVm({ phase: 'failed', failure: lastEnd.why, lastEnd });
    const { id, name: vm } = before;
    assert.deepEqual(describeTransition({ before, after }), [
      { type: 'vm.ended', vm, id, kind: 'panic', reason: 'It panicked.' },
      { type: 'vm.state', vm, id, from: 'running', to: 'failed', reason: 'It panicked.' },
    ]);
    assert.deepEqual(describeTransition({ before: after, after: { ...after, bootMs: 7 } }), []);
  });

  it('are none for a change of what follows from a start', () => {
    const change: Partial<VmRecord> = { startedAt: '2026-01-01T00:00:00.000Z', vmm: 'fcqemu', bootMs: 7 };
    assert.deepEqual(describeTransition({ before: sampleVm(), after: sampleVm(change) }), []);
  });
});

describe('events of operations', () => {
  it('tell the beginning and the end, with the reason of a failure', async () => {
    const events = createEvents(() => new Date());
    const store = createOperationStore(openDatabase(':memory:'));
    const operations = createOperations(store, () => new Date(), { onChange: events.operationChanged });
    const { id } = operations.start({
      kind: 'vm.start',
      target: 'web',
      run: () => Promise.reject(new Error('no such luck')),
    });
    await operations.finished(id);
    const [begun, ended] = await all(events.read({ follow: false, signal: NEVER }));
    assert.ok(begun?.type === 'operation.begun' && ended?.type === 'operation.ended');
    assert.deepEqual([begun.operation, begun.kind, begun.target], [id, 'vm.start', 'web']);
    assert.deepEqual([ended.operation, ended.state], [id, 'failed']);
    assert.match(ended.error ?? '', /no such luck/);
    for (const event of [begun, ended]) assert.deepEqual(Event.parse(event), event);
  });
});

describe('a reader of events', () => {
  it('without following gets what is remembered, from the time it names', async () => {
    const events = clocked();
    deleted(events, 'a', 'b', 'c');
    assert.deepEqual((await all(events.read({ follow: false, signal: NEVER }))).map(gist), ['a', 'b', 'c']);
    const since = new Date(Date.UTC(2026, 0, 2, 12, 0, 2));
    assert.deepEqual((await all(events.read({ since, follow: false, signal: NEVER }))).map(gist), ['b', 'c']);
    const later = new Date(Date.UTC(2026, 0, 3));
    assert.deepEqual(await all(events.read({ since: later, follow: false, signal: NEVER })), []);
  });

  it('that follows gets what comes, until it leaves', async () => {
    const events = clocked();
    const leave = new AbortController();
    const seen: (string | number)[] = [];
    const reading = (async () => {
      for await (const event of events.read({ follow: true, signal: leave.signal })) seen.push(gist(event));
    })();
    deleted(events, 'a');
    await new Promise((resolve) => setImmediate(resolve));
    deleted(events, 'b', 'c');
    await new Promise((resolve) => setImmediate(resolve));
    leave.abort();
    await reading;
    assert.deepEqual(seen, ['a', 'b', 'c']);
  });

  it('that is slow is told how many it missed, and disturbs nobody', async () => {
    const events = clocked(3);
    const slow = events.read({ follow: true, signal: NEVER });
    deleted(events, 'a', 'b');
    assert.equal(gist((await slow.next()).value), 'a');
    deleted(events, 'c', 'd', 'e', 'f');
    const rest: Event[] = [];
    for (let count = 0; count < 4; count++) rest.push((await slow.next()).value);
    assert.deepEqual(rest.map(gist), [2, 'd', 'e', 'f']);
    assert.deepEqual(Event.parse(rest[0]), rest[0]);
  });

  it('that never reads costs nothing: a hundred thousand events are remembered as a thousand', async () => {
    const events = createEvents(() => new Date());
    const stuck = events.read({ follow: true, signal: NEVER });
    await Promise.race([stuck.next(), new Promise((resolve) => setImmediate(resolve))]);
    for (let count = 0; count < 100_000; count++) deleted(events, 'a');
    assert.equal((await all(events.read({ follow: false, signal: NEVER }))).length, 1000);
  });
});
