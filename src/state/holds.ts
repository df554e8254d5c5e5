/**
 * Who works with something that no record of theirs speaks of yet. A hold lasts as long as that work and is in memory alone:
 * what a daemon worked on that died is undone by the next one.
 */

export interface Holds {
  /** @param who what people are told that is in their way, e.g. `the creation of web` */
  hold(thing: string, who: string): Disposable;
  /** Everybody who holds a thing, the first one first. */
  of(thing: string): string[];
}

export function createHolds(): Holds {
  const held = new Map<symbol, { thing: string; who: string }>();
  return {
    hold(thing, who) {
      const key = Symbol(thing);
      held.set(key, { thing, who });
      return { [Symbol.dispose]: () => void held.delete(key) };
    },
    of: (thing) => [...held.values()].filter((each) => each.thing === thing).map(({ who }) => who),
  };
}
