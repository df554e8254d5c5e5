/** Wires the rooms together into one running banger. */
import { createHash } from 'node:crypto';
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { LoadedConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { createBuildVms } from '../control/builds/build-vms.ts';
import { bootFiles, vmBootFiles } from '../control/bundles/boot-files.ts';
import { createStartChecks } from '../control/checks.ts';
import { createEvents } from '../control/events.ts';
import type { Host, Log } from '../control/host.ts';
import { createNames, type Names } from '../control/network/dns-service.ts';
import { createHostNetwork } from '../control/network/host-network.ts';
import { createOperations } from '../control/operations.ts';
import { recoverStore } from '../control/store/image.ts';
import { createGuestConnections } from '../control/vm/connections.ts';
import { formatSubnet, gatewayOf } from '../core/addresses.ts';
import { ensureClientKey } from '../guest/keys.ts';
import { openCanary } from '../network/canary.ts';
import { GUEST_DNS_PORT } from '../network/nftables.ts';
import { type Database, inTransaction, openDatabase } from '../state/database.ts';
import { createImageStore } from '../state/images.ts';
import { createLayerStore } from '../state/layers.ts';
import { createLedger } from '../state/ledger.ts';
import { createOperationStore } from '../state/operations.ts';
import { createSettings } from '../state/settings.ts';
import { createTrash } from '../state/trash.ts';
import { createVmStore } from '../state/vms.ts';
import { withAdministratorPath } from '../system/host-facts.ts';
import { createPrivileged } from '../system/privilege.ts';
import { type Argv, createRunner } from '../system/runner.ts';
import { createIdleMemory } from './idle-memory.ts';
import { decidePool } from './pool.ts';

export interface Services extends AsyncDisposable {
  host: Host;
  names: Names;
  database: Database;
}

export interface ServiceOptions {
  loaded: LoadedConfig;
  env: NodeJS.ProcessEnv;
  uid: number;
  /** program and leading arguments of banger itself */
  self: Argv;
  log: Log;
}

/** Opens the state and everything that works with it; nothing on the host changes yet. */
export async function createServices({ loaded, env: givenEnv, uid, self, log }: ServiceOptions): Promise<Services> {
  const { config } = loaded;
  await makeDirectories(config);
  const now = () => new Date();
  // ip, nft and mke2fs live where ordinary users do not look
  const env = withAdministratorPath(givenEnv, uid);
  const runner = createRunner(env);
  const privileged = createPrivileged(runner, {
    uid,
    sudo: config.privilege.sudo,
    sudoProgram: config.programs.sudo,
  });
  const database = openDatabase(join(config.paths.state, 'banger.db'));
  const vms = createVmStore(database, (error) => log.error({ error }, 'a listener to VM changes failed'));
  const events = createEvents(now);
  const memory = createIdleMemory();
  vms.onChange(events.vmChanged);
  const images = createImageStore(database);
  const ledger = createLedger(database, now);
  const settings = createSettings(database);
  // a log for people: a power cut may take its last lines, so it need not wait for the disk as the records do
  const operationLog = openDatabase(join(config.paths.state, 'banger.db'), 'relaxed');
  const operationStore = createOperationStore(operationLog);
  operationStore.interruptRunning(now().toISOString());
  await recoverStore({ config, ledger, privileged, log });
  const clientKeyFile = join(config.paths.state, 'ssh', 'id_ed25519');
  const clientKey = await ensureClientKey(clientKeyFile);
  const instance = instanceHash(env);
  const ownRoutes = ledger.all().flatMap(({ resource }) => (resource.kind === 'pool-route' ? [resource.name] : []));
  const vmCount = vms.list().length;
  const { pool, claim } = await decidePool({ config, settings, runner, instance, vmCount, ownRoutes });
  const table = tableName(instance);
  const poolText = formatSubnet(pool);
  const checks = createStartChecks({
    config,
    env,
    uid,
    runner,
    privileged,
    table,
    clientKeyFile,
    self,
    pool: poolText,
    holdsPool: () => claim.hold(),
  });

  const names = createNames({ config, pool, vms, settings: createSettings(operationLog), log });
  const guestDns = config.dns.enabled ? { gateway: gatewayOf(pool), port: GUEST_DNS_PORT } : undefined;
  const onAttach = () => names.linkUp();
  // root hears of rules from the kernel
  const canary = uid === 0 ? undefined : await openCanary();
  const buildVms = createBuildVms(vms, pool);
  const guests = () => [...vms.list(), ...buildVms.list()];

  const host: Host = {
    config,
    uid,
    env,
    log,
    runner,
    privileged,
    atomically: (work) => inTransaction(database, work),
    vms,
    trash: createTrash(database),
    ledger,
    buildVms,
    images,
    layers: createLayerStore(database),
    settings,
    network: createHostNetwork({
      ...{ config, runner, privileged, ledger, guests, pool, uid, table, guestDns, onAttach },
      canary,
    }),
    operations: createOperations(operationStore, now, (operation) => {
      events.operationChanged(operation);
      memory.worked();
    }),
    events,
    health: { silent: new Set() },
    guests: createGuestConnections(clientKey.privateKey),
    clientKey,
    clientKeyFile,
    pool,
    bootFiles: (name) => bootFiles(config, images, name),
    vmBootFiles: (vm) => vmBootFiles(config, images, vm),
    preflightStart: (boot, { vcpus, memoryMib, nat }) =>
      checks.preflight(boot, { vcpus, memoryMib, diskBytes: 0 }, 'vm-start', ...(nat ? (['nat'] as const) : [])),
    doctor: (command) => checks.doctor(() => bootFiles(config, images, undefined), command),
    sudoers: () => checks.sudoers(),
    chooseVmm: checks.chooseVmm,
    now,
  };
  return {
    host,
    names,
    database,
    async [Symbol.asyncDispose]() {
      memory[Symbol.dispose]();
      canary?.[Symbol.dispose]();
      await host.operations.shutdown();
      await host.guests[Symbol.asyncDispose]();
      await names[Symbol.asyncDispose]();
      claim.release(); // the next daemon may be there before this process is gone
      operationLog.close();
      database.close();
    },
  };
}

/** Private ones are for their owner alone: they hold keys, sockets and disks. */
async function makeDirectories({ paths }: Config): Promise<void> {
  for (const directory of [paths.state, paths.run, join(paths.run, 'vmm'), paths.store, paths.cache, paths.bundles]) {
    await mkdir(directory, { recursive: true, mode: 0o700 });
  }
  await chmod(paths.run, 0o700);
}

/** A number for a banger with a home of its own; undefined for the machine's usual one. */
function instanceHash(env: NodeJS.ProcessEnv): number | undefined {
  if (!env.BANGER_HOME) return undefined;
  return createHash('sha256').update(env.BANGER_HOME).digest().readUInt32BE(0);
}

function tableName(instance: number | undefined): string {
  return instance === undefined ? 'banger' : `banger_${instance.toString(16).padStart(8, '0')}`;
}
