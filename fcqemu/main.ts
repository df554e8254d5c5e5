/** The fcqemu process: flags, log, signals, API socket, and how it ends. */
import { isUtf8 } from 'node:buffer';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { parseLevel } from './api/bodies.ts';
import { createApiHandler } from './api/handler.ts';
import { ArgumentError, type Arguments, helpText, instanceIdProblem, parseArguments, VERSION } from './argv.ts';
import { EXIT, Exit, Panic } from './exit-code.ts';
import { describeFailure, type Mode, placeOf, WITH_API, WITHOUT_API } from './failures.ts';
import { errorCode, Fault, InvalidData, ioErrorDebug, ioErrorText } from './fault.ts';
import { type Handler, serveApi } from './http/server.ts';
import { createIdleMemory } from './idle-memory.ts';
import { debugText } from './json/scanner.ts';
import { type Libc, loadLibc } from './libc.ts';
import { Log, type ThreadLog } from './log.ts';
import { Metrics } from './metrics.ts';
import { readSettings } from './settings.ts';
import { handleSignals } from './signals.ts';
import { stdoutSink } from './sink.ts';
import { ConfigFileError, configureFromFile, loadMetadata, startConfigured } from './vmm/config-file.ts';
import { readSnapshotFile, SNAPSHOT_VERSION, SnapshotFileError } from './vmm/snapshot-file.ts';
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

  async function fail(error: unknown): Promise<never> {
    if (error instanceof Panic) panic(error);
    const { code, message, debug } = describeFailure(error);
    mainLog.error(message);
    process.stderr.write(`Error: ${debug}\n`);
    return await finish(code);
  }

  /** As a Rust panic ends Firecracker: with a line in the log, and by SIGABRT. */
  function panic(error: Error): never {
    mainLog.error(`Firecracker panicked at ${placeOf(error)}:\n${error.message}`);
    metrics.store('vmm', 'panic_count', 1);
    metrics.writeNow();
    process.kill(process.pid, 'SIGABRT');
    throw error;
  }

  process.on('uncaughtException', panic);
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
    const mode: Mode = args.has('no-api') ? WITHOUT_API : WITH_API;

    let libc: Libc | undefined;
    const worked = createIdleMemory(() => libc?.giveBack());
    const vmm = new Vmm({
      instanceId,
      settings: readSettings(env),
      sandbox: !args.has('no-seccomp'),
      log,
      metrics,
      mmdsLimit: 0,
      stdout,
      bootTimer: args.has('boot-timer'),
      worked,
      onStopped: (code) => void (code === EXIT.ok ? finish(code) : fail(mode.stopped(code))),
    });
    handleSignals(vmm, metrics, mainLog);
    configureMetrics(vmm, args);
    checkSeccompFilter(args);
    if (args.has('boot-timer')) mainLog.debug('The boot timer of fcqemu takes any byte the guest writes to it.');
    const configFile = readFileNamedBy(args, 'config-file', 'configuration file');
    const metadata = readFileNamedBy(args, 'metadata', 'mmds content file');
    const payloadLimit = numberOf(args, 'http-api-max-payload-size', 'usize') ?? 0;
    vmm.resources.mmds.limitBytes = numberOf(args, 'mmds-size-limit', 'usize') ?? payloadLimit;
    const ready = Promise.withResolvers<void>();
    if (mode === WITH_API) {
      storeStartupTimes(metrics, args);
      const onFatal = (what: 'Restore' | 'Resume') => void fail(WITH_API.restoreFailed(what));
      const handler = createApiHandler({ vmm, log, metrics, ready: ready.promise, worked, onFatal, onPanic: panic });
      const path = args.value('api-sock') ?? '';
      await bindApi(path, payloadLimit, handler);
      mainLog.info(`Listening on API socket (${debugText(path)}).`);
    }
    const apiStarted = () => {
      if (mode === WITH_API) log.thread('fc_api', 'firecracker::api_server').info('API server started.');
    };
    if (configFile) await bootFromFile(vmm, mode, configFile, metadata, mainLog, apiStarted);
    else populateMetadata(vmm, metadata, mainLog, apiStarted);
    libc = await loadLibc();
    ready.resolve();
  } catch (error) {
    await fail(error);
  }
}

async function bootFromFile(
  vmm: Vmm,
  mode: Mode,
  config: Buffer,
  metadata: Buffer | undefined,
  log: ThreadLog,
  apiStarted: () => void,
): Promise<void> {
  try {
    try {
      await configureFromFile(vmm, config, metadata, log);
    } finally {
      apiStarted();
    }
    await startConfigured(vmm);
  } catch (error) {
    throw error instanceof ConfigFileError ? mode.configFailed(error) : error;
  }
  log.info('Successfully started microvm that was configured from one single json');
}

/** The store may be smaller than the file. */
function populateMetadata(vmm: Vmm, metadata: Buffer | undefined, log: ThreadLog, apiStarted: () => void): void {
  try {
    loadMetadata(vmm, metadata, log);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    apiStarted();
    throw WITH_API.metadataFailed(error);
  }
  apiStarted();
}

