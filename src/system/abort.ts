/** Waiting that can be limited and cancelled. */
import { setTimeout as delay } from 'node:timers/promises';
import { BangerError } from '../errors.ts';

/** Sleeps; an aborted signal ends it with `cancelled`. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, signal ? { signal } : {});
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

/** Resolves with undefined after `ms` without keeping the process alive; the loser of a race. */
export function expiry(ms: number): Promise<undefined> {
  return new Promise((resolve) => {
    setTimeout(() => resolve(undefined), ms).unref();
  });
}
