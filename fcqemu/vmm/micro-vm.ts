/** A machine that was started: its QEMU process, and what the API may do to it. */

import type { ThreadLog } from '../log.ts';
import { createLogLimit } from '../log-limit.ts';
import type { Metrics } from '../metrics.ts';
import { type InheritedFiles, type QemuEnd, type QemuProcess, startQemu } from '../qemu/process.ts';
import { NO_TIMEOUT, Qmp, type QmpEvent } from '../qemu/qmp.ts';
import type { Settings } from '../settings.ts';
import { guestErrorKind } from './boot-timer.ts';

export interface MicroVmOptions {
  settings: Settings;
  args: string[];
  files: InheritedFiles;
  log: ThreadLog;
  metrics: Pick<Metrics, 'count'>;
  /** the guest asked for a reset, which ends a microVM */
  onReset: () => void;
  /** the guest wrote to the boot timer; without one QEMU does not tell */
  onBootTimer?: ((qemuPid: number) => void) | undefined;
  /** QEMU ended and nobody had asked it to */
  onDeath: (end: QemuEnd) => void;
}

export class MicroVm {
  readonly #process: QemuProcess;
  readonly #qmp: Qmp;
  readonly #log: ThreadLog;
  readonly #onReset: () => void;
  #ending = false;
  /** the guest powered off: its CPUs stand still, but the microVM exists until someone ends it */
  #halted = false;
  #paused = true;
  /** Ctrl-Alt-Del was pressed while the guest stood still */
  #keysPending = false;
  /** e.g. `7.2.22` */
  qemuVersion = '';
  readonly #incoming = Promise.withResolvers<void>();

  private constructor(process: QemuProcess, { log, onReset, onDeath }: MicroVmOptions) {
    this.#process = process;
    this.#log = log;
    this.#onReset = onReset;
    this.#qmp = new Qmp(process.qmp, (event) => this.#handle(event));
    void process.ended.then((end) => {
      if (!this.#ending) onDeath(end);
    });
    // only a restore waits for it
    this.#incoming.promise.catch(() => {});
  }

  /**
   * Starts QEMU with the guest's CPUs stopped.
   * @throws Error with QEMU's own last words when it refuses
   */
  static async create(options: MicroVmOptions): Promise<MicroVm> {
    const { settings, args, files, log, metrics } = options;
    // QEMU complains of each mistake of a guest's drivers
    const limited = createLogLimit(log, metrics);
    const onLine = (line: string) => {
      const kind = options.onBootTimer && guestErrorKind(line);
      if (kind === 'boot') options.onBootTimer?.(process.pid);
      else if (kind !== 'other') limited(() => log.warn(`QEMU: ${line}`));
    };
    const process = await startQemu(settings.qemu, args, settings.env, onLine, files);
    let started = false;
    const vm = new MicroVm(process, { ...options, onDeath: (end) => started && options.onDeath(end) });
    try {
      vm.qemuVersion = await vm.#qmp.connect();
    } catch {
      process.kill();
      const end = await process.ended;
      throw new Error(end.lastLine ?? `QEMU ${end.how}`);
    }
    started = true;
    return vm;
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** The guest's serial port. */
  get console(): QemuProcess['console'] {
    return this.#process.console;
  }

  /** The port of an agent in the guest. */
  get vsock(): QemuProcess['vsock'] {
    return this.#process.vsock;
  }

  /** Where QEMU asks for random bytes, when the entropy device is limited. */
  get entropy(): QemuProcess['entropy'] {
    return this.#process.entropy;
  }

  /** Waits as long as QEMU takes: what is said of the guest has to be true. @throws QmpError */
  async resume(): Promise<void> {
    if (!this.#halted) await this.#qmp.execute('cont', undefined, NO_TIMEOUT);
    this.#paused = false;
    if (!this.#keysPending) return;
    this.#keysPending = false;
    await this.sendCtrlAltDel();
  }

  /** Waits as long as QEMU takes, which first has its disks finish what they are at. @throws QmpError */
  async pause(): Promise<void> {
    if (!this.#halted) await this.#qmp.execute('stop', undefined, NO_TIMEOUT);
    this.#paused = true;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** Starts the guest over, as if it had never run; a reset of its own would end the machine. @throws QmpError */
  async reset(): Promise<void> {
    await this.#qmp.execute('set-action', { reboot: 'reset' });
    await this.#qmp.execute('system_reset');
    await this.#qmp.execute('set-action', { reboot: 'shutdown' });
  }

  /** Presses and releases Ctrl-Alt-Del; the guest's keyboard driver decides what comes of it. */
  async sendCtrlAltDel(): Promise<void> {
    if (this.#paused) {
      // QEMU would forget it: a paused guest gets it when it goes on
      this.#keysPending = true;
      return;
    }
    const keys = ['ctrl', 'alt', 'delete'].map((data) => ({ type: 'qcode', data }));
    await this.#qmp.execute('send-key', { keys });
  }

  /** Any QMP command, for devices. @throws QmpError */
  execute<T = unknown>(command: string, args?: Record<string, unknown>): Promise<T> {
    return this.#qmp.execute<T>(command, args);
  }

  /** The guest powered off before. */
  get halted(): boolean {
    return this.#halted;
  }

  /** Of a restored machine whose guest had powered off. */
  markHalted(): void {
    this.#halted = true;
  }

  /** Resolves when a state that was being loaded is complete. @throws Error when QEMU rejects it */
  async incomingEnd(): Promise<void> {
    await Promise.race([
      this.#incoming.promise,
      this.#process.ended.then((end) => {
        throw new Error(end.lastLine ?? `QEMU ${end.how}`);
      }),
    ]);
  }

  /** Kills QEMU and waits until it is gone. */
  async end(): Promise<void> {
    this.#ending = true;
    this.#process.kill();
    await this.#process.ended;
  }

  #handle({ event, data }: QmpEvent): void {
    if (event === 'MIGRATION' && data?.status === 'completed') this.#incoming.resolve();
    if (event === 'MIGRATION' && data?.status === 'failed') {
      this.#incoming.reject(new Error('QEMU rejected the device state'));
    }
    if (event !== 'SHUTDOWN') return;
    const reason = data?.reason;
    if (reason === 'guest-reset') {
      this.#onReset();
    } else if (reason === 'guest-shutdown') {
      this.#halted = true;
      this.#log.info('The guest powered off; its CPUs are halted.');
    } else {
      this.#log.warn(`QEMU reports a shutdown: ${String(reason)}.`);
    }
  }
}
