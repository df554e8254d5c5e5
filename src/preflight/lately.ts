/**
 * What was found lately, for checks that start programs: a VM that starts a second after another finds the same host. Only what
 * stands in nobody's way is believed; everything else is looked at again.
 */

/** A start within this time believes what an earlier one has found; what changed meanwhile fails where it is used. */
const BELIEF_MS = 30_000;

export interface Lately {
  /**
   * What `work` comes to, or came to lately.
   * @param isGood whether it is worth believing
   */
  once<T>(what: string, work: () => Promise<T>, isGood: (value: T) => boolean): Promise<T>;
}

/** Looks each time. */
export const NOTHING_LATELY: Lately = { once: (_, work) => work() };

export function createLately(now: () => number = () => performance.now()): Lately {
  const found = new Map<string, { value: unknown; until: number }>();
  return {
    async once<T>(what: string, work: () => Promise<T>, isGood: (value: T) => boolean) {
      const known = found.get(what);
      // it is of the same work, by its name
      if (known && known.until > now()) return known.value as T;
      const value = await work();
      if (isGood(value)) found.set(what, { value, until: now() + BELIEF_MS });
      else found.delete(what);
      return value;
    },
  };
}
