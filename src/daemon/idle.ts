/** The end of a daemon that nothing has needed for a while: the next connection to its socket starts another one. */
import type { Host } from '../control/host.ts';

/** Looks this many times in the time after which it ends, and at least so often. */
const LOOKS = 10;
const LONGEST_PAUSE_MS = 10_000;

/**
 * VMs for which a daemon has nothing to do. It answers for the names of all others, restarts them and looks after their links; one
 * that is suspended has a name too, and may go on when that is asked for.
 */
const AT_REST: ReadonlySet<string> = new Set(['stopped', 'failed']);

export type IdleHost = {
  config: Pick<Host['config'], 'metrics'>;
  stores: { vms: Pick<Host['stores']['vms'], 'list'>; buildVms: Pick<Host['stores']['buildVms'], 'busy'> };
  operations: Pick<Host['operations'], 'runningCount'>;
};

/** What must come to its end before another daemon goes on; VMs need not, as it adopts them. */
export function isBusy({ operations, stores }: IdleHost, connections: number): boolean {
  return connections > 0 || operations.runningCount() > 0 || stores.buildVms.busy().length > 0;
}

/** What the daemon is needed for, in words for its log; undefined when for nothing. */
export function neededFor({ config, stores, operations }: IdleHost, connections: number): string | undefined {
  if (connections > 0) return 'clients';
  if (operations.runningCount() > 0) return 'operations';
  const vms = stores.vms.list();
  if (vms.some(({ phase }) => !AT_REST.has(phase))) return 'VMs that run or are suspended';
  if (stores.buildVms.busy().length > 0) return 'a VM of an image build';
  if (vms.some(({ restarts }) => restarts?.nextAt != null)) return 'VMs that will be started again';
  if (config.metrics.listen) return 'metrics';
  return undefined;
}

export interface IdleEnd extends Disposable {
  /** Somebody needed the daemon just now. */
  used(): void;
}

/**
 * Calls `end` once nothing has needed the daemon for so long.
 * @param afterMs 0 for never
 * @param needed what it is needed for now
 * @param end called in the same turn of the event loop in which nothing needed it, so that what it does at once comes before any
 *   further client
 */
export function createIdleEnd(afterMs: number, needed: () => string | undefined, end: () => void): IdleEnd {
  let since = performance.now();
  const look = () => {
    if (needed() !== undefined) since = performance.now();
    else if (performance.now() - since >= afterMs) {
      clearInterval(timer);
      end();
    }
  };
  const timer = afterMs > 0 ? setInterval(look, Math.min(afterMs / LOOKS, LONGEST_PAUSE_MS)).unref() : undefined;
  return {
    used() {
      since = performance.now();
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}
