/** Work on one shared thing, one at a time, in the order asked for. */

export interface Mutex {
  /** Runs `work` when everything asked for before has ended; its outcome is passed on. */
  run<T>(work: () => Promise<T>): Promise<T>;
}

export function createMutex(): Mutex {
  let last: Promise<unknown> = Promise.resolve();
  return {
    run(work) {
      const next = last.then(work, work);
      last = next.catch(() => {});
      return next;
    },
  };
}
