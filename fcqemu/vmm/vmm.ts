/** The microVM as the API sees it: which actions are allowed when, and what they do. */
import { closeSync } from 'node:fs';
import type { InstanceInfo, InstanceState } from '../../src/firecracker/api-types.ts';
import type { Action, ActionArguments, ActionName } from '../api/actions.ts';
import { VERSION } from '../argv.ts';
import { EXIT } from '../exit-code.ts';
import { Fault, ioErrorDebug, ioErrorText } from '../fault.ts';
import { debugText } from '../json/scanner.ts';
import type { Log, ThreadLog } from '../log.ts';
import { createLogLimit } from '../log-limit.ts';
import type { Metrics, Totals } from '../metrics.ts';
import { AcceleratorChoice } from '../qemu/accelerator.ts';
import type { Settings } from '../settings.ts';
import { openSink, type Sink } from '../sink.ts';
import { BootTimer } from './boot-timer.ts';
import { Console } from './console.ts';
import { bootMachine, type Machine, type MachineOptions, restoreMachine } from './machine.ts';
import type { MicroVm } from './micro-vm.ts';
import { Mmds } from './mmds/store.ts';
import { refusedAfterStart, refusedBeforeStart, refusedHotplug, refusePmem } from './refusals.ts';
import { Resources } from './resources.ts';
import { createSnapshot } from './snapshot-create.ts';
import { SNAPSHOT_VERSION } from './snapshot-file.ts';
import { checkLoadRequest, planRestore, takeOverFault } from './snapshot-load.ts';
import { planStart, startFault } from './start.ts';

/** Handlers of one phase; what is missing is not supported in it. */
type Handlers = { [N in ActionName]?: (argument: ActionArguments[N]) => unknown };

/** What a snapshot brings itself: once one of these was tried, none can be loaded. */
const BOOT_SPECIFIC: ReadonlySet<ActionName> = new Set<ActionName>([
  ...(['ConfigureBootSource', 'UpdateMachineConfiguration', 'InsertBlockDevice', 'InsertNetworkDevice'] as const),
  ...(['InsertPmemDevice', 'SetBalloonDevice', 'SetVsockDevice', 'SetEntropyDevice', 'SetMmdsConfiguration'] as const),
  'SetMemoryHotplugDevice',
]);

export interface VmmOptions {
  instanceId: string;
  settings: Settings;
  /** confine QEMU with its seccomp filter */
  sandbox: boolean;
  log: Log;
  metrics: Metrics;
  /** largest metadata store in bytes */
  mmdsLimit: number;
  stdout: Sink;
  /** log how long the guest took to write to the boot timer */
  bootTimer: boolean;
  /** memory may be given back some time after the last call */
  worked: () => void;
  /** ends the process; the guest is gone already */
  onStopped: (exitCode: number) => void;
}

export class Vmm {
  readonly resources: Resources;
  readonly console = new Console();
  readonly #options: VmmOptions;
  readonly #log: ThreadLog;
  readonly #accelerators: AcceleratorChoice;
  readonly #limitedConfig: (write: () => void) => void;
  readonly #limitedKick: (write: () => void) => void;
  #state: InstanceState = 'Not started';
  /** known from the moment QEMU runs */
  #vm: MicroVm | undefined;
  /** known once the guest may run */
  #machine: Machine | undefined;
  /** descriptor of what a restored machine has mapped; open until the process ends, as QEMU's is */
  #memoryFile: number | undefined;
  /** something was configured that a snapshot brings itself */
  #bootSpecific = false;

  constructor(options: VmmOptions) {
    this.#options = options;
    this.#log = options.log.thread('main', 'vmm');
    this.#accelerators = new AcceleratorChoice(options.settings, this.#log);
    this.#limitedConfig = createLogLimit(this.#log, options.metrics);
    this.#limitedKick = createLogLimit(this.#log, options.metrics);
    this.resources = new Resources(new Mmds(options.mmdsLimit));
    options.metrics.collect = () => this.#counters();
  }

