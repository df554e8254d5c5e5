/** What the daemon does without being asked: recovery, restarts, autostart, and keeping the host as it should be. */
import { messageOf } from '../../errors.ts';
import type { Host } from '../host.ts';
import type { Life } from '../vm/life.ts';
import { purgeTrash } from '../vm/trash.ts';
import { startWithHost } from './autostart.ts';
import { createHostWatch, WATCH_INTERVAL_MS } from './host-watch.ts';
import { checkVmms, reconcileHost, sweepHost } from './reconcile.ts';
import { createRestarts, startByPolicy } from './restarts.ts';

/** How often host and records are compared. */
const SWEEP_INTERVAL_MS = 30_000;

/** How often VMMs are asked whether they answer; one that ends is noticed at once. */
const CHECK_INTERVAL_MS = 60_000;

export interface Upkeep {
  /** Recovers what an earlier daemon left; before the first client is served. */
  recover(): Promise<void>;
  /** Begins the work that goes on until `close`. */
  begin(): void;
  /** Begins nothing any more; VMs are still watched until operations have ended. */
  close(): void;
}

/** @param onSweep what else is to be compared at each sweep */
export function createUpkeep(host: Host, life: Life, onSweep: () => void): Upkeep {
  const restarts = createRestarts(host, (vm) => startByPolicy(host, life, vm));
  const hostWatch = createHostWatch(host, life, restarts);
  const timers: NodeJS.Timeout[] = [];
  const ending = new AbortController();
  life.onEnd((vm, end) => {
    if (end === 'reboot') restarts.startSoon(vm);
    else restarts.ended(vm, end);
  });

  async function sweep(): Promise<void> {
    await sweepHost(host, life, restarts);
    onSweep();
    await life.limitLogs();
    for (const name of await purgeTrash(host))
      host.log.info({ vm: name }, 'deleted for good, its time in the trash is over');
  }

  /** One round at a time: a slow one leaves out those that would have begun meanwhile. */
  function every(intervalMs: number, what: string, work: () => Promise<void>): void {
    let busy = false;
    timers.push(
      setInterval(async () => {
        if (busy) return;
        busy = true;
        try {
          await work();
        } catch (error) {
          host.log.error({ error: messageOf(error) }, `${what} failed`);
        } finally {
          busy = false;
        }
      }, intervalMs),
    );
  }

  return {
    recover: () => reconcileHost(host, life, restarts),
    begin() {
      restarts.resume();
      hostWatch.begin();
      startWithHost(host, restarts, ending.signal).catch((error) =>
        host.log.error({ error: messageOf(error) }, 'autostart failed'),
      );
      every(WATCH_INTERVAL_MS, 'watching the host', () => hostWatch.look());
      every(SWEEP_INTERVAL_MS, 'reconcile', sweep);
      every(CHECK_INTERVAL_MS, 'asking VMMs', () => checkVmms(host));
    },
    close() {
      for (const timer of timers) clearInterval(timer);
      hostWatch.close();
      ending.abort();
      restarts.close();
    },
  };
}
