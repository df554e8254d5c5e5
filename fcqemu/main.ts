/** The fcqemu process: flags, log, signals, API socket, and how it ends. */
import { readFileSync } from 'node:fs';
import { parseLevel } from './api/bodies.ts';
import { createApiHandler } from './api/handler.ts';
import { ArgumentError, type Arguments, helpText, instanceIdProblem, parseArguments, VERSION } from './argv.ts';
import { EXIT, Exit, Panic } from './exit-code.ts';
import { errorCode, Fault, ioErrorText } from './fault.ts';
import { serveApi } from './http/server.ts';
import { createIdleMemory } from './idle-memory.ts';
import { debugText } from './json/scanner.ts';
import { type Libc, loadLibc } from './libc.ts';
import { Log } from './log.ts';
import { Metrics } from './metrics.ts';
import { readSettings } from './settings.ts';
import { handleSignals } from './signals.ts';
import { stdoutSink } from './sink.ts';
import { bootFromConfigFile, loadMetadata } from './vmm/config-file.ts';
import { readSnapshotFile, SNAPSHOT_VERSION } from './vmm/snapshot-file.ts';
import { Vmm } from './vmm/vmm.ts';

/** Runs until the process ends; `argv` is without the interpreter and the program. */
export async function main(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const stdout = stdoutSink();
  const log = new Log(stdout);
  const metrics = new Metrics();
  const mainLog = log.thread('main', 'firecracker');

  async function finish(code: number): Promise<never> {
    await metrics.flush();
    if (code === EXIT.ok) mainLog.info('Firecracker exiting successfully. exit_code=0');
    else mainLog.error(`Firecracker exiting with error. exit_code=${code}`);
    process.exit(code);
  }

  try {
    const args = parseArguments(argv);
    const text = await informationText(args);
    if (text !== undefined) {
      stdout.write(Buffer.from(text));
      return await finish(EXIT.ok);
    }
    refuseUnsupported(args);
    const instanceId = args.value('id') ?? '';
    const problem = instanceIdProblem(instanceId);
    if (problem) throw new Panic(`Invalid instance ID: ${problem}`);
    log.instanceId = instanceId;
    configureLog(log, args);
    mainLog.info(`Running Firecracker v${VERSION}`);

    const payloadLimit = numberOf(args, 'http-api-max-payload-size', 'usize') ?? 0;
    let libc: Libc | undefined;
    const worked = createIdleMemory(() => libc?.giveBack());
    const vmm = new Vmm({
      instanceId,
      settings: readSettings(env),
      sandbox: !args.has('no-seccomp'),
      log,
      metrics,
      mmdsLimit: numberOf(args, 'mmds-size-limit', 'usize') ?? payloadLimit,
      stdout,
      bootTimer: args.has('boot-timer'),
      worked,
      onStopped: (code) => void finish(code),
    });
    handleSignals(vmm, metrics, mainLog);
    configureMetrics(vmm, args);
    storeStartupTimes(metrics, args);
    if (args.has('boot-timer')) mainLog.warn('The boot timer of fcqemu takes any byte the guest writes to it.');
    const configFile = readFileNamedBy(args, 'config-file', 'configuration file');
    const metadata = readFileNamedBy(args, 'metadata', 'mmds content file');
    const ready = Promise.withResolvers<void>();
    const apiSocket = args.has('no-api') ? undefined : (args.value('api-sock') ?? '');
    if (apiSocket !== undefined) await listen(apiSocket, payloadLimit, vmm, ready.promise, worked);
    libc = await loadLibc();
    if (configFile)
      await bootFromFile(vmm, configFile, metadata, apiSocket === undefined ? 'RunWithoutApiError' : 'RunWithApiError');
    else if (metadata) {
      populateMetadata(vmm, metadata);
      mainLog.info('Successfully added metadata to mmds from file');
    }
    ready.resolve();
  } catch (error) {
    if (error instanceof Panic) {
      mainLog.error(`Firecracker panicked at fcqemu: ${error.message}`);
      process.abort();
    }
    const { code, message, debug } = describeFailure(error);
    mainLog.error(message);
    process.stderr.write(`Error: ${debug}\n`);
    await finish(code);
  }

  async function bootFromFile(vmm: Vmm, config: Buffer, metadata: Buffer | undefined, mode: string): Promise<void> {
    try {
      await bootFromConfigFile(vmm, config, metadata);
    } catch (error) {
      if (error instanceof Panic) throw error;
      const cause = error instanceof Error ? error.message : String(error);
      throw new Exit(EXIT.generic, `${mode} error: Failed to build MicroVM from Json: ${cause}`);
    }
    mainLog.info('Successfully started microvm that was configured from one single json');
  }

  async function listen(
    path: string,
    payloadLimit: number,
    vmm: Vmm,
    ready: Promise<void>,
    worked: (bytes: number) => void,
  ): Promise<void> {
    const handler = createApiHandler({ vmm, log, metrics, ready, worked, onFatal: (code) => void finish(code) });
    try {
      await serveApi(path, payloadLimit, handler);
    } catch (error) {
      const reason =
        errorCode(error) === 'EADDRINUSE'
          ? `Failed to open the API socket at: ${path}. Check that it is not already used.`
          : `Failed to open the API socket: IO error: ${ioErrorText(error)}`;
      throw new Exit(EXIT.generic, `RunWithApiError error: ${reason}`);
    }
    mainLog.info(`Listening on API socket (${debugText(path)}).`);
    log.thread('fc_api', 'firecracker::api_server').info('API server started.');
  }
}

