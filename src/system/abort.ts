/** Waiting that can be limited and cancelled. */
import { setTimeout as delay } from 'node:timers/promises';
import { BangerError } from '../errors.ts';
import { timerMs } from '../units.ts';

/** Sleeps; an aborted signal ends it with `cancelled`. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  try {
    await delay(timerMs(ms), undefined, signal ? { signal } : {});
  } catch (error) {
    throw cancelledOr(error, signal);
  }
}

/** What an aborted signal throws: its reason when that is a BangerError, `cancelled` otherwise. */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelledOr(signal.reason, signal);
}

function cancelledOr(error: unknown, signal: AbortSignal | undefined): unknown {
  if (!signal?.aborted) return error;
  if (signal.reason instanceof BangerError) return signal.reason;
  return new BangerError('cancelled', 'The operation was cancelled.', { cause: error });
}

/** What each of several pieces of work comes to. */
type Outcomes<Work extends readonly ((signal: AbortSignal) => Promise<unknown>)[]> = {
  -readonly [Index in keyof Work]: Awaited<ReturnType<Work[Index]>>;
};

/**
 * Does several things side by side. The first that fails ends the others through the signal they get, and is what is
 * thrown; all of them have ended by then, so an undo races with none.
 */
export async function sideBySide<const Work extends readonly ((signal: AbortSignal) => Promise<unknown>)[]>(
  signal: AbortSignal,
  work: Work,
): Promise<Outcomes<Work>> {
  const failure = new AbortController();
  const either = AbortSignal.any([signal, failure.signal]);
  const outcomes = await Promise.allSettled(
    work.map(async (each) => {
      try {
        return await each(either);
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    }),
  );
  // the reason of the abort is the failure that came first; the others are its echoes
  const values = outcomes.map((outcome) => {
    if (outcome.status === 'rejected') throw failure.signal.reason;
    return outcome.value;
  });
  // one value for each piece of work, in its place
  return values as Outcomes<Work>;
}

/** Resolves with undefined after `ms` without keeping the process alive; the loser of a race. */
export function expiry(ms: number): Promise<undefined> {
  return new Promise((resolve) => {
    setTimeout(() => resolve(undefined), timerMs(ms)).unref();
  });
}
