/** Work that waits for nothing outside gives way now and then: until it does, the daemon does nothing else. */
import { setImmediate } from 'node:timers/promises';

/** Counts steps of such work. @returns what is to be waited for when it is time */
export type Turns = (steps?: number) => Promise<void> | undefined;

/**
 * @param each how many steps are done at once; a thousandth of a second is a good measure
 * @param signal is looked at whenever others have had their turn
 */
export function turnsAfter(each: number, signal?: AbortSignal): Turns {
  let done = 0;
  return (steps = 1) => {
    done += steps;
    if (done < each) return undefined;
    done = 0;
    return giveWay(signal);
  };
}

async function giveWay(signal: AbortSignal | undefined): Promise<void> {
  await setImmediate();
  signal?.throwIfAborted();
}
