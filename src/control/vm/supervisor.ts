/** Keeps an eye on running VMs: a VMM that ends, a guest that reboots, a guest that powers off. */

import { healthEventOf, processEventOf } from '../../core/process-state.ts';
import type { LastEnd } from '../../core/run-end.ts';
import type { VmRecord } from '../../core/vm.ts';
import { ended } from '../../core/vm-changes.ts';
import { messageOf } from '../../errors.ts';
import { watchVmm } from '../../firecracker/api.ts';
import { followFile, freeOldLines, lastLines, limitLog, stripControls } from '../../firecracker/console.ts';
import { describeExit } from '../../firecracker/launch.ts';
import { vcpusStandStill } from '../../firecracker/vcpus.ts';
import { lastWords, vmmExitedCleanly } from '../../firecracker/vmm-log.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import { expiry, sleep } from '../../system/abort.ts';
import { readOomKills } from '../../system/oom-kills.ts';
import { haltedBy } from '../../system/processes.ts';
import type { DetachedProcess } from '../../system/runner.ts';
import { letFilesGrow } from '../confine.ts';
import type { Host } from '../host.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';
import { type Look, staysOff } from './power-off.ts';
import { vmmProcess } from './problem.ts';
import { followReadiness } from './readiness.ts';
import { releaseVm } from './release.ts';
import { guestEnd } from './run-end.ts';
import { learnProcess } from './view.ts';

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

/** Events of a guest's process, and how long a line of its console is that is looked at. */
const PROCESS_EVENTS_AT_ONCE = 20;
const MAX_LINE = 1000;

/** Lines of a VMM's log that are kept with its end. */
const KEPT_VMM_LINES = 10;

/** When a VMM is looked at again whose socket closed although it lives. */
const LOOK_AGAIN_MS = 2000;

/** How long after a socket closed the exit status of its process may take to arrive. */
const EXIT_STATUS_WAIT_MS = 1000;

