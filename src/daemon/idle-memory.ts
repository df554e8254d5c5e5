/**
 * Gives memory back once work has ended: a start leaves some 50 MB of garbage, and V8 collects it when more is
 * allocated, which an idle daemon never does. Of what the C library then has free, it returns only what lies at the
 * end of its heap, unless it is told to.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { loadLibc } from '../system/libc.ts';

/** Long enough that one start after another is not held up by collections between them. */
const QUIET_MS = 5000;

export interface IdleMemory extends Disposable {
  /** Something worked; after a while without a further call, garbage is collected once. */
  worked(): void;
}

/** @param collect collects all garbage of the process */
export function createIdleMemory(collect: () => void = collectGarbage): IdleMemory {
  let timer: NodeJS.Timeout | undefined;
  return {
    worked() {
      clearTimeout(timer);
      timer = setTimeout(collect, QUIET_MS).unref();
    },
    [Symbol.dispose]: () => clearTimeout(timer),
  };
}

function collectGarbage(): void {
  // set this late, it leaves the code cache of everything loaded so far valid
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as (options: { type: 'major'; flavor: 'last-resort' }) => void;
  gc({ type: 'major', flavor: 'last-resort' });
  void trimHeap();
}

/** Where the C library cannot be called, 20 MB more stay. */
async function trimHeap(): Promise<void> {
  const libc = await loadLibc({ malloc_trim: { arguments: ['uint64'], return: 'int32' } });
  libc?.malloc_trim(0n);
}