  /**
   * Carries an action out.
   * @returns the value of the answer's body; undefined for an answer without one
   * @throws Fault
   */
  async execute(action: Action): Promise<unknown> {
    const phase = this.#state === 'Not started' ? this.#beforeStart : this.#afterStart;
    if (BOOT_SPECIFIC.has(action.name)) this.#bootSpecific = true;
    const handler = (this.#always[action.name] ?? phase[action.name]) as ((argument: unknown) => unknown) | undefined;
    if (!handler) {
      const when = this.#state === 'Not started' ? 'before' : 'after';
      throw new Fault(`The requested operation is not supported ${when} starting the microVM.`);
    }
    return await handler(action.argument);
  }

  /** Cuts the guest off, if there is one, and waits until QEMU is gone. */
  async kill(): Promise<void> {
    this.console.detach();
    await this.#vm?.end();
  }

  readonly #always: Handlers = {
    GetVmInstanceInfo: (): InstanceInfo => ({
      id: this.#options.instanceId,
      state: this.#state,
      vmm_version: VERSION,
      app_name: 'Firecracker',
    }),
    GetVmmVersion: () => ({ firecracker_version: VERSION }),
    GetFullVmConfig: () => this.#fullConfig(),
    GetVmMachineConfig: () => this.resources.machine,
  };

  readonly #beforeStart: Handlers = {
    ConfigureBootSource: (config) => {
      this.resources.setBootSource(config);
      this.#accelerators.prepare(config.kernel_image_path);
    },
    UpdateMachineConfiguration: (update) => this.resources.updateMachine(update),
    InsertBlockDevice: (config) => this.resources.drives.put(config, this.#log),
    InsertNetworkDevice: (config) => this.resources.putInterface(config),
    SetEntropyDevice: (config) => this.resources.setEntropy(config),
    ConfigureSerial: (config) => this.resources.setSerial(config),
    ConfigureLogger: (config) => this.#configureLogger(config),
    ConfigureMetrics: (config) => this.configureMetrics(config),
    GetBalloonConfig: () => this.resources.balloon.get(false),
    SetBalloonDevice: (config) => this.resources.balloon.put(config, this.#memoryMib),
    GetMmds: () => this.resources.mmds.get(),
    PutMmds: ({ data }) => this.resources.mmds.put(data),
    PatchMmds: ({ data }) => this.resources.mmds.patch(data),
    SetMmdsConfiguration: (config) => {
      const ids = this.resources.interfaces.list.map((iface) => iface.iface_id);
      this.resources.mmds.configure(config, ids);
    },
    SetVsockDevice: ({ guest_cid, uds_path }) => this.resources.vsock.put({ guest_cid, uds_path }),
    LoadSnapshot: (params) => this.#loadSnapshot(params),
    StartMicroVm: () => this.start(),
    ...refusedBeforeStart,
    InsertPmemDevice: (config) => refusePmem(config, this.resources.drives.root !== undefined),
  };

  readonly #afterStart: Handlers = {
    Pause: () => this.#pause(),
    Resume: () => this.#resume(),
    CreateSnapshot: (params) => this.#createSnapshot(params),
    SendCtrlAltDel: () => this.#running().vm.sendCtrlAltDel(),
    FlushMetrics: () => this.#options.metrics.flush(),
    UpdateBlockDevice: (update) => this.#running().drives.update(update),
    UpdateNetworkInterface: (update) => this.#running().network.update(update),
    GetBalloonConfig: () => this.resources.balloon.get(true),
    UpdateBalloon: ({ amount_mib }) => this.resources.balloon.resize(this.#running().vm, this.#memoryMib, amount_mib),
    GetBalloonStats: () => this.resources.balloon.statistics(this.#running().vm, this.#memoryMib),
    UpdateBalloonStatistics: ({ stats_polling_interval_s }) =>
      this.resources.balloon.setStatisticsInterval(this.#running().vm, stats_polling_interval_s),
    StartFreePageHinting: () => this.resources.balloon.hinting(),
    GetFreePageHintingStatus: () => this.resources.balloon.hinting(),
    StopFreePageHinting: () => this.resources.balloon.hinting(),
    GetMmds: () => this.#configuredMmds().get(),
    PutMmds: ({ data }) => this.#configuredMmds().put(data),
    PatchMmds: ({ data }) => this.#configuredMmds().patch(data),
    ...refusedAfterStart,
    ...refusedHotplug((message) => this.#log.warn(message)),
  };

  get #memoryMib(): number {
    return this.resources.machine.mem_size_mib;
  }

  #configuredMmds(): Mmds {
    this.resources.mmds.requireConfigured();
    return this.resources.mmds;
  }

  #fullConfig(): Record<string, unknown> {
    if (this.#state === 'Not started') {
      const missing = 'boot-source, machine-config.smt, and machine-config.cpu_template will all be empty.';
      this.#limitedConfig(() => this.#log.warn(`If the VM was restored from snapshot, ${missing}`));
    }
    return this.resources.fullConfig();
  }

  /** QEMU does that by itself; whoever waits for the line finds it. */
  #kickDevices(): void {
    this.#limitedKick(() => this.#log.info('Artificially kick devices'));
  }

