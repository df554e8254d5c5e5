/** What happened to VMs and operations: a short memory of it, and any number of readers at their own pace. */
import type { Event } from '../api/event.ts';
import type { Operation } from '../api/operation.ts';
import { shownState, type VmRecord } from '../core/vm.ts';
import type { VmTransition } from '../state/vms.ts';

type WithoutBase<T> = T extends unknown ? Omit<T, 'seq' | 'at'> : never;
/** An event before it has its number and time. */
export type EventFacts = WithoutBase<Exclude<Event, { type: 'dropped' }>>;

export interface ReadOptions {
  /** nothing older than this */
  since?: Date;
  /** whether to wait for what comes after what is there */
  follow: boolean;
  signal: AbortSignal;
}

export interface Events {
  publish(facts: EventFacts): void;
  /** To be told of every change of a VM. */
  vmChanged(transition: VmTransition): void;
  /** To be told when an operation has begun and when it has ended. */
  operationChanged(operation: Operation): void;
  /** Calls `listener` with each event as it happens; the result ends that. */
  onEvent(listener: (event: Event) => void): () => void;
  /**
   * Events in their order. A reader has no queue of its own: one that is slower than what happens finds a
   * `dropped` event in the place of those that are forgotten.
   */
  read(options: ReadOptions): AsyncGenerator<Event>;
  /** How many follow now and wait for the next event. */
  readers(): number;
}

/** Some hundred KiB; a busy host makes a few events a minute. */
const KEPT_EVENTS = 1000;
/** Failures quote consoles and logs; an event is one line. */
const MAX_REASON = 1000;

/** Settings whose change is an event. The rest of a record follows from states and starts. */
const SETTINGS = [
  'image',
  'vcpus',
  'memoryMib',
  'rootDiskBytes',
  'workDiskBytes',
  'workDiskMount',
  'address',
  'nat',
  'autostart',
  'restartPolicy',
  'idleSuspendMs',
] as const satisfies readonly (keyof VmRecord)[];

/** @param kept how many events are remembered */
export function createEvents(now: () => Date, kept = KEPT_EVENTS): Events {
  const recent: Event[] = [];
  const listeners = new Set<(event: Event) => void>();
  const waiting = new Set<() => void>();
  let lastSeq = 0;

  function publish(facts: EventFacts): void {
    lastSeq += 1;
    const event: Event = { seq: lastSeq, at: now().toISOString(), ...facts };
    recent.push(event);
    if (recent.length > kept) recent.shift();
    for (const listener of listeners) listener(event);
    for (const wake of [...waiting]) wake();
  }

  /** Resolves with the next event, or when the reader leaves. */
  function nextEvent(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }

  return {
    publish,
    vmChanged(transition) {
      for (const facts of describeTransition(transition)) publish(facts);
    },
    operationChanged: (operation) => publish(describeOperation(operation)),
    onEvent(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    readers: () => waiting.size,
    async *read({ since, follow, signal }) {
      const from = since?.toISOString() ?? '';
      let next = recent.find(({ at }) => at >= from)?.seq ?? lastSeq + 1;
      while (!signal.aborted) {
        const oldest = recent[0]?.seq ?? lastSeq + 1;
        if (next < oldest) {
          yield { seq: oldest - 1, at: now().toISOString(), type: 'dropped', count: oldest - next };
          next = oldest;
          continue; // more may have been forgotten while that was sent
        }
        const event = recent[next - oldest];
        if (event) {
          next += 1;
          yield event;
        } else if (follow) await nextEvent(signal);
        else return;
      }
    },
  };
}

/** The events of one change of a record, in the order a reader expects them. */
export function describeTransition({ before, after }: VmTransition): EventFacts[] {
  if (!after) return before ? [{ type: 'vm.deleted', vm: before.name, id: before.id }] : [];
  const vm = { vm: after.name, id: after.id };
  if (!before) return [{ type: 'vm.created', ...vm, state: after.phase }];
  const facts: EventFacts[] = [];
  if (before.name !== after.name) facts.push({ type: 'vm.renamed', ...vm, from: before.name });
  const fields = SETTINGS.filter((field) => before[field] !== after[field]);
  if (fields.length > 0) facts.push({ type: 'vm.changed', ...vm, fields });
  if (after.lastEnd !== null && after.lastEnd.at !== before.lastEnd?.at) {
    facts.push({ type: 'vm.ended', ...vm, kind: after.lastEnd.kind, reason: shorten(after.lastEnd.why) });
  }
  const [from, to] = [shownState(before), shownState(after)];
  if (from !== to) {
    const why = (to === 'paused' ? after.paused?.why : after.failure) ?? null;
    facts.push({ type: 'vm.state', ...vm, from, to, reason: why === null ? null : shorten(why) });
  }
  if (before.ready === null && after.ready !== null) {
    facts.push({ type: 'vm.ready', ...vm, readyMs: after.ready.ms, failedUnits: after.ready.failedUnits });
  }
  return facts;
}

function describeOperation({ id, kind, target, state, createdAt, finishedAt, error }: Operation): EventFacts {
  const operation = { operation: id, kind, target };
  if (finishedAt === null) return { type: 'operation.begun', ...operation };
  return {
    type: 'operation.ended',
    ...operation,
    state,
    durationMs: Math.max(Date.parse(finishedAt) - Date.parse(createdAt), 0),
    error: error === null ? null : shorten(error.message),
  };
}

function shorten(text: string): string {
  return text.length <= MAX_REASON ? text : `${text.slice(0, MAX_REASON - 1)}…`;
}