export function createSupervisor(host: Host, actions: SupervisorActions): Supervisor {
  const watched = new Map<string, () => void>();
  /** as of the last sweep: one more when a VMM ends is the reason for it */
  let oomKills: number | undefined;
  void countOomKills();

  async function countOomKills(): Promise<void> {
    oomKills = await readOomKills();
  }

  const unwatch = (vmId: string) => {
    watched.get(vmId)?.();
    watched.delete(vmId);
  };

  async function onEnd(vmId: string, vmmEnded: DetachedProcess['ended'] | undefined): Promise<void> {
    unwatch(vmId);
    // a sweep before the verdict would count the end that is judged
    const killsBefore = oomKills;
    const exit = await Promise.race([vmmEnded, expiry(EXIT_STATUS_WAIT_MS)]);
    const vm = await leftToUs(vmId);
    if (!vm) return;
    if (!exit && (await findVmmOf(host, { id: vmId }))) {
      // a socket that closes is not a process that ends: whoever deleted its file, the guest goes on
      await expiry(LOOK_AGAIN_MS);
      if (!watched.has(vmId) && host.stores.vms.findById(vmId)?.phase === 'running') watch(vm, vmmEnded);
      return;
    }
    const { vmmLog } = vmFiles(host.config.paths.store, vm.id);
    const inOrder = exit ? exit.code === 0 : await vmmExitedCleanly(vmmLog);
    const end = inOrder ? await guestEnd(host, vm) : await judgeVmmEnd(vmmLog, exit, killsBefore);
    host.log.info({ vm: vm.name, end: end.kind }, 'its run ended');
    switch (end.kind) {
      case 'reboot':
        return actions.rebooted(vm);
      case 'reset':
        // a guest that asks for it by its processor alone looks the same
        host.stores.vms.update(vm.id, { lastEnd: { at: host.now().toISOString(), ...end } });
        return actions.rebooted(vm);
      case 'poweroff':
        // where a guest's power off ends its VMM
        return actions.poweredOff(vm);
      default: {
        const lastEnd = { at: host.now().toISOString(), ...end };
        host.log.warn({ vm: vm.name, why: end.why }, 'a run ended as nobody wanted');
        await releaseVm(host, vm);
        // that may take seconds, in which it was started again
        if (!(await leftToUs(vmId))) return;
        host.stores.vms.update(vm.id, ended(lastEnd));
        actions.failed(vm);
      }
    }
  }

  /** A VM whose VMM ended; undefined when somebody else has seen to that, or it runs again. */
  async function leftToUs(vmId: string): Promise<VmRecord | undefined> {
    // an operation on the VM (stop, kill, delete) ended it and does the rest itself, or leaves it to us by failing
    const active = host.operations.activeOn(host.stores.vms.findById(vmId)?.name ?? '');
    if (active) await host.operations.finished(active.id);
    const vm = host.stores.vms.findById(vmId);
    return watched.has(vmId) || vm?.phase !== 'running' ? undefined : vm;
  }

  /** Why a VMM ended that its guest did not end. */
  async function judgeVmmEnd(
    vmmLog: string,
    exit: { code: number | null; signal: NodeJS.Signals | null } | undefined,
    killsBefore: number | undefined,
  ): Promise<Omit<LastEnd, 'at'>> {
    const kills = await readOomKills();
    const lines = await lastLines(vmmLog, KEPT_VMM_LINES);
    const how = exit ? ` (${describeExit(exit)})` : '';
    if (kills !== undefined && killsBefore !== undefined && kills > killsBefore) {
      // this one is explained: the next VMM that ends before a sweep needs another
      oomKills = Math.max(oomKills ?? 0, killsBefore + 1);
      const why = `The host had no memory left, and its kernel ended the VMM${how}.${await lastWords(vmmLog)}`;
      return { kind: 'memory', why, lines };
    }
    return { kind: 'vmm', why: `The VMM ended unexpectedly${how}.${await lastWords(vmmLog)}`, lines };
  }

  async function followConsole(vm: VmRecord, consoleLog: string, signal: AbortSignal): Promise<void> {
    // from a little before the end: a guest may have powered off while no daemon was there
    const size = await apparentBytes(consoleLog).catch(() => 0);
    let tail = '';
    let line = '';
    const tell = processTeller(vm);
    for await (const chunk of followFile(consoleLog, Math.max(0, size - LAST_WORDS_BYTES), signal)) {
      if (tell) {
        const lines = (line + chunk).split('\n');
        line = (lines.pop() ?? '').slice(-MAX_LINE);
        for (const each of lines) tell(each);
      }
      tail = (tail + chunk).slice(-LAST_WORDS_BYTES);
      if (!POWER_OFF.test(stripControls(tail))) continue;
      tail = '';
      // anybody in the guest can write that line; what it says is true when the guest's processors stand still
      const said = await apparentBytes(consoleLog).catch(() => 0);
      const isOff = await staysOff({
        look: () => lookAtProcessors(vm, signal),
        isLastWord: async () => (await apparentBytes(consoleLog).catch(() => -1)) === said,
        onDoubt: () => host.log.info({ vm: vm.name }, 'the guest says that it is off, and runs on'),
        wait: (ms) => sleep(ms, signal),
        signal,
      });
      if (!isOff) continue;
      host.log.info({ vm: vm.name }, 'the guest powered off');
      unwatch(vm.id);
      const current = host.stores.vms.findById(vm.id); // it may have another name by now
      if (current) actions.poweredOff(current);
      return;
    }
  }

  /** Makes events of what the console says of the process of an OCI image; undefined for VMs of others. */
  function processTeller(vm: VmRecord): ((line: string) => void) | undefined {
    if (vm.imageId === null) return undefined;
    let left = PROCESS_EVENTS_AT_ONCE;
    let since = performance.now();
    return (line) => {
      const plain = stripControls(line);
      const health = healthEventOf(plain);
      const process = processEventOf(plain);
      const phase = host.stores.vms.findById(vm.id)?.phase;
      if (health && (phase === 'running' || phase === 'starting')) host.health.processes.set(vm.id, health.state);
      else if (process && process.state !== 'running') host.health.processes.delete(vm.id);
      if (!process && (!health || health.state === 'starting')) return;
      // an honest guest has something to say every second at most
      const now = performance.now();
      left = Math.min(PROCESS_EVENTS_AT_ONCE, left + (now - since) / 1000);
      since = now;
      if (left < 1) return;
      left -= 1;
      const { name } = host.stores.vms.findById(vm.id) ?? vm;
      const of = { vm: name, id: vm.id };
      if (process) host.events.publish({ type: 'vm.process', ...of, ...process });
      else if (health) host.events.publish({ type: 'vm.health', ...of, ...health });
    };
  }

  /** One that was halted, as by SIGSTOP, or is paused stands still too: it is judged when it goes on. */
  async function lookAtProcessors(vm: VmRecord, signal: AbortSignal): Promise<Look> {
    const isPaused = () => (host.stores.vms.findById(vm.id)?.paused ?? null) !== null;
    const pid = vmmProcess(host, vm);
    if (pid === undefined) return 'gone';
    if (isPaused()) return 'paused';
    if (haltedBy(pid) !== undefined || !(await vcpusStandStill(pid, signal))) return 'runs';
    return haltedBy(pid) === undefined && !isPaused() ? 'still' : 'runs';
  }

  async function limitLogsOf(vm: VmRecord): Promise<void> {
    const { consoleLog, vmmLog } = vmFiles(host.config.paths.store, vm.id);
    if (await limitLog(consoleLog)) host.log.warn({ vm: vm.name }, 'console log cut: the guest prints a lot');
    // its size only grows, and what a VMM may not write ends it
    if (await freeOldLines(host.system.runner, vmmLog)) await letFilesGrow(host, vm);
  }

  function watch(vm: VmRecord, vmmEnded?: DetachedProcess['ended']): void {
    unwatch(vm.id);
    const abort = new AbortController();
    const stopWatching = watchVmm(vmmSocketOf(host, vm.id), () => {
      onEnd(vm.id, vmmEnded).catch((error) =>
        host.log.error({ vm: vm.name, error: String(error) }, 'supervision failed'),
      );
    });
    watched.set(vm.id, () => {
      abort.abort();
      stopWatching();
    });
    if (vm.ready === null) {
      followReadiness(host, vm.id, vmmEnded === undefined, abort.signal).catch((error) =>
        host.log.error({ vm: vm.name, error: String(error) }, 'it is not known when the guest is ready'),
      );
    }
    if (vm.ready !== null) void learnProcess(host, vm, abort.signal).catch(() => {});
    followConsole(vm, vmFiles(host.config.paths.store, vm.id).consoleLog, abort.signal).catch((error) => {
      if (!abort.signal.aborted)
        host.log.error({ vm: vm.name, error: String(error) }, 'the console cannot be followed');
    });
  }

  return {
    watch,
    unwatch,
    watches: (vmId) => watched.has(vmId),
    async limitLogs() {
      await countOomKills();
      for (const vm of host.stores.vms.list()) {
        if (!watched.has(vm.id)) continue;
        await limitLogsOf(vm).catch((error) =>
          host.log.warn({ vm: vm.name, error: messageOf(error) }, 'its logs cannot be kept small'),
        );
      }
    },
    close() {
      for (const vmId of [...watched.keys()]) unwatch(vmId);
    },
  };
}
