/** bangerd: takes the lock, recovers what an earlier one left, serves the API until told to stop. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import { encodeFrame, FRAME } from '../api/exec-frames.ts';
import { toProblem } from '../api/problem.ts';
import { loadConfig } from '../config/load.ts';
import { daemonLogFile, socketPath } from '../config/paths.ts';
import type { Host } from '../control/host.ts';
import { createStatsSampler } from '../control/stats/vm-stats.ts';
import { createUpkeep } from '../control/upkeep/watch.ts';
import { createLife } from '../control/vm/life.ts';
import { asBangerError, BangerError, messageOf } from '../errors.ts';
import { MAX_SOCKET_PATH_BYTES } from '../storage/layout.ts';
import { expiry } from '../system/abort.ts';
import type { Argv } from '../system/runner.ts';
import { VERSION } from '../version.ts';
import { catchStray } from './last-resort.ts';
import { takeDaemonLock } from './lock.ts';
import { createLog, limitDaemonLog } from './log.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { listenForScrapes } from './metrics-listener.ts';
import { bundleHandlers } from './routes/bundles.ts';
import { diskHandlers } from './routes/disks.ts';
import { dnsHandlers } from './routes/dns.ts';
import { eventHandlers } from './routes/events.ts';
import { imageBuildHandlers } from './routes/image-builds.ts';
import { imageHandlers } from './routes/images.ts';
import { lifeHandlers } from './routes/life.ts';
import { operationHandlers } from './routes/operations.ts';
import { statsHandlers } from './routes/stats.ts';
import { systemHandlers } from './routes/system.ts';
import { serveExec, vmHandlers } from './routes/vms.ts';
import { createServer } from './server.ts';
import { createServices, type Services } from './services.ts';

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

/**
 * Runs until `signal` is aborted or a client asks for the end; running VMs stay.
 * @throws BangerError when the daemon cannot start: another one runs, the configuration is wrong, …
 */
export async function runDaemon({ env, uid, self, signal }: DaemonOptions): Promise<void> {
  process.umask(0o077);
  const loaded = await loadConfig({ env, uid });
  const log = createLog(env.BANGER_LOG);
  // at once: what is undone by an orderly end is undone by the next daemon too
  using _stray = catchStray(log, () => process.exit(1));
  for (const warning of loaded.warnings) log.warn(warning);
  const socket = socketPath(loaded.config.paths);
  requireUsableSocketPath(socket);
  using _lock = takeDaemonLock(join(loaded.config.paths.state, 'daemon.lock'));
  await using services = await createServices({ loaded, env, uid, self, log });
  await serve(services, socket, log, signal);
  log.info('stopped; running VMs go on');
}

async function serve(
  { host, names, ballast }: Services,
  socket: string,
  log: FastifyBaseLogger,
  signal: AbortSignal,
): Promise<void> {
  const stop = new AbortController();
  const life = createLife(host);
  const upkeep = createUpkeep(host, life, {
    'the zone': async () => names.refresh(),
    'the log': async () => {
      if (await limitDaemonLog(daemonLogFile(host.config.paths))) log.warn('this log was cut: it had grown too large');
    },
    'the room set aside': async () => {
      if (await ballast.restore()) log.info('room was set aside for when the disk is full');
    },
  });
  const sampler = createStatsSampler(host);
  using metrics = createMetrics(host, sampler);
  const server = createServer(
    {
      ...vmHandlers(host, life),
      ...lifeHandlers(host),
      ...operationHandlers(host),
      ...bundleHandlers(host),
      ...dnsHandlers(host, names),
      ...statsHandlers(host, sampler, metrics),
      ...eventHandlers(host),
      ...imageHandlers(host),
      ...imageBuildHandlers(host, life),
      ...diskHandlers(host),
      ...systemHandlers(host, names, {
        startedAt: new Date(),
        socketPath: socket,
        shutdown: () => setImmediate(() => stop.abort()),
      }),
    },
    log,
  );
  const execConnections = acceptExec(server, host);

  // before the first client is served: what `banger ls` says must be true from the first answer on
  await upkeep.recover();
  await names.start().catch((error) => log.error({ error: messageOf(error) }, 'names are not answered'));
  await rm(socket, { force: true }); // we hold the lock, so whoever made this file is gone
  await server.listen({ path: socket });
  await using _scrapes = await openScrapes(host, metrics);
  log.info({ socket, version: VERSION }, 'bangerd is ready');

  upkeep.begin();
  await aborted(AbortSignal.any([signal, stop.signal]));
  upkeep.close();
  // actions first: their clients still get to hear how they ended
  await host.operations.shutdown();
  life.close();
  for (const connection of execConnections) connection.destroy();
  const closed = server.close();
  // a stream that follows something for ever would hold the server open
  await Promise.race([closed, expiry(FAREWELL_MS)]);
  server.server.closeAllConnections();
  await closed;
  await rm(socket, { force: true });
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

/** Exec needs a raw stream both ways: an upgraded connection, outside of fastify's request life. */
function acceptExec(server: FastifyInstance, host: Host): ReadonlySet<Duplex> {
  // upgraded connections are no longer the server's own: its close() would wait for them for ever
  const open = new Set<Duplex>();
  server.server.on('upgrade', (request, socket: Duplex, head: Buffer) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    socket.on('error', () => {}); // a client that goes away; 'close' follows
    const name = vmOfExec(request.url ?? '');
    if (name === undefined || request.headers.upgrade !== 'banger-exec') {
      refuseUpgrade(socket, new BangerError('not_found', `Nothing to upgrade to at ${request.url}.`));
      return;
    }
    try {
      host.stores.vms.get(name);
    } catch (error) {
      refuseUpgrade(socket, asBangerError(error));
      return;
    }
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-exec\r\n\r\n');
    serveExec(host, name, socket, head).catch((error) => {
      host.log.warn({ vm: name, error: messageOf(error) }, 'exec failed');
      socket.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(asBangerError(error)))));
    });
  });
  return open;
}

/** The VM an exec request is for; undefined when the address is another one or cannot be decoded. */
function vmOfExec(url: string): string | undefined {
  const encoded = /^\/v1\/vms\/([^/?]+)\/exec$/.exec(url)?.[1];
  try {
    return encoded === undefined ? undefined : decodeURIComponent(encoded);
  } catch {
    return undefined;
  }
}

function refuseUpgrade(socket: Duplex, error: BangerError): void {
  const body = JSON.stringify(toProblem(error));
  socket.end(
    `HTTP/1.1 ${error.httpStatus} Refused\r\nContent-Type: application/problem+json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
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
