/** Long actions: one at a time per target, with progress that any number of clients can follow. */
import { randomUUID } from 'node:crypto';
import type { Operation, OperationEvent } from '../api/operation.ts';
import { toProblem } from '../api/problem.ts';
import { asBangerError, BangerError, messageOf } from '../errors.ts';
import type { OperationStore } from '../state/operations.ts';
import { timerMs } from '../units.ts';
import { createOperationEvents, type OperationEvents } from './operation-events.ts';

/** How far a step is; what it cannot say is undefined. */
export interface ProgressReport {
  label: string;
  detail?: string | undefined;
  done?: number | undefined;
  total?: number | undefined;
}

/** Reports from inside a running action. */
export interface Progress {
  /** A step with a stable name began; `label` is for people. */
  step(step: string, label: string): void;
  /** The current step moved; `done` and `total` in the same unit. */
  report(progress: ProgressReport): void;
  /** A line of output that some want to see. */
  line(line: string): void;
  warn(message: string): void;
}

export interface OperationRequest<T> {
  /** e.g. `vm.start` */
  kind: string;
  /** name of the thing worked on */
  target: string;
  /** names of others that nobody else may work on meanwhile */
  also?: readonly string[];
  /** whether a second request may wait for this one instead of failing */
  joinable?: boolean;
  /** kind that it joins and is joined as; its own without */
  joinsAs?: string;
  /** whether it changes nothing: it goes on beside what works on the same thing */
  onlyLooks?: boolean;
  /** whether it works on what all others need: it begins when none is under way, and none begins meanwhile */
  exclusive?: boolean;
  /** whether it ends when nobody has followed it for a while */
  attended?: boolean;
  /** whether nobody waits for it: it is called off by whatever it is in the way of, and does not count as running */
  background?: boolean;
  /** whether nobody asked for it, as a start by a policy; it counts as asked for when somebody joins it */
  unasked?: boolean;
  /** whether it calls off what nobody asked for: who wants something stopped need not know that it is being started */
  endsUnasked?: boolean;
  run(progress: Progress, signal: AbortSignal): Promise<T>;
}

export interface Operations {
  /**
   * Starts an action and returns at once.
   * @throws BangerError `conflict` when another action works on the same target
   */
  start<T>(request: OperationRequest<T>): Operation;
  /** Waits for the end of an action that was just started or joined, and returns what `run` returned. */
  finished(id: string): Promise<Operation>;
  list(): Operation[];
  /** @throws BangerError `not_found` */
  get(id: string): Operation;
  /** Kind of the action that works on a target now. */
  activeOn(target: string): Operation | undefined;
  /** Events from the beginning; ends after `done`, or with those so far. Counts as a watcher until it is closed. */
  events(id: string, signal: AbortSignal, follow?: boolean): AsyncGenerator<OperationEvent>;
  /** Aborts the action unless others than the caller wait for it. */
  cancel(id: string): { cancelled: boolean; watchers: number };
  /**
   * Aborts the action whoever waits for it; the way to free a target that hangs.
   * @param why what it ends with; that it was cancelled without
   */
  abort(id: string, why?: BangerError): void;
  /** Without those in the background. */
  runningCount(): number;
  /** Aborts everything and waits until it is undone. */
  shutdown(): Promise<void>;
}

interface Live {
  operation: Operation;
  also: readonly string[];
  startedAt: number;
  events: OperationEvents;
  wake: Set<() => void>;
  watchers: number;
  abort: AbortController;
  done: Promise<void>;
  joinable: boolean;
  joinsAs: string;
  onlyLooks: boolean;
  exclusive: boolean;
  attended: boolean;
  background: boolean;
  unasked: boolean;
  /** ends an action that nobody follows */
  unattended?: NodeJS.Timeout | undefined;
}

/** What a client gets that has just begun an action, and one that was cut off and comes back. */
const FIRST_WATCHER_MS = 15_000;
const NEXT_WATCHER_MS = 5000;
/** Events kept of an operation, in bytes: some ten thousand lines, more than anybody scrolls back. */
const MAX_EVENT_BYTES = 4 * 1024 * 1024;
/** Ended operations whose events can still be read. */
const MAX_ENDED = 100;
/** Events kept of all that have ended, in bytes; beyond it the oldest are cut to their last few hundred lines. */
const MAX_ENDED_BYTES = 8 * 1024 * 1024;
const OLD_EVENT_BYTES = 64 * 1024;

export interface OperationsOptions {
  /** hears of each operation when it has begun and when it has ended */
  onChange?: (operation: Operation) => void;
  /** takes what cannot be kept: the record of an operation is not worth the operation */
  log?: { error(facts: object, message: string): void };
}

