/** A machine that was booted or restored, with everything attached to it. */
import { Fault } from '../fault.ts';
import { loadLibc } from '../libc.ts';
import type { ThreadLog } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { type QemuSpec, qemuArguments } from '../qemu/arguments.ts';
import { guardMemoryFile } from '../qemu/memory-file-guard.ts';
import type { QemuEnd } from '../qemu/process.ts';
import type { Settings } from '../settings.ts';
import type { Sink } from '../sink.ts';
import { BOOT_TIMER_ARGUMENTS } from './boot-timer.ts';
import type { Console } from './console.ts';
import { DriveControl } from './drive-control.ts';
import { type EntropyCounter, EntropySource } from './entropy.ts';
import { MicroVm } from './micro-vm.ts';
import { NetworkControl } from './net/network-control.ts';
import type { Resources } from './resources.ts';
import type { SnapshotFile } from './snapshot-file.ts';
import { loadDeviceState, restoreFault } from './snapshot-load.ts';
import { startFault } from './start.ts';
import { watchTimer } from './timer-watch.ts';

export interface MachineOptions {
  settings: Settings;
  log: ThreadLog;
  resources: Resources;
  console: Console;
  consoleOutput: Sink;
  metrics: Metrics;
  /** called at once, because the guest may end the machine before its start is complete */
  onCreated: (vm: MicroVm) => void;
  onReset: () => void;
  /** the guest wrote to the boot timer; absent when there is none */
  onBootTimer?: ((qemuPid: number) => void) | undefined;
  onDeath: (end: QemuEnd) => void;
  /** memory may be given back some time after the last call */
  worked: () => void;
  /** descriptor of the memory file of a machine that is restored */
  memory?: number;
}

export interface Machine {
  vm: MicroVm;
  spec: QemuSpec;
  drives: DriveControl;
  network: NetworkControl;
}

/** Boots a guest. @throws Fault, with QEMU gone again */
export async function bootMachine(spec: QemuSpec, options: MachineOptions): Promise<Machine> {
  return await build(spec, options, startFault, async ({ vm, drives, network }) => {
    await drives.applyLimits();
    await network.activate();
    await options.resources.balloon.activate(vm, spec.memoryMib);
    await vm.resume();
    if (spec.accelerator === 'tcg') void watchTimer(vm, options.log);
  });
}

/** Loads a snapshot into a new machine, which stays paused. @throws Fault, with QEMU gone again */
export async function restoreMachine(
  spec: QemuSpec,
  snapshot: SnapshotFile,
  options: MachineOptions,
): Promise<Machine> {
  await guard(spec);
  return await build(spec, options, restoreFault, async ({ vm, drives, network }) => {
    await loadDeviceState(vm, snapshot);
    await drives.applyLimits();
    await network.activate();
    await options.resources.balloon.resumeStatistics(vm);
    options.resources.vsock.announceRestore();
    if (snapshot.header.halted) vm.markHalted();
  });
}

/** The memory file is not this machine's alone. @throws Fault */
async function guard({ balloon, memoryMib }: QemuSpec): Promise<void> {
  try {
    guardMemoryFile(await loadLibc(), memoryMib * 1024 * 1024);
  } catch (error) {
    // without a balloon it is never written to, only read in larger pieces
    if (!balloon) return;
    const cause = error instanceof Error ? error.message : String(error);
    throw restoreFault(`The balloon cannot be kept from writing to the memory file: ${cause}`);
  }
}

async function build(
  spec: QemuSpec,
  options: MachineOptions,
  fault: (cause: string) => Fault,
  bringUp: (machine: Machine) => Promise<void>,
): Promise<Machine> {
  const { settings, log, metrics, resources, console, consoleOutput, memory, onReset, onDeath, onBootTimer } = options;
  const taps = resources.interfaces.taps.map(({ fd }) => fd);
  const args = [...qemuArguments(spec), ...(onBootTimer ? BOOT_TIMER_ARGUMENTS : [])];
  let vm: MicroVm;
  try {
    vm = await MicroVm.create({ settings, args, files: { memory, taps }, log, metrics, onReset, onBootTimer, onDeath });
  } catch (error) {
    throw fault(error instanceof Error ? error.message : String(error));
  }
  options.onCreated(vm);
  try {
    const { path, limit } = resources.serial;
    await console.attach(vm.console, { output: consoleOutput, takesInput: path === null, limit });
    resources.vsock.attach(vm.vsock);
    if (spec.entropy?.rate_limiter) {
      const count = (counter: EntropyCounter, amount?: number) => options.metrics.count('entropy', counter, amount);
      new EntropySource(vm.entropy, spec.entropy.rate_limiter, count);
    }
    const network = new NetworkControl({
      vm,
      interfaces: resources.interfaces,
      mmds: resources.mmds,
      count: (counter, amount) => options.metrics.count('mmds', counter, amount),
      worked: options.worked,
    });
    const machine = { vm, spec, drives: new DriveControl(vm, resources.drives, log), network };
    await bringUp(machine);
    return machine;
  } catch (error) {
    console.detach();
    await vm.end();
    if (error instanceof Fault) throw error;
    throw fault(error instanceof Error ? error.message : String(error));
  }
}
