/** What the daemon does without being asked: supervision, restarts, autostart, and keeping the host as it should be. */

import type { Host } from '../control/host.ts';
import { sampleClocks, stepGuestClocks } from '../control/upkeep/guest-clock.ts';
import { checkVmms, type RecoveryActions, reconcileHost, sweepHost } from '../control/upkeep/reconcile.ts';
import { createRestarts, type StartOutcome } from '../control/upkeep/restarts.ts';
import { createSupervisor, type Supervisor } from '../control/upkeep/supervisor.ts';
import { vmmProcess } from '../control/vm/problem.ts';
import { startVm } from '../control/vm/start.ts';
import { stopVm } from '../control/vm/stop.ts';
import { purgeTrash } from '../control/vm/trash.ts';
import { viewVm } from '../control/vm/view.ts';
import { type ClockSample, findJump } from '../core/clock.ts';
import { toAutostart } from '../core/restart.ts';
import { tapName, type VmRecord } from '../core/vm.ts';
import { messageOf } from '../errors.ts';
import { followStates, type ProcessStates, readBootId } from '../system/processes.ts';

/** How often host and records are compared. */
const SWEEP_INTERVAL_MS = 30_000;

/** How often VMMs are asked whether they answer; one that ends is noticed at once. */
const CHECK_INTERVAL_MS = 60_000;

/**
 * How often what others can take away is asked about while VMs run; a table that was flushed is back within 5 s. Nearly
 * always nothing has changed: such a round takes no program, no database, and little garbage.
 */
const WATCH_INTERVAL_MS = 4000;

/** Key of the boot of this host for which VMs were started. */
const AUTOSTARTED_BOOT = 'autostarted-boot';

export interface Background {
  supervisor: Supervisor;
  /** Recovers what an earlier daemon left; before the first client is served. */
  recover(): Promise<void>;
  /** Begins the work that goes on until `close`. */
  begin(): void;
  /** Begins nothing any more; supervision goes on until operations have ended. */
  close(): void;
}

/** A VM that runs. */
interface Watched {
  vm: VmRecord;
  /** its VMM and what runs below it */
  states: ProcessStates | undefined;
}