export function createOperations(
  store: OperationStore,
  now: () => Date,
  { onChange = () => {}, log }: OperationsOptions = {},
): Operations {
  const live = new Map<string, Live>();
  const running = () => [...live.values()].filter((entry) => entry.operation.state === 'running');
  /** the oldest first: the last one begins when those before, which were called off, have been undone */
  const workingOn = (...targets: readonly string[]) =>
    running().filter(
      ({ operation, also, onlyLooks }) =>
        !onlyLooks && [operation.target, ...also].some((target) => targets.includes(target)),
    );
  const lookUp = (id: string): Live => {
    const entry = live.get(id);
    if (entry) return entry;
    throw new BangerError('not_found', `There is no operation ${id}.`, {
      hint: 'List them with: banger operation list',
    });
  };

  const publish = (entry: Live, event: OperationEvent) => {
    entry.events.push(event);
    for (const wake of entry.wake) wake();
  };

  const expectWatcher = (entry: Live, withinMs: number) => {
    clearTimeout(entry.unattended);
    if (!entry.attended || entry.watchers > 0 || entry.operation.state !== 'running') return;
    entry.unattended = setTimeout(() => entry.abort.abort(unattendedError(entry.operation)), timerMs(withinMs));
    entry.unattended.unref();
  };

  const forgetOld = () => {
    const ended = [...live.values()].filter((entry) => entry.operation.state !== 'running' && entry.watchers === 0);
    for (const entry of ended.splice(0, Math.max(0, ended.length - MAX_ENDED))) live.delete(entry.operation.id);
    let bytes = ended.reduce((sum, entry) => sum + entry.events.bytes, 0);
    for (const { events } of ended) {
      if (bytes <= MAX_ENDED_BYTES) return;
      bytes -= events.bytes;
      events.shrink(OLD_EVENT_BYTES);
      bytes += events.bytes;
    }
  };

  /** What is done with an operation beside running it; a full disk, for one, must not be its end. */
  const attempt = (what: string, { id, kind, target }: Operation, work: () => void) => {
    try {
      work();
    } catch (error) {
      log?.error({ operation: id, kind, target, error: messageOf(error) }, what);
    }
  };
  const tell = (operation: Operation) =>
    attempt('a listener to operations failed', operation, () => onChange(operation));

  async function execute<T>(entry: Live, request: OperationRequest<T>): Promise<void> {
    const atMs = () => Math.round(performance.now() - entry.startedAt);
    const progress: Progress = {
      step(step, label) {
        entry.operation.step = label;
        publish(entry, { type: 'step', step, label, atMs: atMs() });
      },
      report: (report) => publish(entry, { type: 'progress', ...report, atMs: atMs() }),
      line: (line) => publish(entry, { type: 'log', line, atMs: atMs() }),
      warn: (message) => publish(entry, { type: 'warning', message, atMs: atMs() }),
    };
    try {
      entry.operation.result = await request.run(progress, entry.abort.signal);
      entry.operation.state = 'succeeded';
    } catch (error) {
      const failure = asBangerError(error);
      entry.operation.state = failure.code === 'cancelled' ? 'cancelled' : 'failed';
      entry.operation.error = toProblem(failure);
    }
    clearTimeout(entry.unattended);
    const { operation } = entry;
    const finishedAt = now().toISOString();
    operation.step = null;
    operation.finishedAt = finishedAt;
    attempt('the end of an operation could not be recorded', operation, () =>
      store.finish(operation.id, operation.state, finishedAt, operation.error),
    );
    publish(entry, { type: 'done', operation: { ...operation } });
    tell(operation);
    forgetOld();
  }

  return {
    start(request) {
      const joinsAs = request.joinsAs ?? request.kind;
      const also = request.also ?? [];
      const here = request.onlyLooks ? [] : workingOn(request.target, ...also);
      const busy = here.at(-1);
      if (busy) {
        const same = busy.joinsAs === joinsAs && busy.joinable && request.joinable;
        if (same && !busy.abort.signal.aborted) {
          // somebody waits for it now
          busy.background &&= request.background ?? false;
          busy.unasked &&= request.unasked ?? false;
          return { ...busy.operation, joined: true };
        }
      }
      const inTheWay = running().filter((entry) => here.includes(entry) || request.exclusive || entry.exclusive);
      const firm = inTheWay.find(
        (entry) => (!entry.background || request.background) && !(entry.unasked && request.endsUnasked),
      );
      if (firm) throw busyError(request, firm.operation);
      for (const entry of inTheWay) entry.abort.abort(cancelledError(entry.operation));
      const operation: Operation = {
        id: randomUUID().slice(0, 8),
        kind: request.kind,
        target: request.target,
        state: 'running',
        step: null,
        createdAt: now().toISOString(),
        finishedAt: null,
        error: null,
      };
      attempt('an operation could not be recorded', operation, () => store.insert(operation));
      const entry: Live = {
        operation,
        also,
        startedAt: performance.now(),
        events: createOperationEvents(MAX_EVENT_BYTES),
        wake: new Set(),
        watchers: 0,
        abort: new AbortController(),
        done: Promise.resolve(),
        joinable: request.joinable ?? false,
        joinsAs,
        onlyLooks: request.onlyLooks ?? false,
        exclusive: request.exclusive ?? false,
        attended: request.attended ?? false,
        background: request.background ?? false,
        unasked: request.unasked ?? false,
      };
      live.set(operation.id, entry);
      tell(operation);
      expectWatcher(entry, FIRST_WATCHER_MS);
      const over = inTheWay.map(({ done }) => done);
      entry.done = over.length === 0 ? execute(entry, request) : Promise.all(over).then(() => execute(entry, request));
      return { ...operation };
    },
    async finished(id) {
      const entry = lookUp(id);
      await entry.done;
      return { ...entry.operation };
    },
    list() {
      const known = new Set(live.keys());
      const stored = store.recent(MAX_ENDED).filter((operation) => !known.has(operation.id));
      const current = [...live.values()].map((entry) => ({ ...entry.operation }));
      return [...current, ...stored].sort((a, b) => b.createdAt.localeCompare(a.createdAt));
    },
    get(id) {
      const entry = live.get(id);
      if (entry) return { ...entry.operation };
      return store.find(id) ?? lookUp(id).operation;
    },
    activeOn: (target) => workingOn(target).at(-1)?.operation,
    async *events(id, signal, follow = true) {
      const stored = live.has(id) ? undefined : store.find(id);
      if (stored) {
        // of an earlier daemon, or long ago: all that is kept is how it ended
        yield { type: 'done', operation: stored };
        return;
      }
      const entry = lookUp(id);
      entry.watchers++;
      clearTimeout(entry.unattended);
      try {
        let place = 0;
        while (!signal.aborted) {
          const next = entry.events.next(place);
          if (next) {
            place = next.place;
            yield next.event;
            if (next.event.type === 'done') return;
            continue;
          }
          if (!follow) return;
          await new Promise<void>((resolve) => {
            const wake = () => {
              entry.wake.delete(wake);
              signal.removeEventListener('abort', wake);
              resolve();
            };
            entry.wake.add(wake);
            signal.addEventListener('abort', wake, { once: true });
          });
        }
      } finally {
        entry.watchers--;
        expectWatcher(entry, NEXT_WATCHER_MS);
      }
    },
    cancel(id) {
      if (!live.has(id) && store.find(id)) return { cancelled: false, watchers: 0 };
      const entry = lookUp(id);
      // the caller follows the operation too: it counts as one watcher
      const others = Math.max(0, entry.watchers - 1);
      if (entry.operation.state !== 'running' || others > 0) return { cancelled: false, watchers: others };
      entry.abort.abort(cancelledError(entry.operation));
      return { cancelled: true, watchers: others };
    },
    abort(id, why) {
      const entry = lookUp(id);
      entry.abort.abort(why ?? cancelledError(entry.operation));
    },
    runningCount: () => running().filter(({ background }) => !background).length,
    async shutdown() {
      const left = running();
      for (const entry of left) {
        entry.abort.abort(new BangerError('cancelled', 'The daemon was stopped; what had begun was undone.'));
      }
      await Promise.all(left.map((entry) => entry.done));
    },
  };
}

