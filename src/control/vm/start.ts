/** Starts a VM: every step written to the ledger before it is done, all of them undone when one fails. */

import { planStart, STEP_LABELS, type StartStep } from '../../core/plan-start.ts';
import type { TimelineStep, VmRecord } from '../../core/vm.ts';
import { notStarted, running, starting } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { readTail, stripControls } from '../../firecracker/console.ts';
import { action } from '../../firecracker/requests.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { makeExt4 } from '../../storage/ext4.ts';
import { MAX_SOCKET_PATH_BYTES, vmFiles } from '../../storage/layout.ts';
import { sideBySide } from '../../system/abort.ts';
import { pathExists } from '../../system/files.ts';
import type { DetachedProcess } from '../../system/runner.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import { growDisk, requireSettled, requireWholeDisks } from '../disks/disk-work.ts';
import { diskRunner, settleUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import type { Progress } from '../operations.ts';
import { requireStoreSpace } from '../store/space.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';
import { awaitLogin, configureVm, launchVm, lifelessness, writeVmSeed } from './boot.ts';
import { requireFreeDisks } from './free-disks.ts';
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
  const socketPath = vmmSocketOf(host, vm.id);
  const stages = planStart(vm, {
    rootDiskExists: await pathExists(files.rootDisk),
    workDiskExists: await pathExists(files.workDisk),
    vmmAlive: (await findVmmOf(host, vm)) !== undefined,
  });
  const began = performance.now();
  progress.step('preflight', 'checking the host');
  const boot = await findVmBootFiles(host, vm);
  await host.checks.beforeStart(boot, vm, progress.warn);
  requireShortSocketPath(socketPath);
  requireWholeDisks(host, vm);
  await requireFreeDisks(host, vm);
  await requireStoreSpace(host, vm, progress);
  const timeline: TimelineStep[] = [{ step: 'preflight', startedMs: 0, durationMs: performance.now() - began }];

  host.stores.vms.update(vm.id, starting());
  const run = new StartRun(host, vm, boot, timeoutMs);
  try {
    await releaseVm(host, vm); // what an earlier run may have left
    await forgetMemory(host, vm);
    await requireSettled(host, vm);
    run.vm = await settleUser(host, vm);
    const attempt = async (plan: StartStep[][]) => {
      for (const stage of plan) {
        const steps = stage.map((step) => async (either: AbortSignal) => {
          const startedMs = performance.now() - began;
          progress.step(step, STEP_LABELS[step]);
          await run.perform(step, either);
          timeline.push({ step, startedMs, durationMs: performance.now() - began - startedMs });
        });
        await sideBySide(signal, steps);
        signal.throwIfAborted();
      }
    };
    try {
      await attempt(stages);
    } catch (error) {
      const lifeless = lifelessness(error);
      if (lifeless === undefined || signal.aborted) throw error;
      // a machine that came up before comes up the next time; twice in a row is no accident
      progress.warn(`${name} ${lifeless} while it was starting, and is started over, once.`);
      host.log.warn({ vm: name, lifeless }, 'a guest without a sign of life is started over');
      host.events.publish({ type: 'vm.started-over', vm: name, id: vm.id, reason: lifeless });
      const startedMs = performance.now() - began;
      await releaseVm(host, vm);
      timeline.push({ step: 'start-over', startedMs: 0, durationMs: startedMs });
      const again = { rootDiskExists: true, workDiskExists: await pathExists(files.workDisk), vmmAlive: false };
      await attempt(planStart(vm, again));
    }
    const started = { at: host.now(), vmm: run.vmmKind, timeline, tookMs: performance.now() - began };
    host.stores.vms.update(vm.id, running(vm, started));
  } catch (error) {
    progress.step('undo', 'undoing the start');
    const cause = signal.aborted && signal.reason instanceof Error ? signal.reason : error;
    const lesson = await explain(cause, vm, files.consoleLog);
    await releaseVm(host, vm);
    host.stores.vms.update(vm.id, notStarted(lesson, timeline));
    throw lesson;
  }
  return { vm: host.stores.vms.get(name), ended: run.ended };
}

/** The steps of one start and what they hand to each other. */
class StartRun {
  vmmKind: 'firecracker' | 'fcqemu' | null = null;
  ended: DetachedProcess['ended'] = new Promise(() => {});
  /** as which user it runs may be decided late */
  vm: VmRecord;
  readonly #host: Host;
  readonly #boot: BootFiles;
  readonly #timeoutMs: number;

  constructor(host: Host, vm: VmRecord, boot: BootFiles, timeoutMs: number) {
    this.#host = host;
    this.vm = vm;
    this.#boot = boot;
    this.#timeoutMs = timeoutMs;
  }

  async perform(step: StartStep, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    switch (step) {
      case 'prepare-root-disk':
        return await growDisk(this.#host, this.vm, this.#files.rootDisk, this.vm.rootDiskBytes);
      case 'prepare-work-disk':
        return await growDisk(this.#host, this.vm, this.#files.workDisk, this.vm.workDiskBytes);
      case 'make-work-disk':
        await makeExt4(
          diskRunner(this.#host, this.vm),
          this.#host.config.programs,
          this.#files.workDisk,
          this.vm.workDiskBytes,
          'work',
        );
        return;
      case 'write-seed-drive':
        return await writeVmSeed(this.#host, this.vm);
      case 'attach-network':
        return await this.#host.network.attach(this.vm);
      case 'launch-vmm':
        return await this.#launch(signal);
      case 'configure-vmm':
        return await configureVm(this.#host, this.vm, this.#boot, signal);
      case 'boot-guest': {
        await using api = connectVmm(this.#socketPath);
        await api.send(action('InstanceStart'));
        return;
      }
      case 'wait-for-ssh':
        this.#host.guests.keep(this.vm, await awaitLogin(this.#host, this.vm, this.#timeoutMs, signal));
        return;
    }
  }

  get #files() {
    return vmFiles(this.#host.config.paths.store, this.vm.id);
  }

  get #socketPath() {
    return vmmSocketOf(this.#host, this.vm.id);
  }

  async #launch(signal: AbortSignal): Promise<void> {
    const { kind, ended } = await launchVm(this.#host, this.vm, this.#boot, signal);
    this.vmmKind = kind;
    this.ended = ended;
  }
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
  const said = lines.map((line) => `    ${line}`).join('\n');
  return error.reworded(`${error.message}\n  The console of ${vm.name} ends with:\n${said}`, {
    details: { console: lines },
  });
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