/** @param onSweep what else is to be compared at each sweep */
export function createBackground(host: Host, onSweep: () => void): Background {
  const supervisor = createSupervisor(host, {
    startAgain: (vm) => inBackground(vm, () => restarts.startNow(vm)),
    finishStop: (vm) => inBackground(vm, () => finishStop(vm)),
    failed: (vm) => restarts.ended(vm, 'failure'),
  });
  const restarts = createRestarts(host, startInBackground);
  const recovery: RecoveryActions = {
    startAgain: (vm) => inBackground(vm, () => restarts.startNow(vm)),
    failed: (vm) => restarts.ended(vm, 'failure'),
  };
  const timers: NodeJS.Timeout[] = [];
  /** VMs whose VMM was halted when it was last looked at */
  const halted = new Set<string>();
  /** made anew after any change of a record */
  let running: Watched[] | undefined;
  let clocks: ClockSample | undefined;
  let unfollow = () => {};
  let closed = false;

  /** Not awaited by anybody: what goes wrong is logged, and the next sweep looks again. */
  function inBackground(vm: Pick<VmRecord, 'name'>, work: () => Promise<unknown>): void {
    work().catch((error) => host.log.error({ vm: vm.name, error: messageOf(error) }, 'background action failed'));
  }

  async function startInBackground({ id }: VmRecord): Promise<StartOutcome> {
    const name = host.stores.vms.findById(id)?.name;
    if (name === undefined) return 'cancelled';
    const active = host.operations.activeOn(name);
    // the one that found out that it must be started
    if (active?.kind === 'vm.recover') await host.operations.finished(active.id);
    const operation = host.operations.start({
      kind: 'vm.start',
      target: name,
      joinable: true,
      run: async (progress, signal) => {
        const started = await startVm(host, name, host.config.limits.bootTimeoutMs, progress, signal);
        supervisor.watch(started.vm, started.ended);
        return viewVm(host, started.vm);
      },
    });
    const { state } = await host.operations.finished(operation.id);
    return state === 'succeeded' ? 'running' : state === 'cancelled' ? 'cancelled' : 'failed';
  }

  /** The guest powered off by itself: its VMM is ended, and its policy decides whether that is all. */
  async function finishStop(vm: VmRecord): Promise<void> {
    const operation = host.operations.start({
      kind: 'vm.stop',
      target: vm.name,
      joinable: true,
      run: async (progress, signal) => {
        supervisor.unwatch(vm.id);
        return viewVm(host, await stopVm(host, vm.name, 0, progress, signal));
      },
    });
    // a stop that a person asked for first is theirs
    const { state } = await host.operations.finished(operation.id);
    if (!operation.joined && state === 'succeeded') restarts.ended(vm, 'poweroff');
  }

  /** After a boot of the host, once: a VM that a person stopped since then stays stopped. */
  async function autostart(): Promise<void> {
    const current = await readBootId();
    const due = toAutostart(host.stores.vms.list(), { current, handled: host.stores.settings.get(AUTOSTARTED_BOOT) });
    for (const vm of due) {
      if (closed) return; // the next daemon begins again
      host.log.info({ vm: vm.name }, 'started with the host');
      await restarts
        .startNow(vm)
        .catch((error) => host.log.error({ vm: vm.name, error: messageOf(error) }, 'autostart'));
    }
    if (!closed) host.stores.settings.set(AUTOSTARTED_BOOT, current);
  }

  function listRunning(): Watched[] {
    const vms = host.stores.vms.list().filter((vm) => vm.phase === 'running');
    return vms.map((vm) => {
      const process = vmmProcess(host, vm);
      return { vm, states: process === undefined ? undefined : followStates(process) };
    });
  }

  function forgetRunning(): void {
    for (const { states } of running ?? []) states?.[Symbol.dispose]();
    running = undefined;
  }

  async function watch(): Promise<void> {
    running ??= listRunning();
    watchClocks(running);
    if (running.length === 0) return;
    const mended = await host.network.mend();
    if (mended.rules) host.log.warn({}, 'the packet rules were gone or changed; written again');
    if (mended.routes.length > 0) host.log.warn({ routes: mended.routes }, 'routes were gone; put back');
    if (mended.goneTaps.length === 0) return;
    for (const vm of host.stores.vms.list()) if (mended.goneTaps.includes(tapName(vm.id))) bringBackDevice(vm);
  }

  function watchClocks(vms: readonly Watched[]): void {
    const now = sampleClocks();
    const jump = clocks && findJump(clocks, now, WATCH_INTERVAL_MS);
    clocks = now;
    if (jump) host.log.info(jump, jump.kind === 'slept' ? 'the host slept' : 'this process was held up');
    const wake = jump ? vms.map(({ vm }) => vm) : [];
    for (const { vm, states } of vms) {
      if (states?.halted() !== undefined) halted.add(vm.id);
      else if (halted.delete(vm.id) && !jump) wake.push(vm);
    }
    // a guest may take long to answer; nothing here waits for it
    if (wake.length > 0)
      void stepGuestClocks(
        host,
        wake.filter((vm) => !halted.has(vm.id)),
      );
  }

  /** A deleted device cannot be put back under a VMM: a new run gets a new one, if the VM's policy wants that. */
  function bringBackDevice(vm: VmRecord): void {
    if (vm.restartPolicy === 'never') return; // shown with the VM, for a person to decide
    if (host.operations.activeOn(vm.name) || host.stores.vms.findById(vm.id)?.phase !== 'running') return;
    host.log.warn({ vm: vm.name }, 'its network device is gone; it is restarted');
    inBackground(vm, async () => {
      const operation = host.operations.start({
        kind: 'vm.stop',
        target: vm.name,
        joinable: true,
        run: async (progress, signal) => {
          supervisor.unwatch(vm.id);
          return viewVm(host, await stopVm(host, vm.name, host.config.limits.stopTimeoutMs, progress, signal));
        },
      });
      const { state } = await host.operations.finished(operation.id);
      if (!operation.joined && state === 'succeeded') await restarts.startNow(vm);
    });
  }

  async function sweep(): Promise<void> {
    await sweepHost(host, supervisor, recovery);
    onSweep();
    await supervisor.limitLogs();
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
    supervisor,
    recover: () => reconcileHost(host, supervisor, recovery),
    begin() {
      restarts.resume();
      unfollow = host.stores.vms.onChange(forgetRunning);
      autostart().catch((error) => host.log.error({ error: messageOf(error) }, 'autostart failed'));
      every(WATCH_INTERVAL_MS, 'watching the host', watch);
      every(SWEEP_INTERVAL_MS, 'reconcile', sweep);
      every(CHECK_INTERVAL_MS, 'asking VMMs', () => checkVmms(host));
    },
    close() {
      for (const timer of timers) clearInterval(timer);
      unfollow();
      forgetRunning();
      closed = true;
      restarts.close();
    },
  };
}