  /** Boots the configured guest. @throws Fault and stays "Not started" */
  async start(): Promise<void> {
    const { instanceId, sandbox, bootTimer } = this.#options;
    const timer = bootTimer ? new BootTimer() : undefined;
    const limited = createLogLimit(this.#log, this.#options.metrics);
    const onBootTimer = timer && ((pid: number) => limited(() => this.#log.info(timer.message(pid))));
    this.#log.debug('event_start: build microvm for boot');
    const spec = await planStart(this.resources, {
      instanceId,
      accelerators: this.#accelerators,
      sandbox,
      log: this.#log,
    });
    try {
      this.#machine = await bootMachine(spec, { ...this.#machineOptions(), onBootTimer });
    } catch (error) {
      this.#vm = undefined;
      throw error;
    }
    for (const event of ['event_end: build microvm for boot', 'event_start: boot microvm']) this.#log.debug(event);
    this.#kickDevices();
    this.#log.debug('event_end: boot microvm');
    this.#state = 'Running';
    await this.#options.metrics.start();
  }

  async #loadSnapshot(params: ActionArguments['LoadSnapshot']): Promise<void> {
    checkLoadRequest(this.#bootSpecific, this.#log);
    const { header, state, spec, memory } = await planRestore(params, this.#options);
    const tracks = params.track_dirty_pages || params.enable_diff_snapshots;
    await this.resources.restore(spec, header, tracks).catch((error: unknown) => {
      closeSync(memory);
      throw takeOverFault(error);
    });
    // it stays open: what QEMU has not written is read there when the machine is saved again
    this.#memoryFile = memory;
    this.#machine = await restoreMachine(spec, { header, state }, { ...this.#machineOptions(), memory });
    this.#state = 'Paused';
    if (params.clock_realtime) this.#log.debug('clock_realtime has no effect: set the time in the guest.');
    await this.#options.metrics.start();
    this.#options.metrics.pauseTimer();
    if (params.resume_vm) await this.#resumeRestored();
  }

  async #resumeRestored(): Promise<void> {
    try {
      this.#kickDevices();
      await this.#running().vm.resume();
      this.#options.metrics.resumeTimer();
      this.#state = 'Running';
    } catch (error) {
      const cause = error instanceof Error ? error.message : String(error);
      throw new Fault(`Load snapshot error: Failed to resume microVM: ${cause}`, { fatal: 'Resume' });
    }
  }

  async #createSnapshot(params: ActionArguments['CreateSnapshot']): Promise<void> {
    const { vm, spec } = this.#running();
    if (this.#state !== 'Paused') {
      throw new Fault(
        'Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running',
      );
    }
    const drives = spec.drives.map((drive, at) => ({ ...drive, ...this.resources.drives.list[at] }));
    await this.#timed('full_create_snapshot', 'create full snapshot', () =>
      createSnapshot(
        vm,
        params,
        {
          version: SNAPSHOT_VERSION,
          qemuVersion: vm.qemuVersion,
          spec: { ...spec, drives, balloon: this.resources.balloon.config },
          machine: this.resources.machine,
          bootSource: this.resources.bootSource,
          mmdsConfig: this.resources.mmds.config,
          halted: vm.halted,
        },
        this.#memoryFile,
      ),
    );
  }

  #machineOptions(): MachineOptions {
    return {
      settings: this.#options.settings,
      log: this.#log,
      resources: this.resources,
      console: this.console,
      consoleOutput: this.#openConsoleOutput(),
      metrics: this.#options.metrics,
      worked: this.#options.worked,
      onCreated: (vm) => {
        this.#vm = vm;
      },
      onReset: () => void this.#stop(EXIT.ok),
      onDeath: (end) => {
        this.#log.error(`QEMU ended unexpectedly: it ${end.how}${end.lastLine ? `: ${end.lastLine}` : ''}`);
        void this.#stop(EXIT.generic);
      },
    };
  }

