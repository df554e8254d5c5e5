/** Keeps an eye on running VMs: a VMM that ends, a guest that reboots, a guest that powers off. */
import type { VmRecord } from '../../core/vm.ts';
import { failed } from '../../core/vm-changes.ts';
import { watchVmm } from '../../firecracker/api.ts';
import { followFile, limitLog, stripControls } from '../../firecracker/console.ts';
import { describeExit, findVmm } from '../../firecracker/launch.ts';
import { lastWords, vmmExitedCleanly } from '../../firecracker/vmm-log.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { vmFiles, vmmSocket } from '../../storage/layout.ts';
import { expiry } from '../../system/abort.ts';
import type { DetachedProcess } from '../../system/runner.ts';
import type { Host } from '../host.ts';
import { followReadiness } from './readiness.ts';
import { releaseVm } from './release.ts';

export interface Supervisor {
  /** Watches a VM that runs; `ended` is known only for a VMM this daemon started. */
  watch(vm: VmRecord, ended?: DetachedProcess['ended']): void;
  /** Stops watching; the VM is being stopped on purpose. */
  unwatch(vmId: string): void;
  watches(vmId: string): boolean;
  /** Cuts console logs that outgrew their limit. */
  limitLogs(): Promise<void>;
  close(): void;
}

export interface SupervisorActions {
  /** The guest rebooted, which ended its VMM; nothing is freed yet. */
  rebooted(vm: VmRecord): void;
  /** The guest powered itself off; its VMM lives. */
  poweredOff(vm: VmRecord): void;
  /** The VMM died and everything is freed; `vm` is the record as it was while it ran. */
  failed(vm: VmRecord): void;
}

/** The kernel's last words; printed whatever its log level (kernel/reboot.c, pr_emerg). */
const POWER_OFF = /reboot: (Power down|System halted)/;

/** Longer than the last words, shorter than a boot: an earlier run's are in another file. */
const LAST_WORDS_BYTES = 200;

/** When a VMM is looked at again whose socket closed although it lives. */
const LOOK_AGAIN_MS = 2000;

/** How long after a socket closed the exit status of its process may take to arrive. */
const EXIT_STATUS_WAIT_MS = 1000;

export function createSupervisor(host: Host, actions: SupervisorActions): Supervisor {
  const watched = new Map<string, () => void>();

  const unwatch = (vmId: string) => {
    watched.get(vmId)?.();
    watched.delete(vmId);
  };

  async function onEnd(vmId: string, ended: DetachedProcess['ended'] | undefined): Promise<void> {
    unwatch(vmId);
    const exit = await Promise.race([ended, expiry(EXIT_STATUS_WAIT_MS)]);
    // an operation on the VM (stop, kill, delete) ended it and does the rest itself, or leaves it to us by failing
    const active = host.operations.activeOn(host.stores.vms.findById(vmId)?.name ?? '');
    if (active) await host.operations.finished(active.id);
    const vm = host.stores.vms.findById(vmId);
    if (watched.has(vmId) || vm?.phase !== 'running') return;
    if (!exit && (await findVmm(vmmSocket(host.config.paths.run, vmId)))) {
      // a socket that closes is not a process that ends: whoever deleted its file, the guest goes on
      await expiry(LOOK_AGAIN_MS);
      if (!watched.has(vmId) && host.stores.vms.findById(vmId)?.phase === 'running') watch(vm, ended);
      return;
    }
    const files = vmFiles(host.config.paths.store, vm.id);
    if (exit ? exit.code === 0 : await vmmExitedCleanly(files.vmmLog)) {
      host.log.info({ vm: vm.name }, 'the guest rebooted');
      actions.rebooted(vm);
      return;
    }
    const how = exit ? ` (${describeExit(exit)})` : '';
    const failure = `The VMM ended unexpectedly${how}.${await lastWords(files.vmmLog)}`;
    host.log.warn({ vm: vm.name, failure }, 'VMM ended');
    await releaseVm(host, vm);
    host.stores.vms.update(vm.id, failed(failure));
    actions.failed(vm);
  }

  async function followConsole(vm: VmRecord, consoleLog: string, signal: AbortSignal): Promise<void> {
    // from a little before the end: a guest may have powered off while no daemon was there
    const size = await apparentBytes(consoleLog).catch(() => 0);
    let tail = '';
    for await (const chunk of followFile(consoleLog, Math.max(0, size - LAST_WORDS_BYTES), signal)) {
      tail = (tail + chunk).slice(-LAST_WORDS_BYTES);
      if (!POWER_OFF.test(stripControls(tail))) continue;
      host.log.info({ vm: vm.name }, 'the guest powered off');
      unwatch(vm.id);
      const current = host.stores.vms.findById(vm.id); // it may have another name by now
      if (current) actions.poweredOff(current);
      return;
    }
  }

  function watch(vm: VmRecord, ended?: DetachedProcess['ended']): void {
    unwatch(vm.id);
    const abort = new AbortController();
    const stopWatching = watchVmm(vmmSocket(host.config.paths.run, vm.id), () => {
      onEnd(vm.id, ended).catch((error) => host.log.error({ vm: vm.name, error: String(error) }, 'supervision failed'));
    });
    watched.set(vm.id, () => {
      abort.abort();
      stopWatching();
    });
    if (vm.ready === null) {
      followReadiness(host, vm.id, ended === undefined, abort.signal).catch((error) =>
        host.log.error({ vm: vm.name, error: String(error) }, 'it is not known when the guest is ready'),
      );
    }
    followConsole(vm, vmFiles(host.config.paths.store, vm.id).consoleLog, abort.signal).catch((error) =>
      host.log.error({ vm: vm.name, error: String(error) }, 'the console cannot be followed'),
    );
  }

  return {
    watch,
    unwatch,
    watches: (vmId) => watched.has(vmId),
    async limitLogs() {
      for (const vm of host.stores.vms.list()) {
        if (!watched.has(vm.id)) continue;
        const { consoleLog, vmmLog } = vmFiles(host.config.paths.store, vm.id);
        if (await limitLog(consoleLog)) host.log.warn({ vm: vm.name }, 'console log cut: the guest prints a lot');
        await limitLog(vmmLog);
      }
    },
    close() {
      for (const vmId of [...watched.keys()]) unwatch(vmId);
    },
  };
}
