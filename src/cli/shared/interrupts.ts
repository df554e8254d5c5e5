/** Ctrl-C during a long action: the first asks it to undo, the second leaves at once. */
import { BangerError } from '../../errors.ts';
import type { Terminal } from '../terminal.ts';

export interface Interrupts {
  /** resolves at the first Ctrl-C or SIGTERM */
  first: Promise<void>;
  /** resolves at the second */
  second: Promise<void>;
}

export function watchInterrupts(terminal: Terminal): Interrupts & Disposable {
  const first = Promise.withResolvers<void>();
  const second = Promise.withResolvers<void>();
  let count = 0;
  const onSignal = () => {
    count += 1;
    (count === 1 ? first : second).resolve();
  };
  const watches = (['SIGINT', 'SIGTERM'] as const).map((signal) => terminal.onSignal(signal, onSignal));
  return {
    first: first.promise,
    second: second.promise,
    [Symbol.dispose]() {
      for (const watch of watches) watch[Symbol.dispose]();
    },
  };
}

/**
 * Ends the work at the first Ctrl-C or SIGTERM and waits until it has cleared up.
 * @param said what a person is told then
 * @throws BangerError `cancelled` instead of what the work fails with after that
 */
export async function interruptible(
  terminal: Terminal,
  said: string,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  using interrupts = watchInterrupts(terminal);
  const stop = new AbortController();
  const cancelled = new BangerError('cancelled', said);
  void interrupts.first.then(() => stop.abort(cancelled));
  try {
    await work(stop.signal);
  } catch (error) {
    throw stop.signal.aborted ? cancelled : error;
  }
}
