/** fcqemu without a process of its own: everything between the API socket and QEMU, a hundred times cheaper. */
import { closeSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { Server } from 'node:net';
import { createApiHandler } from '../../../fcqemu/api/handler.ts';
import { parseArguments } from '../../../fcqemu/argv.ts';
import type { Panic } from '../../../fcqemu/exit-code.ts';
import { serveApi } from '../../../fcqemu/http/server.ts';
import { Log } from '../../../fcqemu/log.ts';
import { Metrics } from '../../../fcqemu/metrics.ts';
import { readSettings } from '../../../fcqemu/settings.ts';
import { configureFromFile, loadMetadata, startConfigured } from '../../../fcqemu/vmm/config-file.ts';
import { Vmm } from '../../../fcqemu/vmm/vmm.ts';

const SIGABRT = 6;

/** Thrown where a process would have aborted. */
export class InstancePanic extends Error {}

export class Instance {
  readonly #vmm: Vmm;
  readonly #directory: string;
  readonly #handler: {
    log: Log;
    metrics: Metrics;
    payloadLimit: number;
    configFile: Buffer | undefined;
    metadata: Buffer | undefined;
  };
  #server: Server | undefined;
  #log = '';
  /** the status the process would have ended with; negative for a signal */
  ended: number | undefined;

  /** Takes the options of the command line that recorded sequences have; the working directory is `directory`. */
  constructor(directory: string, options: readonly string[]) {
    this.#directory = directory;
    const args = parseArguments(options);
    const log = new Log({ write: (bytes) => this.#write(bytes), close: () => {} });
    const metrics = new Metrics();
    const payloadLimit = Number(args.value('http-api-max-payload-size'));
    const instanceId = args.value('id') ?? '';
    log.instanceId = instanceId;
    log.update({
      log_path: args.value('log-path') ?? null,
      level: null,
      show_level: null,
      show_log_origin: null,
      module: null,
    });
    this.#vmm = new Vmm({
      instanceId,
      settings: readSettings({ ...process.env, FCQEMU_ACCEL: 'tcg' }),
      sandbox: true,
      log,
      metrics,
      mmdsLimit: Number(args.value('mmds-size-limit') ?? payloadLimit),
      stdout: { write: (bytes) => bytes.length, close: () => {} },
      bootTimer: args.has('boot-timer'),
      worked: () => {},
      onStopped: (code) => this.#end(code),
    });
    const metricsPath = args.value('metrics-path');
    if (metricsPath !== undefined) this.#vmm.configureMetrics({ metrics_path: metricsPath });
    const read = (flag: string) => (args.has(flag) ? readFileSync(args.value(flag) ?? '') : undefined);
    this.#handler = { log, metrics, payloadLimit, configFile: read('config-file'), metadata: read('metadata') };
  }

  /** Everything that was logged. */
  get log(): string {
    return this.#log;
  }

  /** Serves, with what the files of the options brought. */
  async listen(socket: string): Promise<void> {
    const { log, metrics, payloadLimit, configFile, metadata } = this.#handler;
    const mainLog = log.thread('main', 'vmm');
    if (configFile) {
      await configureFromFile(this.#vmm, configFile, metadata, mainLog);
      await startConfigured(this.#vmm);
    } else loadMetadata(this.#vmm, metadata, mainLog);
    const handler = createApiHandler({
      vmm: this.#vmm,
      log,
      metrics,
      ready: Promise.resolve(),
      worked: () => {},
      onFatal: () => this.#end(1),
      onPanic: (panic) => this.#panic(panic),
    });
    this.#server = await serveApi(socket, payloadLimit, handler);
  }

  /** Ends the guest and lets go of every file below the directory. */
  async close(): Promise<void> {
    this.#server?.close();
    await this.#vmm.kill();
    for (const tap of this.#vmm.resources.interfaces.taps) tap.close();
    for (const name of readdirSync('/proc/self/fd')) {
      try {
        if (readlinkSync(`/proc/self/fd/${name}`).startsWith(`${this.#directory}/`)) closeSync(Number(name));
      } catch {
        // the descriptor that read the list
      }
    }
  }

  #write(bytes: Buffer): number {
    this.#log += bytes.toString('utf8');
    return bytes.length;
  }

  #end(code: number): void {
    this.ended ??= code;
    this.#server?.close();
  }

  #panic({ message }: Panic): never {
    this.#end(-SIGABRT);
    this.#log += `Firecracker panicked at PLACE:\n${message}\n`;
    throw new InstancePanic(message);
  }
}
