/** Starts VMs again that ended by themselves, as their policy says. The record is the plan; timers only follow it. */
import { nextRestart, type RunEnd } from '../../core/restart.ts';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import type { Host } from '../host.ts';
import type { Life } from '../vm/life.ts';

/** How a start in the background ended. */
export type StartOutcome = 'running' | 'failed' | 'cancelled';

export interface Restarts {
  /**
   * A run ended that nobody asked to end; plans the next one if the policy wants it.
   * @param vm the record as it was while it ran
   */
  ended(vm: VmRecord, end: RunEnd): void;
  /** Starts a VM now and goes on by its policy if that fails. */
  startNow(vm: VmRecord): Promise<void>;
  /** The same without anybody who waits: what goes wrong is logged, and the next sweep looks again. */
  startSoon(vm: VmRecord): void;
  /** Takes up what an earlier daemon had planned or was at. */
  resume(): void;
  close(): void;
}

/** What planning restarts needs of the host. */
type RestartHost = Pick<Host, 'stores' | 'operations' | 'log' | 'now'>;

export function createRestarts(host: RestartHost, start: (vm: VmRecord) => Promise<StartOutcome>): Restarts {
  const timers = new Map<string, NodeJS.Timeout>();
  let closed = false;

  function ended(vm: VmRecord, end: RunEnd): void {
    const next = nextRestart(vm, end, host.now());
    if (!next || !host.stores.vms.findById(vm.id)) return;
    host.stores.vms.update(vm.id, { restarts: next });
    host.log.info({ vm: vm.name, ...next }, 'it will be started again');
    arm(vm.id, next.nextAt);
  }

  function arm(vmId: string, nextAt: string): void {
    clearTimeout(timers.get(vmId));
    const due = () => {
      timers.delete(vmId);
      restart(vmId, nextAt).catch((error) => host.log.error({ vmId, error: messageOf(error) }, 'restart failed'));
    };
    timers.set(vmId, setTimeout(due, Math.max(0, Date.parse(nextAt) - host.now().getTime())).unref());
  }

  async function restart(vmId: string, nextAt: string): Promise<void> {
    const name = host.stores.vms.findById(vmId)?.name ?? '';
    const active = host.operations.activeOn(name);
    if (active) await host.operations.finished(active.id);
    // whoever stopped, started or deleted it meanwhile took the plan out of the record
    const vm = host.stores.vms.findById(vmId);
    if (vm?.restarts?.nextAt !== nextAt || (vm.phase !== 'stopped' && vm.phase !== 'failed')) return;
    host.stores.vms.update(vmId, { restarts: { attempts: vm.restarts.attempts, nextAt: null } });
    await startNow(vm);
  }

  async function startNow(vm: VmRecord): Promise<void> {
    const outcome = await start(vm);
    // what the end of the daemon called off is in the record, and the next one takes it up
    if (closed) return;
    const after = host.stores.vms.findById(vm.id);
    if (!after) return;
    if (outcome === 'cancelled') host.stores.vms.update(vm.id, { restarts: null });
    if (outcome === 'failed') ended({ ...after, startedAt: null }, 'failure');
  }

  return {
    ended,
    startNow,
    startSoon(vm) {
      startNow(vm).catch((error) => host.log.error({ vm: vm.name, error: messageOf(error) }, 'restart failed'));
    },
    resume() {
      for (const vm of host.stores.vms.list()) {
        if (vm.restarts === null || (vm.phase !== 'stopped' && vm.phase !== 'failed')) continue;
        // without a time an attempt was under way when the daemon ended
        const nextAt = vm.restarts.nextAt ?? host.now().toISOString();
        if (vm.restarts.nextAt === null) {
          host.stores.vms.update(vm.id, { restarts: { attempts: vm.restarts.attempts, nextAt } });
        }
        arm(vm.id, nextAt);
      }
    },
    close() {
      for (const timer of timers.values()) clearTimeout(timer);
      timers.clear();
      closed = true;
    },
  };
}

/** Starts a VM that nobody asks for at this moment, after what is going on with it. */
export async function startByPolicy(
  { operations, stores }: Pick<Host, 'operations' | 'stores'>,
  life: Pick<Life, 'startAgain'>,
  { id }: VmRecord,
): Promise<StartOutcome> {
  const name = stores.vms.findById(id)?.name;
  if (name === undefined) return 'cancelled';
  const active = operations.activeOn(name);
  // the one that found out that it must be started
  if (active?.kind === 'vm.recover') await operations.finished(active.id);
  const { state } = await operations.finished(life.startAgain(name).id);
  return state === 'succeeded' ? 'running' : state === 'cancelled' ? 'cancelled' : 'failed';
}
