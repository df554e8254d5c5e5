/** Starts VMs again that ended by themselves, as their policy says. The record is the plan; timers only follow it. */
import { nextReboot, nextRestart, type RunEnd } from '../../core/restart.ts';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import { timerMs } from '../../units.ts';
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
  /** Its guest rebooted: it is started again, later each time when it does nothing else. */
  rebooted(vm: VmRecord): void;
  /** Takes up what an earlier daemon had planned or was at. */
  resume(): void;
  close(): void;
}

/** What planning restarts needs of the host. */
type RestartHost = Pick<Host, 'stores' | 'operations' | 'log' | 'now'>;

/**
 * @param start starts a VM and says what came of it
 * @param free frees what a run left, and has the VM stopped
 */
export function createRestarts(
  host: RestartHost,
  start: (vm: VmRecord) => Promise<StartOutcome>,
  free: (vm: VmRecord) => Promise<void>,
): Restarts {
  const timers = new Map<string, NodeJS.Timeout>();
  let closed = false;

  function ended(vm: VmRecord, end: RunEnd): void {
    const next = nextRestart(vm, end, host.now());
    const known = host.stores.vms.findById(vm.id);
    if (!known) return;
    if (!next) {
      // what was counted of its reboots is no attempt that the next daemon has to make again
      if (known.restarts !== null) host.stores.vms.update(vm.id, { restarts: null });
      return;
    }
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
    timers.set(vmId, setTimeout(due, timerMs(Math.max(0, Date.parse(nextAt) - host.now().getTime()))).unref());
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

  async function rebooted(vm: VmRecord): Promise<void> {
    const next = nextReboot(vm, host.now());
    const { nextAt } = next;
    if (nextAt !== null) {
      host.log.warn({ vm: vm.name, ...next }, 'its guest reboots again and again; it has to wait');
      await free(vm);
    }
    if (!host.stores.vms.findById(vm.id)) return;
    host.stores.vms.update(vm.id, { restarts: next });
    if (nextAt === null) await startNow(vm);
    else if (!closed) arm(vm.id, nextAt);
  }

  const inBackground = (vm: VmRecord, work: Promise<void>) =>
    void work.catch((error) => host.log.error({ vm: vm.name, error: messageOf(error) }, 'restart failed'));

  return {
    ended,
    startNow,
    startSoon: (vm) => inBackground(vm, startNow(vm)),
    rebooted: (vm) => inBackground(vm, rebooted(vm)),
    resume() {
      for (const vm of host.stores.vms.list()) {
        if (vm.restarts === null || (vm.phase !== 'stopped' && vm.phase !== 'failed')) continue;
        if (vm.phase === 'failed' && vm.restarts.nextAt === null) {
          // its end was written down and what follows was not
          ended(vm, 'failure');
          continue;
        }
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

/** Ends what is left of a run whose guest is gone, as an operation like any other. */
export async function freeByPolicy(
  { operations, stores }: Pick<Host, 'operations' | 'stores'>,
  life: Pick<Life, 'stop'>,
  { id }: VmRecord,
): Promise<void> {
  const name = stores.vms.findById(id)?.name;
  if (name !== undefined) await operations.finished(life.stop(name, { timeoutMs: 0 }).id);
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
