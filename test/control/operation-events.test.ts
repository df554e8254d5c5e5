import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { OperationEvent } from '../../src/api/operation.ts';
import { createOperationEvents, type OperationEvents } from '../../src/control/operation-events.ts';

const line = (text: string): OperationEvent => ({ type: 'log', line: text, atMs: 1 });
const step = (name: string): OperationEvent => ({ type: 'step', step: name, label: name, atMs: 1 });

function read(log: OperationEvents, from = 0): string[] {
  const seen: string[] = [];
  for (let next = log.next(from); next; next = log.next(next.place)) {
    const { event } = next;
    seen.push(event.type === 'log' ? event.line : event.type === 'step' ? `== ${event.label}` : event.type);
  }
  return seen;
}

describe('what an operation has said', () => {
  it('is all there while it is little', () => {
    const log = createOperationEvents(10_000);
    for (const event of [step('one'), line('a'), line('b')]) log.push(event);
    assert.deepEqual(read(log), ['== one', 'a', 'b']);
    assert.deepEqual(read(log, 2), ['b']);
  });

  it('loses its oldest output first and says how much, once, where that was', () => {
    const log = createOperationEvents(20_000);
    log.push(step('one'));
    for (let n = 1; n <= 500; n++) log.push(line(`line ${n}`));
    assert.ok(log.bytes <= 20_000, `${log.bytes} bytes`);
    const [first, note, next, ...rest] = read(log);
    assert.equal(first, '== one');
    const dropped = Number(/^\[(\d+) lines are no longer kept\]$/.exec(note ?? '')?.[1]);
    assert.equal(next, `line ${dropped + 1}`);
    assert.equal(rest.at(-1), 'line 500');
    assert.equal(rest.length + 1 + dropped, 500);
    // whoever has read that far misses nothing
    assert.deepEqual(read(log, 499), ['line 499', 'line 500']);
  });

  it('is short of megabytes whatever a guest prints', () => {
    const log = createOperationEvents(1024 * 1024);
    for (let n = 0; n < 100; n++) log.push(line('x'.repeat(200_000)));
    assert.ok(log.bytes <= 1024 * 1024, `${log.bytes} bytes`);
    log.shrink(1000);
    assert.match(read(log).join(), /^\[100 lines are no longer kept\]$/);
  });

  it('keeps only the last of what says how far a step is', () => {
    const log = createOperationEvents(10_000);
    log.push(step('copy'));
    for (let done = 0; done < 1000; done++) log.push({ type: 'progress', label: 'copy', done, total: 1000, atMs: 1 });
    assert.deepEqual(read(log), ['== copy', 'progress']);
    const last = log.next(1);
    assert.ok(last?.event.type === 'progress' && last.event.done === 999);
  });
});