/** What the flags print that only ask for information. */
async function informationText(args: Arguments): Promise<string | undefined> {
  if (args.has('help')) return `Firecracker v${VERSION}\n\n${helpText()}\n`;
  if (args.has('version')) return `Firecracker v${VERSION}\n\n`;
  if (args.has('snapshot-version')) return `v${SNAPSHOT_VERSION}\n`;
  const snapshot = args.value('describe-snapshot');
  if (snapshot === undefined) return undefined;
  try {
    return `v${(await readSnapshotFile(snapshot)).header.version}\n`;
  } catch (error) {
    const cause = error instanceof Error ? error.message : String(error);
    throw new Exit(EXIT.generic, `When printing Snapshot Data format: Unable to open snapshot state file: ${cause}`);
  }
}

function refuseUnsupported(args: Arguments): void {
  for (const flag of ['enable-pci', 'seccomp-filter']) {
    if (args.has(flag)) {
      throw new ArgumentError('Unsupported', [flag], `The argument '${flag}' is not supported by fcqemu.`);
    }
  }
}

function configureLog(log: Log, args: Arguments): void {
  const levelText = args.value('level');
  const level = levelText === undefined ? null : parseLevel(levelText);
  if (level === undefined) {
    throw new Exit(
      EXIT.badConfiguration,
      `Invalid value for logger level: Failed to parse string to level filter: ${levelText}.` +
        'Possible values: [Error, Warning, Info, Debug]',
    );
  }
  try {
    log.update({
      log_path: args.value('log-path') ?? null,
      level,
      show_level: args.has('show-level') || null,
      show_log_origin: args.has('show-log-origin') || null,
      module: args.value('module') ?? null,
    });
  } catch (error) {
    throw new Exit(EXIT.generic, `Could not initialize logger: Failed to open target file: ${ioErrorText(error)}`);
  }
}

function configureMetrics(vmm: Vmm, args: Arguments): void {
  const path = args.value('metrics-path');
  if (path === undefined) return;
  try {
    vmm.configureMetrics({ metrics_path: path, emit_id: false, properties: null });
  } catch (error) {
    const text = error instanceof Fault ? error.message.replace(/^Metrics error: /, '') : String(error);
    throw new Exit(EXIT.generic, `Could not initialize metrics: ${text}`);
  }
}

/** Times since the jailer started us, when it told; otherwise since Node did. */
function storeStartupTimes(metrics: Metrics, args: Arguments): void {
  const startUs = numberOf(args, 'start-time-us', 'u64');
  const startCpuUs = numberOf(args, 'start-time-cpu-us', 'u64') ?? 0;
  const parentCpuUs = numberOf(args, 'parent-cpu-time-us', 'u64') ?? 0;
  const nowUs = Number(process.hrtime.bigint() / 1000n);
  const { user, system } = process.cpuUsage();
  metrics.store(
    'api_server',
    'process_startup_time_us',
    startUs === undefined ? Math.round(performance.now() * 1000) : nowUs - startUs,
  );
  metrics.store('api_server', 'process_startup_time_cpu_us', user + system - startCpuUs + parentCpuUs);
}

function numberOf(args: Arguments, flag: string, type: string): number | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  if (!/^\+?\d+$/.test(text)) throw new Panic(`'${flag}' parameter expected to be of '${type}' type.: ParseIntError`);
  return Number(text);
}

/** The store may be smaller than the file. */
function populateMetadata(vmm: Vmm, metadata: Buffer): void {
  try {
    loadMetadata(vmm, metadata);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    const cause = error.message.replace(/^MMDS limit exceeded error: /, '');
    throw new Exit(
      EXIT.generic,
      `RunWithApiError error: Failed to build MicroVM: Populating MMDS from file failed: ${cause}`,
    );
  }
}

function describeFailure(error: unknown): { code: number; message: string; debug: string } {
  if (error instanceof ArgumentError) {
    return {
      code: EXIT.argumentParsing,
      message: `Arguments parsing error: ${error.message} \n\nFor more information try --help.`,
      debug: `ParseArguments(${error.debug})`,
    };
  }
  if (error instanceof Exit) return { code: error.code, message: error.message, debug: error.message };
  const message = error instanceof Error ? error.message : String(error);
  return { code: EXIT.generic, message, debug: message };
}

/** The content of a file an argument names; Firecracker panics when it cannot be read. */
function readFileNamedBy(args: Arguments, flag: string, what: string): Buffer | undefined {
  const path = args.value(flag);
  if (path === undefined) return undefined;
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Panic(`Unable to open or read from the ${what}: ${ioErrorText(error)}`);
  }
}
