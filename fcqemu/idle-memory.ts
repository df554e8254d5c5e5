/** Gives memory back once work has ended: what a start and a burst of packets leave is never needed again. */

/** Long enough that clients are not held up between two requests. */
const QUIET_MS = 1000;

/** With less than this a client that asks now and then does not make an idle process work. */
const WORTHWHILE_BYTES = 40 * 1024 * 1024;

/** Bytes worked on after which there is too much garbage to wait: Node lets buffers of dead requests lie for long. */
const GARBAGE_BYTES = 4 * 1024 * 1024;

/**
 * @param giveBack returns memory that is free to the kernel
 * @returns a function to be called when something worked, with the bytes that have become garbage; some time after the
 * last call memory is given back once
 */
export function createIdleMemory(giveBack: () => void): (garbageBytes?: number) => void {
  let bytes = 0;
  const timer = setTimeout(() => {
    if (process.memoryUsage.rss() > WORTHWHILE_BYTES) void collectGarbage().then(giveBack);
  }, QUIET_MS).unref();
  return (garbageBytes = 0) => {
    timer.refresh();
    bytes += garbageBytes;
    if (bytes < GARBAGE_BYTES) return;
    bytes = 0;
    void collectGarbage();
  };
}

async function collectGarbage(): Promise<void> {
  const [{ setFlagsFromString }, { runInNewContext }] = await Promise.all([import('node:v8'), import('node:vm')]);
  // set this late, it leaves compiled code valid
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as (options: { type: 'major' }) => void;
  gc({ type: 'major' });
}