async function bindApi(path: string, payloadLimit: number, handler: Handler): Promise<void> {
  try {
    await serveApi(path, payloadLimit, handler);
  } catch (error) {
    const isTaken = errorCode(error) === 'EADDRINUSE';
    const reason = isTaken
      ? `Failed to open the API socket at: ${path}. Check that it is not already used.`
      : `Failed to bind and run the HTTP server: IO error: ${ioErrorText(error)}`;
    const debug = isTaken
      ? `FailedToBindSocket(${debugText(path)})`
      : `FailedToBindAndRunHttpServer(IOError(${ioErrorDebug(error)}))`;
    throw new Exit(EXIT.generic, `RunWithApiError error: ${reason}`, `RunWithApi(${debug})`);
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
    const isOpen = !(error instanceof SnapshotFileError);
    const cause = isOpen
      ? `Unable to open snapshot state file: ${ioErrorText(error)}`
      : `Invalid data format version of snapshot file: ${error.message}`;
    const debug = isOpen ? `OpenSnapshot(${ioErrorDebug(error)})` : `SnapshotVersion(${error.debug})`;
    const message = `When printing Snapshot Data format: ${cause}`;
    throw new Exit(EXIT.generic, message, `PrintSnapshotDataFormat(${debug})`);
  }
}

function refuseUnsupported(args: Arguments): void {
  if (!args.has('enable-pci')) return;
  throw new ArgumentError('Unsupported', ['enable-pci'], "The argument 'enable-pci' is not supported by fcqemu.");
}

/** What Firecracker would not find is told first. */
function checkSeccompFilter(args: Arguments): void {
  const path = args.value('seccomp-filter');
  if (path === undefined) return;
  try {
    closeSync(openSync(path, 'r'));
  } catch (error) {
    const message = `Seccomp error: Filter file open error: ${ioErrorText(error)}`;
    throw new Exit(EXIT.generic, message, `SeccompFilter(FileOpen(${ioErrorDebug(error)}))`);
  }
  throw new ArgumentError(
    'Unsupported',
    ['seccomp-filter'],
    "The argument 'seccomp-filter' is not supported by fcqemu.",
  );
}

function configureLog(log: Log, args: Arguments): void {
  const levelText = args.value('level');
  const level = levelText === undefined ? null : parseLevel(levelText);
  if (level === undefined) {
    throw new Exit(
      EXIT.badConfiguration,
      `Invalid value for logger level: Failed to parse string to level filter: ${levelText}.` +
        'Possible values: [Error, Warning, Info, Debug]',
      `InvalidLogLevel(LevelFilterFromStrError(${debugText(levelText ?? '')}))`,
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
    throw new Exit(
      EXIT.generic,
      `Could not initialize logger: Failed to open target file: ${ioErrorText(error)}`,
      `LoggerInitialization(LoggerUpdateError(${ioErrorDebug(error)}))`,
    );
  }
}

function configureMetrics(vmm: Vmm, args: Arguments): void {
  const path = args.value('metrics-path');
  if (path === undefined) return;
  try {
    vmm.configureMetrics({ metrics_path: path });
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    const text = error.message.replace(/^Metrics error: /, '');
    throw new Exit(EXIT.generic, `Could not initialize metrics: ${text}`, `MetricsInitialization(${error.debug})`);
  }
}

/** Times since whoever started us did so, when he told. */
function storeStartupTimes(metrics: Metrics, args: Arguments): void {
  const startUs = numberOf(args, 'start-time-us', 'u64');
  const startCpuUs = numberOf(args, 'start-time-cpu-us', 'u64');
  const parentCpuUs = numberOf(args, 'parent-cpu-time-us', 'u64') ?? 0;
  if (startUs !== undefined) {
    const nowUs = Number(process.hrtime.bigint() / 1000n);
    metrics.store('api_server', 'process_startup_time_us', nowUs - startUs);
  }
  if (startCpuUs === undefined) return;
  const { user, system } = process.cpuUsage();
  metrics.store('api_server', 'process_startup_time_cpu_us', user + system - startCpuUs + parentCpuUs);
}

const MAX_U64 = 2n ** 64n - 1n;

function numberOf(args: Arguments, flag: string, type: string): number | undefined {
  const text = args.value(flag);
  if (text === undefined) return undefined;
  const problem =
    text === ''
      ? 'Empty'
      : !/^\+?\d+$/.test(text)
        ? 'InvalidDigit'
        : BigInt(text) > MAX_U64
          ? 'PosOverflow'
          : undefined;
  if (problem === undefined) return Number(text);
  throw new Panic(`'${flag}' parameter expected to be of '${type}' type.: ParseIntError { kind: ${problem} }`);
}

/** The content of a file an argument names; Firecracker panics when it cannot be read. */
function readFileNamedBy(args: Arguments, flag: string, what: string): Buffer | undefined {
  const path = args.value(flag);
  if (path === undefined) return undefined;
  try {
    const content = readFileSync(path);
    if (!isUtf8(content)) throw new InvalidData('stream did not contain valid UTF-8');
    return content;
  } catch (error) {
    throw new Panic(`Unable to open or read from the ${what}: ${ioErrorDebug(error)}`);
  }
}
