/**
 * The one owner of a VM's life: whoever wants a VM started, stopped, moved or deleted asks here, also the daemon itself.
 * What is started is watched from then on, and what is stopped is no longer. Each action is an operation.
 */
import type { VmRebase } from '../../api/image.ts';
import type { Operation } from '../../api/operation.ts';
import { toProblem } from '../../api/problem.ts';
import type { VmForkResult, VmRun, VmRunResult } from '../../api/vm.ts';
import type { RunEnd } from '../../core/restart.ts';
import { requireDiscard } from '../../core/saved-memory.ts';
import { shownState, type VmRecord } from '../../core/vm.ts';
import { stopped } from '../../core/vm-changes.ts';
import { asBangerError, BangerError, messageOf } from '../../errors.ts';
import { keptNameOf } from '../disks/keep.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { requireStoreSpace } from '../store/space.ts';
import { awaken, isHeldUp } from './awaken.ts';
import { createVm } from './create.ts';
import { type Deletion, deleteVm } from './delete.ts';
import { discardMemory } from './discard-memory.ts';
import { forkVm } from './fork.ts';
import { letVmGoOn } from './pause.ts';
import { requireRunning } from './problem.ts';
import { awaitReady, readyTimeLeft } from './readiness.ts';
import { rebaseVm, type StartStop, type Wanted } from './rebase.ts';
import { releaseVm } from './release.ts';
import { resumeVm } from './resume.ts';
import { NO_STANDBY, type StandbyPool } from './standby.ts';
import { startVm } from './start.ts';
import { stopVm } from './stop.ts';
import { createSupervisor } from './supervisor.ts';
import { suspendVm } from './suspend.ts';
import { viewVm, viewVmNow } from './view.ts';
import { startWarm } from './warm-start.ts';

/** How a run ended that nobody asked to end. */
export type UnaskedEnd = RunEnd | 'reboot';

export interface StopOptions {
  /** what the guest gets to shut down in `ms`; 0 ends it at once, the configured time without */
  timeoutMs?: number | undefined;
  /** whether the memory of a suspended VM is given up */
  discardMemory?: boolean | undefined;
}

export interface Life {
  /**
   * Creates a VM if there is none of that name and starts it unless it runs. One that was made by it goes again when it is
   * called off; one that did not come up stays, to be looked at.
   */
  run(name: string, request: VmRun): Operation;
  /**
   * Starts a VM for a person, which begins a new count of its restarts; one that is paused goes on.
   * @throws BangerError `not_found`, or `conflict` when it runs
   */
  start(name: string, options?: Wanted): Operation;
  /**
   * Starts a VM because its policy or its guest wants it.
   * @throws BangerError `not_found`
   */
  startAgain(name: string): Operation;
  /** @throws BangerError `not_found` */
  stop(name: string, options?: StopOptions): Operation;
  /**
   * Saves its memory and frees everything else of it; one that is suspended already stays so.
   * @throws BangerError `not_found`
   */
  suspend(name: string): Operation;
  /**
   * Lets a suspended VM go on where it stood, or finishes a resume that was cut off.
   * @throws BangerError `not_found`, or `conflict` when it runs
   */
  resume(name: string): Operation;
  /**
   * Starts further VMs that begin as this one stands; it goes on, or stays suspended.
   * @throws BangerError `not_found`
   */
  fork(name: string, names: readonly string[]): Operation;
  /** @throws BangerError `not_found` */
  restart(name: string, options?: Wanted): Operation;
  /**
   * Ends it as if its power was cut, whatever is at work on it.
   * @throws BangerError `not_found`
   */
  kill(name: string): Promise<Operation>;
  /** @throws BangerError `not_found` */
  delete(name: string, deletion: Deletion): Operation;
  /**
   * Gives it a root disk from another image.
   * @throws BangerError `not_found`
   */
  rebase(name: string, request: VmRebase): Operation;
  /**
   * Begins an operation on a VM that may start and stop it in between.
   * @throws BangerError `not_found`
   */
  change<T>(
    kind: string,
    name: string,
    work: (actions: StartStop, progress: Progress, signal: AbortSignal) => Promise<T>,
  ): Operation;
  /** Watches a VM that was found running. */
  adopt(vm: VmRecord): void;
  /** Whether a VM is watched. */
  watches(vmId: string): boolean;
  /** Cuts logs of VMs that outgrew their limit. */
  limitLogs(): Promise<void>;
  /** Calls `listener` after each end that nobody asked for, with the record as it was while the VM ran. */
  onEnd(listener: (vm: VmRecord, end: UnaskedEnd) => void): void;
  /** Watches nothing any more; the VMs go on. */
  close(): void;
}

