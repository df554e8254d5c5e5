/** bangerd: takes the lock, recovers what an earlier one left, serves the API until told to stop. */
import { rm } from 'node:fs/promises';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { FastifyBaseLogger } from 'fastify';
import { loadConfig } from '../config/load.ts';
import { daemonLogFile, pidFile, socketPath } from '../config/paths.ts';
import type { Host } from '../control/host.ts';
import { createStatsSampler } from '../control/stats/vm-stats.ts';
import { createPacketWaker } from '../control/upkeep/packet-waker.ts';
import { createUpkeep } from '../control/upkeep/watch.ts';
import { createWaker } from '../control/vm/awaken.ts';
import { createLife } from '../control/vm/life.ts';
import { createTemporaryVms } from '../control/vm/temporary.ts';
import { createWarmer } from '../control/warm/background.ts';
import { createStandbyPool } from '../control/warm/standby.ts';
import { asBangerError, BangerError, messageOf } from '../errors.ts';
import { MAX_SOCKET_PATH_BYTES } from '../storage/layout.ts';
import { expiry } from '../system/abort.ts';
import { listenOn, takeActivationSocket } from '../system/activation.ts';
import { writeFileAtomic } from '../system/files.ts';
import { identifyProcess } from '../system/processes.ts';
import type { Argv } from '../system/runner.ts';
import { VERSION } from '../version.ts';
import { isStartedBySystemd, refuseClients, startRefused } from './activation.ts';
import { acceptExec } from './exec-upgrade.ts';
import { createIdleEnd, isBusy, neededFor } from './idle.ts';
import { catchStray } from './last-resort.ts';
import { takeDaemonLock } from './lock.ts';
import { createLog, limitDaemonLog } from './log.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { listenForScrapes } from './metrics-listener.ts';
import { isProgramReplaced } from './replaced.ts';
import { bundleHandlers } from './routes/bundles.ts';
import { diskHandlers } from './routes/disks.ts';
import { dnsHandlers } from './routes/dns.ts';
import { eventHandlers } from './routes/events.ts';
import { imageBuildHandlers } from './routes/image-builds.ts';
import { imageHandlers } from './routes/images.ts';
import { leaseHandlers } from './routes/leases.ts';
import { lifeHandlers } from './routes/life.ts';
import { operationHandlers } from './routes/operations.ts';
import { snapshotHandlers } from './routes/snapshots.ts';
import { statsHandlers } from './routes/stats.ts';
import { systemHandlers } from './routes/system.ts';
import { vmHandlers } from './routes/vms.ts';
import { createServer } from './server.ts';
import { createServices, type Services } from './services.ts';
import { takeLockOver } from './take-over.ts';

/** What temporary VMs get to be gone when the daemon stops; the next daemon deletes those that are not. */
const TEMPORARY_LIMIT_MS = 10_000;

/** How often it is looked whether the program was replaced: one read of a link. */
const REPLACED_CHECK_MS = 5000;

/** What last answers get to leave when the daemon stops. */
const FAREWELL_MS = 500;

export interface DaemonOptions {
  env: NodeJS.ProcessEnv;
  /** effective user id */
  uid: number;
  /** program and leading arguments of banger itself */
  self: Argv;
  /** ends the daemon when aborted (SIGTERM, SIGINT) */
  signal: AbortSignal;
}

/** How far a daemon has come. */
interface Start {
  /** socket that systemd opened; without it the daemon makes its own */
  activated: number | undefined;
  /** whether it serves clients: what goes wrong from then on is no refusal to start */
  ready: boolean;
}

/**
 * Runs until `signal` is aborted or a client asks for the end; running VMs stay.
 * @throws BangerError when the daemon cannot start: another one runs, the configuration is wrong, …; `details.startRefused`
 * says that systemd shall not try again by itself
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  process.umask(0o077);
  const bySystemd = isStartedBySystemd(options.env, process.pid);
  const start: Start = { activated: undefined, ready: false };
  let replaced: boolean;
  try {
    start.activated = takeActivationSocket(options.env, process.pid);
    replaced = await run(options, start);
  } catch (error) {
    if (start.ready) throw error;
    if (start.activated !== undefined) await refuseClients(start.activated, asBangerError(error));
    throw bySystemd ? startRefused(error) : error;
  }
  // an end with an error is what systemd starts it again for
  if (replaced)
    throw new BangerError('conflict', 'The program was replaced; the new one goes on.', {
      hint: 'banger daemon status',
    });
}

/** @returns whether it ended because its program was replaced */
async function run({ env, uid, self, signal }: DaemonOptions, start: Start): Promise<boolean> {
  const { activated } = start;
  const loaded = await loadConfig({ env, uid });
  const log = createLog(env.BANGER_LOG);
  // at once: what is undone by an orderly end is undone by the next daemon too
  using _stray = catchStray(log, () => process.exit(1));
  for (const warning of loaded.warnings) log.warn(warning);
  const socket = socketPath(loaded.config.paths);
  requireUsableSocketPath(socket);
  const lockFile = join(loaded.config.paths.state, 'daemon.lock');
  using _lock = activated === undefined ? takeDaemonLock(lockFile) : await takeLockOver(lockFile, socket, log);
  await using services = await createServices({ loaded, env, uid, self, log });
  await using _pid = await leavePid(pidFile(loaded.config.paths), log);
  const replaced = await serve(services, { path: socket, start, self }, log, signal);
  log.info('stopped; running VMs go on');
  return replaced;
}

