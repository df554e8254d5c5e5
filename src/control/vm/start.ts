/** Starts a VM: every step written to the ledger before it is done, all of them undone when one fails. */

import { planStart, STEP_LABELS, type StartStep } from '../../core/plan-start.ts';
import type { TimelineStep, VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { readTail, stripControls } from '../../firecracker/console.ts';
import { findVmm } from '../../firecracker/launch.ts';
import { action } from '../../firecracker/requests.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { makeExt4 } from '../../storage/ext4.ts';
import { MAX_SOCKET_PATH_BYTES, vmFiles, vmmSocket } from '../../storage/layout.ts';
import { pathExists } from '../../system/files.ts';
import type { DetachedProcess } from '../../system/runner.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import { growDisk } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { requireStoreSpace } from '../store/space.ts';
import { awaitLogin, configureMachine, launchMachine, writeMachineSeed } from './machine.ts';
import { releaseVm } from './release.ts';

export interface StartedVm {
  vm: VmRecord;
  /** how the VMM process ends, seen by the daemon that started it */
  ended: DetachedProcess['ended'];
}

/**
 * Starts a stopped or failed VM and returns after the first SSH login.
 * @param timeoutMs limit for the guest to answer SSH
 * @throws BangerError `preflight_failed` before anything is touched; other codes after everything was undone
 */
export async function startVm(
  host: Host,
  name: string,
  timeoutMs: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<StartedVm> {
  const vm = host.stores.vms.get(name);
  const files = vmFiles(host.config.paths.store, vm.id);
  const socketPath = vmmSocket(host.config.paths.run, vm.id);
  const stages = planStart(vm, {
    rootDiskExists: await pathExists(files.rootDisk),
    workDiskExists: await pathExists(files.workDisk),
    vmmAlive: (await findVmm(socketPath)) !== undefined,
  });
  const began = performance.now();
  progress.step('preflight', 'checking the host');
  const boot = await findVmBootFiles(host, vm);
  await host.checks.beforeStart(boot, vm);
  requireShortSocketPath(socketPath);
  await requireStoreSpace(host, vm, progress);
  const timeline: TimelineStep[] = [{ step: 'preflight', startedMs: 0, durationMs: performance.now() - began }];

  host.stores.vms.update(vm.id, { phase: 'starting', failure: null, bootTimeline: [], bootMs: null });
  // one step's failure ends its neighbours early; the caller's signal ends them all
  const failure = new AbortController();
  const run = new StartRun(host, vm, boot, timeoutMs, AbortSignal.any([signal, failure.signal]));
  try {
    await releaseVm(host, vm); // what an earlier run may have left
    for (const stage of stages) {
      const steps = stage.map(async (step) => {
        const startedMs = performance.now() - began;
        progress.step(step, STEP_LABELS[step]);
        try {
          await run.perform(step);
        } catch (error) {
          failure.abort(error);
          throw error;
        }
        timeline.push({ step, startedMs, durationMs: performance.now() - began - startedMs });
      });
      // all of them, even after one failed: the undo must not race with a step that still works
      const outcomes = await Promise.allSettled(steps);
      throwFirstFailure(outcomes, failure.signal);
      signal.throwIfAborted();
    }
    host.stores.vms.update(vm.id, {
      phase: 'running',
      startedAt: host.now().toISOString(),
      vmm: run.vmmKind,
      run: { hostname: vm.name, vcpus: vm.vcpus, memoryMib: vm.memoryMib },
      bootTimeline: timeline.map(roundStep),
      bootMs: Math.round(performance.now() - began),
    });
  } catch (error) {
    progress.step('undo', 'undoing the start');
    const cause = signal.aborted && signal.reason instanceof Error ? signal.reason : error;
    const lesson = await explain(cause, vm, files.consoleLog);
    await releaseVm(host, vm);
    // a start that was called off leaves a stopped VM, not a broken one
    const cancelled = lesson instanceof BangerError && lesson.code === 'cancelled';
    host.stores.vms.update(vm.id, {
      phase: cancelled ? 'stopped' : 'failed',
      failure: cancelled ? null : lesson instanceof Error ? lesson.message : String(lesson),
      startedAt: null,
      vmm: null,
      bootTimeline: timeline.map(roundStep),
    });
    throw lesson;
  }
  return { vm: host.stores.vms.get(name), ended: run.ended };
}

/** The steps of one start and what they hand to each other. */
class StartRun {
  vmmKind: 'firecracker' | 'fcqemu' | null = null;
  ended: DetachedProcess['ended'] = new Promise(() => {});
  readonly #host: Host;
  readonly #vm: VmRecord;
  readonly #boot: BootFiles;
  readonly #timeoutMs: number;
  readonly #signal: AbortSignal;

  constructor(host: Host, vm: VmRecord, boot: BootFiles, timeoutMs: number, signal: AbortSignal) {
    this.#host = host;
    this.#vm = vm;
    this.#boot = boot;
    this.#timeoutMs = timeoutMs;
    this.#signal = signal;
  }

  async perform(step: StartStep): Promise<void> {
    this.#signal.throwIfAborted();
    switch (step) {
      case 'prepare-root-disk':
        return await growDisk(this.#host, this.#vm, this.#files.rootDisk, this.#vm.rootDiskBytes);
      case 'prepare-work-disk':
        return await growDisk(this.#host, this.#vm, this.#files.workDisk, this.#vm.workDiskBytes);
      case 'make-work-disk':
        await makeExt4(
          this.#host.system.runner,
          this.#host.config.programs,
          this.#files.workDisk,
          this.#vm.workDiskBytes,
          'work',
        );
        return;
      case 'write-seed-drive':
        return await writeMachineSeed(this.#host, this.#vm);
      case 'attach-network':
        return await this.#host.network.attach(this.#vm);
      case 'launch-vmm':
        return await this.#launch();
      case 'configure-vmm':
        return await configureMachine(this.#host, this.#vm, this.#boot, this.#signal);
      case 'boot-guest': {
        await using api = connectVmm(this.#socketPath);
        await api.send(action('InstanceStart'));
        return;
      }
      case 'wait-for-ssh':
        this.#host.guests.keep(this.#vm, await awaitLogin(this.#host, this.#vm, this.#timeoutMs, this.#signal));
        return;
    }
  }

  get #files() {
    return vmFiles(this.#host.config.paths.store, this.#vm.id);
  }

  get #socketPath() {
    return vmmSocket(this.#host.config.paths.run, this.#vm.id);
  }

  async #launch(): Promise<void> {
    const { kind, ended } = await launchMachine(this.#host, this.#vm, this.#boot, this.#signal);
    this.vmmKind = kind;
    this.ended = ended;
  }
}

function throwFirstFailure(outcomes: PromiseSettledResult<void>[], failure: AbortSignal): void {
  // the reason of the abort is the failure that came first; the others are its echoes
  if (outcomes.some((outcome) => outcome.status === 'rejected')) throw failure.reason;
}

/** Adds the end of the guest's console to a failure of the guest: the reason usually stands there. */
async function explain(error: unknown, vm: VmRecord, consoleLog: string): Promise<unknown> {
  if (!(error instanceof BangerError) || !['guest_failed', 'timeout', 'vmm_failed'].includes(error.code)) return error;
  const lines = stripControls(await readTail(consoleLog, 16 * 1024))
    .trimEnd()
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-8);
  if (lines.length === 0 || error.message.includes('last words')) return error;
  return new BangerError(
    error.code,
    `${error.message}\n  The console of ${vm.name} ends with:\n${lines.map((line) => `    ${line}`).join('\n')}`,
    { cause: error, ...(error.hint ? { hint: error.hint } : {}), details: { ...error.details, console: lines } },
  );
}

function requireShortSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) return;
  throw new BangerError(
    'host_unprepared',
    `The socket path ${path} is longer than the ${MAX_SOCKET_PATH_BYTES} bytes Linux allows.`,
    {
      hint: 'Choose a shorter directory with BANGER_HOME or BANGER_PATHS_RUN.',
    },
  );
}

function roundStep(step: TimelineStep): TimelineStep {
  return { step: step.step, startedMs: Math.round(step.startedMs), durationMs: Math.round(step.durationMs) };
}