/** `vm.start` of `web` → "start of web". */
function describeKind({ kind, target }: Pick<Operation, 'kind' | 'target'>): string {
  return `${kind.split('.').at(-1) ?? kind} of ${target}`;
}

function cancelledError(operation: Operation): BangerError {
  return new BangerError('cancelled', `The ${describeKind(operation)} was cancelled and undone.`, {
    hint: 'See what is there now: banger ls',
  });
}

function unattendedError(operation: Operation): BangerError {
  return new BangerError('cancelled', `The ${describeKind(operation)} was undone: its client went away.`, {
    hint: 'Leave it to the daemon with --detach, and follow it with: banger operation wait ID',
  });
}

function busyError(request: { kind: string; target: string }, busy: Operation): BangerError {
  return new BangerError(
    'conflict',
    `The ${describeKind(request)} has to wait: a ${describeKind(busy)} is going on (operation ${busy.id}).`,
    { hint: `Follow it with: banger operation wait ${busy.id}`, details: { operation: busy.id } },
  );
}

/** Id of the operation that kept another one from beginning; undefined for what else went wrong. */
export function inTheWay(error: unknown): string | undefined {
  const id = error instanceof BangerError && error.code === 'conflict' ? error.details?.operation : undefined;
  return typeof id === 'string' ? id : undefined;
}