async function serve(
  { host, sleepDevice, dnsService, ballast }: Services,
  { path: socket, start, self }: { path: string; start: Start; self: Argv },
  log: FastifyBaseLogger,
  signal: AbortSignal,
): Promise<boolean> {
  const { activated } = start;
  const stop = new AbortController();
  const standby = createStandbyPool(host);
  const life = createLife(host, standby);
  const upkeep = createUpkeep(host, life, {
    'the zone': async () => dnsService.refresh(),
    'the log': async () => {
      if (await limitDaemonLog(daemonLogFile(host.config.paths))) log.warn('this log was cut: it had grown too large');
    },
    'the room set aside': async () => {
      if (await ballast.restore()) log.info('room was set aside for when the disk is full');
    },
  });
  const temporary = createTemporaryVms(host, life);
  const warmer = createWarmer(host);
  dnsService.onWanted(createWaker(host, life));
  const packetWaker = sleepDevice === undefined ? undefined : createPacketWaker(host, life, { name: sleepDevice });
  const sampler = createStatsSampler(host);
  using metrics = createMetrics(host, sampler);
  const server = createServer(
    {
      ...vmHandlers(host, life),
      ...leaseHandlers(temporary),
      ...lifeHandlers(host),
      ...operationHandlers(host),
      ...bundleHandlers(host),
      ...dnsHandlers(host, dnsService),
      ...statsHandlers(host, sampler, metrics),
      ...eventHandlers(host),
      ...imageHandlers(host),
      ...imageBuildHandlers(host, life),
      ...diskHandlers(host),
      ...snapshotHandlers(host, life),
      ...systemHandlers(host, dnsService, {
        startedAt: new Date(),
        socketPath: socket,
        commands: () => execConnections.size,
        standby,
        shutdown: () => setImmediate(() => stop.abort()),
      }),
    },
    log,
  );
  const execConnections = acceptExec(server, host, life);

  // before the first client is served: what `banger ls` says must be true from the first answer on
  await upkeep.recover();
  await dnsService.start().catch((error) => log.error({ error: messageOf(error) }, 'names are not answered'));
  if (activated === undefined) {
    await rm(socket, { force: true }); // we hold the lock, so whoever made this file is gone
    await server.listen({ path: socket });
  } else {
    await server.ready();
    await listenOn(server.server, activated);
  }
  start.ready = true;
  await using _scrapes = await openScrapes(host, metrics);
  log.info({ socket, version: VERSION, activated: activated !== undefined }, 'bangerd is ready');

  upkeep.begin();
  standby.begin();
  packetWaker?.begin();
  let replaced = false;
  using _ends =
    activated === undefined
      ? undefined
      : endForSystemd(host, server.server, self, log, (why) => {
          replaced = why === 'replaced';
          stop.abort();
        });
  await aborted(AbortSignal.any([signal, stop.signal]));
  // who comes from now on waits for the next daemon, which systemd starts when this one is gone
  if (activated !== undefined) server.server.close();
  upkeep.close();
  warmer.close();
  await Promise.race([Promise.all([temporary.close(), packetWaker?.close()]), expiry(TEMPORARY_LIMIT_MS)]);
  // actions first: their clients still get to hear how they ended
  await host.operations.shutdown();
  await standby.close();
  life.close();
  for (const connection of execConnections) connection.destroy();
  const closed = server.close();
  // a stream that follows something for ever would hold the server open
  await Promise.race([closed, expiry(FAREWELL_MS)]);
  server.server.closeAllConnections();
  await closed;
  if (activated === undefined) await rm(socket, { force: true });
  return replaced;
}

/** Ends a daemon that systemd starts again: when nothing needs it, and when its program was replaced. */
function endForSystemd(
  host: Host,
  server: Server,
  self: Argv,
  log: FastifyBaseLogger,
  end: (why: 'idle' | 'replaced') => void,
): Disposable {
  const clients = new Set<Socket>();
  const idle = createIdleEnd(
    host.config.daemon.idleTimeoutMs,
    () => neededFor(host, clients.size),
    () => {
      // at once: a client that was let in now would be cut off
      server.close();
      log.info('nothing needs the daemon; the next command starts one');
      end('idle');
    },
  );
  const look = setInterval(() => {
    if (!isProgramReplaced(self) || isBusy(host, clients.size)) return;
    clearInterval(look);
    server.close();
    log.info('the program was replaced; the new one goes on');
    end('replaced');
  }, REPLACED_CHECK_MS).unref();
  server.on('connection', (client: Socket) => {
    idle.used();
    clients.add(client);
    client.once('close', () => clients.delete(client));
  });
  return {
    [Symbol.dispose]() {
      idle[Symbol.dispose]();
      clearInterval(look);
    },
  };
}

/** Says who the daemon is, for those who must not start one by asking. */
async function leavePid(path: string, log: FastifyBaseLogger): Promise<AsyncDisposable> {
  const us = await identifyProcess(process.pid);
  await writeFileAtomic(path, `${process.pid} ${us?.startTicks ?? 0}\n`, 0o600).catch((error) =>
    log.warn({ path, error: messageOf(error) }, 'who the daemon is could not be written down'),
  );
  return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
}

/** Numbers are not worth a daemon: one that cannot serve them over TCP says so and goes on. */
async function openScrapes({ config, log }: Host, metrics: Metrics): Promise<AsyncDisposable | undefined> {
  if (!config.metrics.listen) return undefined;
  try {
    return await listenForScrapes(config.metrics.port, metrics);
  } catch (error) {
    log.error({ error: messageOf(error) }, 'metrics are served on the socket only');
    return undefined;
  }
}

function requireUsableSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) return;
  throw new BangerError(
    'invalid_input',
    `The socket path ${path} is longer than the ${MAX_SOCKET_PATH_BYTES} bytes Linux allows.`,
    {
      hint: 'Choose a shorter directory with BANGER_HOME or BANGER_PATHS_RUN.',
    },
  );
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
