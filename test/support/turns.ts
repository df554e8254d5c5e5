/** Whether others have their turn while something works. */

/** How often the event loop came round until `work` was done, or failed. */
export async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0;
  const again = () => {
    turns += 1;
    next = setImmediate(again);
  };
  let next = setImmediate(again);
  try {
    await work();
  } finally {
    clearImmediate(next);
  }
  return turns;
}