  /** @throws Fault */
  configureMetrics(config: ActionArguments['ConfigureMetrics']): void {
    try {
      this.#options.metrics.configure(config.metrics_path);
    } catch (error) {
      const cause = error instanceof Error ? error.message : String(error);
      throw new Fault(`Metrics error: Cannot initialize the metrics system due to bad user input: ${cause}`, {
        debug: `InitializationFailure(${debugText(cause)})`,
      });
    }
  }

  #configureLogger(config: ActionArguments['ConfigureLogger']): void {
    try {
      this.#options.log.update(config);
    } catch (error) {
      throw new Fault(`Logger error: Failed to open target file: ${ioErrorText(error)}`, {
        debug: `LoggerUpdateError(${ioErrorDebug(error)})`,
      });
    }
  }

  #openConsoleOutput(): Sink {
    const { path } = this.resources.serial;
    if (path === null) return this.#options.stdout;
    try {
      return openSink(path);
    } catch (error) {
      throw startFault(`Failed to create device manager: Error with EventFd: ${ioErrorText(error)}`, {
        debug: `CreateDeviceManager(EventFd(${ioErrorDebug(error)}))`,
      });
    }
  }

  async #pause(): Promise<void> {
    await this.#timed('pause_vm', 'pause vm', () => this.#running().vm.pause());
    this.#options.metrics.pauseTimer();
    this.#state = 'Paused';
  }

  async #resume(): Promise<void> {
    this.#kickDevices();
    await this.#timed('resume_vm', 'resume vm', () => this.#running().vm.resume());
    this.#options.metrics.resumeTimer();
    this.#state = 'Running';
  }

  async #timed(metric: string, name: string, act: () => Promise<void>): Promise<void> {
    const begin = performance.now();
    try {
      await act();
    } catch (error) {
      if (error instanceof Fault) throw error;
      throw new Fault(`Internal VMM error: ${error instanceof Error ? error.message : String(error)}`);
    }
    const elapsedUs = Math.round((performance.now() - begin) * 1000);
    this.#options.metrics.store('latencies_us', `vmm_${metric}`, elapsedUs);
    this.#log.info(`'${name}' VMM action took ${elapsedUs} us.`);
  }

  /** Totals the metrics file is computed from. */
  async #counters(): Promise<Totals> {
    const { missedWrites, limitedBytes, bytesWritten, bytesRead } = this.console.counters;
    return {
      logger: { missed_log_count: this.#options.log.missed },
      uart: {
        missed_write_count: missedWrites,
        rate_limiter_dropped_bytes: limitedBytes,
        write_count: bytesWritten,
        read_count: bytesRead,
      },
      ...this.#machine?.network.counters(),
      ...(await this.#machine?.drives.counters().catch(() => ({}))),
    };
  }

  #running(): Machine {
    if (!this.#machine) throw new Fault('Internal VMM error: there is no machine');
    return this.#machine;
  }

  async #stop(exitCode: number): Promise<void> {
    this.#log.info('Vmm is stopping.');
    await this.kill();
    this.#options.onStopped(exitCode);
  }
}
