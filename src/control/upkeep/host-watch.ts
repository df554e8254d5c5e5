/** Puts back what others take away from VMs that run: packet rules, routes, devices; and time that they missed. */
import { type ClockSample, findJump } from '../../core/clock.ts';
import { tapName, type VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import { followStates, type ProcessStates } from '../../system/processes.ts';
import type { Host } from '../host.ts';
import { sampleClocks, stepGuestClocks } from '../vm/guest-clock.ts';
import type { Life } from '../vm/life.ts';
import { vmmProcess } from '../vm/problem.ts';
import type { Restarts } from './restarts.ts';

/**
 * How often what others can take away is asked about while VMs run; a table that was flushed is back within 5 s. Nearly
 * always nothing has changed: such a round takes no program, no database, and little garbage.
 */
export const WATCH_INTERVAL_MS = 4000;

/** A VM that runs. */
interface Watched {
  vm: VmRecord;
  /** its VMM and what runs below it */
  states: ProcessStates | undefined;
}

export interface HostWatch {
  /** Looks from now on only at VMs whose record says that they run. */
  begin(): void;
  /** Looks once; called every `WATCH_INTERVAL_MS`. */
  look(): Promise<void>;
  close(): void;
}

export function createHostWatch(host: Host, life: Life, restarts: Pick<Restarts, 'startNow'>): HostWatch {
  const { vms } = host.stores;
  /** VMs whose VMM was halted, or that were paused, when they were last looked at */
  const halted = new Set<string>();
  /** made anew after any change of a record */
  let running: Watched[] | undefined;
  let clocks: ClockSample | undefined;
  let unfollow = () => {};

  function listRunning(): Watched[] {
    return vms
      .list()
      .filter(({ phase }) => phase === 'running')
      .map((vm) => {
        const process = vmmProcess(host, vm);
        return { vm, states: process === undefined ? undefined : followStates(process) };
      });
  }

  function forgetRunning(): void {
    for (const { states } of running ?? []) states?.[Symbol.dispose]();
    running = undefined;
  }

  function lookAtClocks(watched: readonly Watched[]): void {
    const now = sampleClocks();
    const jump = clocks && findJump(clocks, now, WATCH_INTERVAL_MS);
    clocks = now;
    if (jump) host.log.info(jump, jump.kind === 'slept' ? 'the host slept' : 'this process was held up');
    const wake = jump ? watched.map(({ vm }) => vm) : [];
    for (const { vm, states } of watched) {
      if (vm.paused !== null || states?.halted() !== undefined) halted.add(vm.id);
      else if (halted.delete(vm.id) && !jump) wake.push(vm);
    }
    const awake = wake.filter((vm) => !halted.has(vm.id));
    // a guest may take long to answer; nothing here waits for it
    if (awake.length > 0) void stepGuestClocks(host, awake);
  }

  /** A deleted device cannot be put back under a VMM: a new run gets a new one, if the VM's policy wants that. */
  async function bringBackDevice(vm: VmRecord): Promise<void> {
    if (vm.restartPolicy === 'never') return; // shown with the VM, for a person to decide
    if (host.operations.activeOn(vm.name) || vms.findById(vm.id)?.phase !== 'running') return;
    host.log.warn({ vm: vm.name }, 'its network device is gone; it is restarted');
    const operation = life.stop(vm.name);
    const { state } = await host.operations.finished(operation.id);
    if (!operation.joined && state === 'succeeded') await restarts.startNow(vm);
  }

  return {
    begin() {
      unfollow = vms.onChange(forgetRunning);
    },
    async look() {
      running ??= listRunning();
      lookAtClocks(running);
      if (running.length === 0) return;
      const { rules, routes, goneTaps } = await host.network.mend();
      if (rules) host.log.warn({}, 'the packet rules were gone or changed; written again');
      if (routes.length > 0) host.log.warn({ routes }, 'routes were gone; put back');
      if (goneTaps.length === 0) return;
      for (const vm of vms.list()) {
        if (!goneTaps.includes(tapName(vm.id))) continue;
        // a stop takes its time; the next sweep looks again at what went wrong
        bringBackDevice(vm).catch((error) =>
          host.log.error({ vm: vm.name, error: messageOf(error) }, 'its network device could not be brought back'),
        );
      }
    },
    close() {
      unfollow();
      forgetRunning();
    },
  };
}
