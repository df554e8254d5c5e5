/** What the daemon does without being asked: recovery, restarts, autostart, and keeping the host as it should be. */
import { messageOf } from '../../errors.ts';
import type { Host } from '../host.ts';
import type { Life } from '../vm/life.ts';
import { purgeTrash } from '../vm/trash.ts';
import { startWithHost } from './autostart.ts';
import { createHostWatch, WATCH_INTERVAL_MS } from './host-watch.ts';
import { createIdleWatch } from './idle.ts';
import { checkVmms, reconcileHost, sweepHost } from './reconcile.ts';
import { createRestarts, freeByPolicy, startByPolicy } from './restarts.ts';
import { createRoomWatch } from './room-watch.ts';

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

/** What else is looked at in each sweep, by what it is about. */
export type Duties = Readonly<Record<string, () => Promise<void>>>;

export function createUpkeep(host: Host, life: Life, others: Duties): Upkeep {
  const restarts = createRestarts(
    host,
    (vm) => startByPolicy(host, life, vm),
    (vm) => freeByPolicy(host, life, vm),
  );
  const hostWatch = createHostWatch(host, life, restarts);
  const roomWatch = createRoomWatch(host);
  const idle = createIdleWatch(host, life);
  const timers: NodeJS.Timeout[] = [];
  const ending = new AbortController();
  life.onEnd((vm, end) => {
    if (end === 'reboot') restarts.rebooted(vm);
    else restarts.ended(vm, end);
  });

  const duties: Duties = {
    'VMs and the host': () => sweepHost(host, life, restarts),
    'VMs that are not used': () => idle.look(),
    'logs of VMs': () => life.limitLogs(),
    'the trash': async () => {
      for (const name of await purgeTrash(host))
        host.log.info({ vm: name }, 'deleted for good, its time in the trash is over');
    },
    ...others,
  };

  /** Each for itself: what fails keeps nothing else from being done. */
  async function fulfil(wanted: Duties): Promise<void> {
    for (const [what, work] of Object.entries(wanted)) await attempt(`looking after ${what}`, work);
  }

  async function attempt(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      host.log.error({ error: messageOf(error) }, `${what} failed`);
    }
  }

  /** One round at a time: a slow one leaves out those that would have begun meanwhile. */
  function every(intervalMs: number, what: string, work: () => Promise<void>): void {
    let busy = false;
    timers.push(
      setInterval(async () => {
        if (busy) return;
        busy = true;
        await attempt(what, work);
        busy = false;
      }, intervalMs),
    );
  }

  return {
    recover: () => reconcileHost(host, life, restarts),
    begin() {
      void attempt('taking up restarts', async () => restarts.resume());
      hostWatch.begin();
      void attempt('autostart', () => startWithHost(host, restarts, ending.signal));
      every(WATCH_INTERVAL_MS, 'watching the host', () => hostWatch.look());
      every(WATCH_INTERVAL_MS, 'watching the room for disks', () => roomWatch.look());
      every(SWEEP_INTERVAL_MS, 'the sweep', () => fulfil(duties));
      every(CHECK_INTERVAL_MS, 'asking VMMs', () => checkVmms(host));
      // VMs were looked after just now, the others not yet
      void fulfil(others);
    },
    close() {
      for (const timer of timers) clearInterval(timer);
      hostWatch.close();
      roomWatch.close();
      ending.abort();
      restarts.close();
    },
  };
}