/** What `run` did for a VM that runs. */
const IT_RUNS = { created: false, started: false, resumed: false, warm: false };

/** @param pool guests that stand ready for new VMs */
export function createLife(host: Host, pool: StandbyPool = NO_STANDBY): Life {
  const { operations } = host;
  const { vms } = host.stores;
  const { limits } = host.config;
  const listeners: ((vm: VmRecord, end: UnaskedEnd) => void)[] = [];
  const tell = (vm: VmRecord, end: UnaskedEnd) => {
    for (const listener of listeners) {
      try {
        listener(vm, end);
      } catch (error) {
        host.log.error({ vm: vm.name, end, error: messageOf(error) }, 'what follows the end of a VM failed');
      }
    }
  };

  const supervisor = createSupervisor(host, {
    rebooted: (vm) => tell(vm, 'reboot'),
    poweredOff(vm) {
      finishStop(vm).catch((error) =>
        host.log.error({ vm: vm.name, error: messageOf(error) }, 'the stop of a guest that powered off failed'),
      );
    },
    failed: (vm) => tell(vm, 'failure'),
  });

  const actions: StartStop = {
    async reach(name, timeoutMs = limits.bootTimeoutMs, progress, signal) {
      const { vm, ended } = await startVm(host, name, timeoutMs, progress, signal);
      supervisor.watch(vm, ended);
      return vm;
    },
    async settle(vm, { timeoutMs = limits.readyTimeoutMs, until }, progress, signal) {
      if (until === 'reachable') return vm;
      progress.step('wait-for-ready', 'waiting until it is ready');
      const left = Math.max(1, timeoutMs - (vm.bootMs ?? 0));
      const ready = await awaitReady(host, vm.id, left, signal);
      const failed = ready.ready?.failedUnits ?? [];
      if (failed.length > 0) progress.warn(describeFailedUnits(ready.name, failed));
      return ready;
    },
    resume,
    async stop(name, timeoutMs = limits.stopTimeoutMs, progress, signal) {
      supervisor.unwatch(vms.get(name).id);
      return await stopVm(host, name, timeoutMs, progress, signal);
    },
  };

  /** One whose memory was saved goes on from there. */
  async function resume(name: string, progress: Progress, signal: AbortSignal): Promise<VmRecord> {
    const { vm, ended } = await resumeVm(host, name, progress, signal);
    supervisor.watch(vm, ended);
    return vm;
  }

  /** @returns whether it was suspended and goes on, as it may unless its memory is to be given up */
  async function resumeIfSuspended(
    name: string,
    { discardMemory: discard = false }: Wanted,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<VmRecord | undefined> {
    const vm = vms.get(name);
    if (vm.memory === null) return undefined;
    if (!discard) return await resume(name, progress, signal);
    await discardMemory(host, vm);
    return undefined;
  }

  /** A start that is called off while the guest boots leaves a stopped VM. */
  async function start(name: string, wanted: Wanted, progress: Progress, signal: AbortSignal): Promise<VmRecord> {
    const resumed = await resumeIfSuspended(name, wanted, progress, signal);
    if (resumed) return resumed;
    const vm = await actions.reach(name, wanted.timeoutMs, progress, signal);
    try {
      return await actions.settle(vm, wanted, progress, signal);
    } catch (error) {
      if (signal.aborted) {
        progress.step('undo', 'undoing the start');
        supervisor.unwatch(vm.id);
        await releaseVm(host, vm);
        vms.update(vm.id, stopped());
      }
      throw error;
    }
  }

  /** Lets one go on that is paused, whether or not there is room: it is held again when it takes more of that. */
  async function goOn(vm: VmRecord, progress: Progress): Promise<VmRecord> {
    progress.step('go-on', 'letting it go on');
    await letVmGoOn(host, vm);
    return vms.get(vm.name);
  }

  /** Begins an operation that ends with the VM as it is then. */
  function begin(
    kind: string,
    name: string,
    joinable: boolean,
    run: (progress: Progress, signal: AbortSignal) => Promise<VmRecord>,
    asked: { unasked?: boolean; endsUnasked?: boolean } = {},
  ): Operation {
    vms.get(name);
    return operations.start({
      kind,
      target: name,
      joinable,
      ...asked,
      run: async (progress, signal) => viewVm(host, await run(progress, signal)),
    });
  }

  /** A guest that powered itself off leaves its VMM. */
  async function finishStop(vm: VmRecord): Promise<void> {
    const operation = life.stop(vm.name, { timeoutMs: 0 });
    // a stop that a person asked for first is theirs
    const { state } = await operations.finished(operation.id);
    if (!operation.joined && state === 'succeeded') tell(vm, 'poweroff');
  }

  async function run(
    name: string,
    { timeoutMs, until, discardMemory: discard, cold, ...described }: VmRun,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<VmRunResult> {
    const existing = vms.find(name);
    if (existing && described.lease !== undefined) throw nameTaken(name);
    if (existing && shownState(existing) === 'paused') {
      await goOn(existing, progress);
      return { ...(await viewVmNow(host, vms.get(name))), ...IT_RUNS };
    }
    if (existing?.phase === 'running') {
      const left = timeoutMs ?? readyTimeLeft(host, existing);
      const waits = existing.ready === null && until !== 'reachable' && left > 0;
      if (waits) progress.step('wait-for-ready', 'waiting until it is ready');
      const vm = waits ? await awaitReady(host, existing.id, left, signal) : existing;
      return { ...(await viewVmNow(host, vm)), ...IT_RUNS };
    }
    const created = existing === undefined;
    const resumed = existing?.memory != null && !discard;
    const warm = created && !cold ? await startWarm(host, { ...described, name }, pool, progress, signal) : undefined;
    if (warm) {
      supervisor.watch(warm.vm, warm.ended);
      return { ...viewVm(host, warm.vm), created, started: true, resumed: false, warm: true };
    }
    if (created) await createVm(host, { ...described, name }, progress, signal);
    else vms.update(existing.id, { restarts: null });
    try {
      const vm = await start(name, { timeoutMs, until, discardMemory: discard }, progress, signal);
      return { ...viewVm(host, vm), created, started: true, resumed, warm: false };
    } catch (error) {
      if (created && signal.aborted) {
        // a work disk that somebody had kept is kept again as it was called; of a file there is only a copy
        const kept = keptNameOf(described.workDiskFrom);
        const keepWorkDisk = kept !== undefined && { name: kept };
        await deleteVm(host, name, { force: true, now: true, keepWorkDisk }, progress);
      }
      throw error;
    }
  }

  /** What else is at work on it ends with it running, or being as it was: until then this only looks. */
  async function runWhenFree(
    { id, name, startedAt }: VmRecord,
    request: VmRun,
    progress: Progress,
    signal: AbortSignal,
  ): Promise<VmRunResult> {
    await awaken(host, life, id, { signal, say: (text) => progress.step('wait', text) });
    const vm = vms.findById(id) ?? vms.get(name);
    requireRunning(vm);
    const resumed = vm.startedAt !== startedAt;
    return { ...(await run(vm.name, request, progress, signal)), started: resumed, resumed };
  }

  const life: Life = {
    run(name, request) {
      const existing = vms.find(name);
      const waits = request.lease === undefined && !request.discardMemory;
      const heldUp = waits && existing && isHeldUp(host, existing) ? existing : undefined;
      return operations.start({
        kind: 'vm.run',
        target: name,
        // a temporary VM is one client's own
        joinable: request.lease === undefined,
        joinsAs: 'vm.start',
        onlyLooks: runs(existing) || heldUp !== undefined,
        run: (progress, signal) =>
          heldUp ? runWhenFree(heldUp, request, progress, signal) : run(name, request, progress, signal),
      });
    },
    start(name, wanted = {}) {
      requireNotRunning(vms.get(name));
      return operations.start({
        kind: 'vm.start',
        target: name,
        joinable: true,
        run: async (progress, signal) => {
          const before = vms.get(name);
          if (shownState(before) === 'paused') return { ...viewVm(host, await goOn(before, progress)), resumed: false };
          const { id, memory } = before;
          vms.update(id, { restarts: null });
          const vm = await start(name, wanted, progress, signal);
          return { ...viewVm(host, vm), resumed: memory !== null && !wanted.discardMemory };
        },
      });
    },
    startAgain: (name) =>
      begin('vm.start', name, true, (progress, signal) => actions.reach(name, undefined, progress, signal), {
        unasked: true,
      }),
    stop: (name, { timeoutMs, discardMemory: discard = false } = {}) =>
      begin(
        'vm.stop',
        name,
        true,
        async (progress, signal) => {
          const vm = vms.get(name);
          if (vm.memory === null) return await actions.stop(name, timeoutMs, progress, signal);
          if (!discard) requireDiscard(vm);
          progress.step('discard-memory', 'giving its memory up');
          await discardMemory(host, vm);
          return vms.get(name);
        },
        { endsUnasked: true },
      ),
    suspend: (name) =>
      begin('vm.suspend', name, true, async (progress, signal) => {
        const vm = vms.get(name);
        if (vm.phase === 'suspended') return vm;
        await suspendVm(host, name, progress, signal);
        supervisor.unwatch(vm.id);
        progress.step('release', 'freeing its network and process');
        await releaseVm(host, vm);
        return vms.get(name);
      }),
    resume(name) {
      requireNotRunning(vms.get(name));
      return operations.start({
        kind: 'vm.resume',
        target: name,
        joinable: true,
        joinsAs: 'vm.start',
        run: async (progress, signal) => {
          const vm = vms.get(name);
          if (shownState(vm) === 'paused') return { ...viewVm(host, await goOn(vm, progress)), resumed: true };
          return { ...viewVm(host, await resume(name, progress, signal)), resumed: true };
        },
      });
    },
    fork(name, names) {
      vms.get(name);
      return operations.start({
        kind: 'vm.fork',
        target: name,
        async run(progress, signal): Promise<VmForkResult> {
          const { started, failed, pausedMs } = await forkVm(host, name, names, progress, signal);
          for (const { vm, ended } of started) supervisor.watch(vm, ended);
          return {
            forks: started
              .map(({ vm }) => viewVm(host, vm))
              .sort((a, b) => names.indexOf(a.name) - names.indexOf(b.name)),
            failed: failed.map((each) => ({ name: each.name, problem: toProblem(asBangerError(each.error)) })),
            pausedMs: Math.round(pausedMs),
          };
        },
      });
    },
    restart: (name, wanted = {}) =>
      begin('vm.restart', name, true, async (progress, signal) => {
        // one that could not start again is better left as it is
        await requireStoreSpace(host, vms.get(name), progress);
        // its programs are asked to end, which they cannot be while they stand still
        await resumeIfSuspended(name, wanted, progress, signal);
        await actions.stop(name, undefined, progress, signal);
        signal.throwIfAborted();
        return await start(name, wanted, progress, signal);
      }),
    async kill(name) {
      vms.get(name);
      const active = operations.activeOn(name);
      // the way out of a start or stop that hangs: call it off, then kill
      if (active) {
        operations.abort(active.id);
        await operations.finished(active.id);
      }
      return begin('vm.kill', name, true, async (progress, signal) => {
        const vm = vms.get(name);
        if (vm.memory === null) return await actions.stop(name, 0, progress, signal);
        await discardMemory(host, vm);
        return vms.get(name);
      });
    },
    delete(name, deletion) {
      vms.get(name);
      return operations.start({
        kind: 'vm.delete',
        target: name,
        // without force it is for one that does not run, and this one is about to
        endsUnasked: deletion.force,
        run: async (progress) => {
          if (deletion.force) supervisor.unwatch(vms.get(name).id);
          return await deleteVm(host, name, deletion, progress);
        },
      });
    },
    rebase: (name, request) =>
      begin('vm.rebase', name, false, (progress, signal) => rebaseVm(host, actions, name, request, progress, signal)),
    change(kind, name, work) {
      vms.get(name);
      return operations.start({ kind, target: name, run: (progress, signal) => work(actions, progress, signal) });
    },
    adopt: (vm) => supervisor.watch(vm),
    watches: (vmId) => supervisor.watches(vmId),
    limitLogs: () => supervisor.limitLogs(),
    onEnd: (listener) => void listeners.push(listener),
    close: () => supervisor.close(),
  };
  return life;
}

function describeFailedUnits(name: string, units: readonly string[]): string {
  const what = units.length === 1 ? '1 unit' : `${units.length} units`;
  return `${what} of ${name} failed while it booted: ${units.join(', ')}. See: banger exec ${name} -- systemctl status ${units[0]}`;
}

function nameTaken(name: string): BangerError {
  return new BangerError(
    'conflict',
    `A VM named "${name}" exists already, and a temporary one gets no name of another.`,
    {
      hint: `Run it in ${name} and keep it: banger run ${name} -- COMMAND   or leave the name out.`,
    },
  );
}

function runs(vm: VmRecord | undefined): boolean {
  return vm !== undefined && shownState(vm) === 'running';
}

function requireNotRunning(vm: VmRecord): void {
  if (!runs(vm)) return;
  const { name } = vm;
  throw new BangerError('conflict', `${name} is running already.`, { hint: `Log in with: banger ssh ${name}` });
}
