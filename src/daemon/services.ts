/** Wires the rooms together into one running banger. */
import { createHash } from 'node:crypto';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import type { LoadedConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { findVmUsers } from '../config/vm-users.ts';
import { type Checks, createChecks } from '../control/checks.ts';
import { createEvents } from '../control/events.ts';
import type { Host, Log } from '../control/host.ts';
import { createDnsService, type DnsService } from '../control/network/dns-service.ts';
import { createHostNetwork } from '../control/network/host-network.ts';
import { createOperations } from '../control/operations.ts';
import { recoverStore } from '../control/store/image.ts';
import { createAgents } from '../control/vm/agents.ts';
import { createGuests } from '../control/vm/connections.ts';
import { viewTemplates } from '../control/warm/view.ts';
import { formatSubnet, gatewayOf } from '../core/addresses.ts';
import { sleepDeviceName } from '../core/network-names.ts';
import { messageOf } from '../errors.ts';
import { ensureClientKey } from '../guest/keys.ts';
import { openCanary } from '../network/canary.ts';
import { chooseWay, createHelperPort, mayAskHelper } from '../network/helper-client.ts';
import { GUEST_DNS_PORT } from '../network/nftables.ts';
import { createLocalPort } from '../network/port.ts';
import type { PoolHolder } from '../preflight/context.ts';
import { type Ballast, createBallast } from '../state/ballast.ts';
import { type Database, openDatabase } from '../state/database.ts';
import { createOperationStore } from '../state/operations.ts';
import { createSettings } from '../state/settings.ts';
import { createStores } from '../state/stores.ts';
import { findCgroupHome } from '../system/cgroup.ts';
import { ensurePrivateDirectory } from '../system/files.ts';
import { groupOfDevice, KVM_DEVICE, withAdministratorPath } from '../system/host-facts.ts';
import { createRights } from '../system/privilege.ts';
import { type Argv, createRunner } from '../system/runner.ts';
import { createIdleMemory } from './idle-memory.ts';
import { decideInstance } from './instance.ts';
import { decidePool, isStranger, type PoolClaim } from './pool.ts';

export interface Services extends AsyncDisposable {
  host: Host;
  /** name of the device that VMs which are asleep are routed to; absent where none can be made */
  sleepDevice: string | undefined;
  dnsService: DnsService;
  database: Database;
  ballast: Ballast;
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
  const rights = createRights(runner, {
    uid,
    sudo: config.privilege.sudo,
    sudoProgram: config.programs.sudo,
    kvmGroup: () => groupOfDevice(KVM_DEVICE),
  });
  const privileged = rights.root;
  const databaseFile = join(config.paths.state, 'banger.db');
  const ballast = createBallast(`${databaseFile}.ballast`);
  const database = openDatabase(databaseFile, 'durable', ballast);
  const stores = createStores(database, {
    now,
    onListenerError: (error) => log.error({ error }, 'a listener to VM changes failed'),
  });
  const { vms, ledger, settings } = stores;
  const instance = await decideInstance({ home: env.BANGER_HOME, uid, state: config.paths.state, settings, ledger });
  const { table } = instance;
  const cgroups = await findCgroupHome(uid, table);
  const system = { runner, privileged, uid, env, vmUsers: await findVmUsers(config, uid), cgroups };
  const events = createEvents(now);
  const memory = createIdleMemory();
  vms.onChange(events.vmChanged);
  // a log for people: a power cut may take its last lines, so it need not wait for the disk as the records do
  const operationLog = openDatabase(databaseFile, 'relaxed');
  const operationStore = createOperationStore(operationLog);
  try {
    operationStore.interruptRunning(now().toISOString());
  } catch (error) {
    log.error({ error: messageOf(error) }, 'operations that were cut off could not be recorded as such');
  }
  await recoverStore({ config, stores, system, log });
  const clientKeyFile = join(config.paths.state, 'ssh', 'id_ed25519');
  const clientKey = await ensureClientKey(clientKeyFile);
  const ownRoutes = ledger.all().flatMap(({ resource }) => (resource.kind === 'pool-route' ? [resource.name] : []));
  const vmCount = vms.list().length;
  const { pool, claim } = await decidePool({ config, settings, runner, instance: instance.number, vmCount, ownRoutes });
  const poolText = formatSubnet(pool);
  const checks: Checks = createChecks({
    config,
    env,
    uid,
    runner,
    rights,
    vmUsers: system.vmUsers,
    cgroups,
    table,
    clientKeyFile,
    self,
    pool: poolText,
    poolHolder: () => holderOf(claim),
    ownLinks: () =>
      ledger.all().flatMap(({ resource: { kind, name } }) => (kind === 'tap' || kind === 'pool-route' ? [name] : [])),
    templates: () => viewTemplates({ config, stores, system, checks }),
  });

  const dnsService = createDnsService({ config, pool, vms, settings: createSettings(operationLog), log });
  const guestDns = config.dns.enabled ? { gateway: gatewayOf(pool), port: GUEST_DNS_PORT } : undefined;
  const onAttach = () => dnsService.linkUp();
  // root hears of rules from the kernel
  const canary = uid === 0 ? undefined : await openCanary();
  const local = createLocalPort({ privileged: rights.network, programs: config.programs, atOnce: uid === 0 });
  const { helper } = config.privilege;
  const port =
    uid === 0
      ? local
      : chooseWay(createHelperPort(helper, { instance: instance.name, pool: poolText }), local, () =>
          mayAskHelper(helper),
        );
  const guests = () => [...vms.list(), ...stores.buildVms.list()];
  // whoever is not root may not make such a device
  const digits = createHash('sha256').update(`asleep ${table}`).digest('hex').slice(0, 8);
  const sleepDevice = uid === 0 ? sleepDeviceName(digits) : undefined;

  const host: Host = {
    config,
    log,
    now,
    stores,
    system,
    network: createHostNetwork({
      ...{ config, runner, port, ledger, guests, pool, uid, table, guestDns, onAttach, sleepDevice },
      canary,
      onNoForwarding: (device, error) =>
        log.warn(
          { device, error: messageOf(error) },
          'forwarding could not be switched on: VMs reach nothing behind it',
        ),
    }),
    guests: createGuests(clientKey, clientKeyFile),
    agents: createAgents({ config, log, events, system }),
    checks,
    operations: createOperations(operationStore, now, {
      log,
      onChange: (operation) => {
        events.operationChanged(operation);
        memory.worked();
      },
    }),
    events,
    health: { silent: new Set(), emulatedMeanwhile: new Set(), processes: new Map() },
  };
  return {
    host,
    sleepDevice,
    dnsService,
    database,
    ballast,
    async [Symbol.asyncDispose]() {
      memory[Symbol.dispose]();
      canary?.[Symbol.dispose]();
      await host.operations.shutdown();
      await host.guests[Symbol.asyncDispose]();
      await host.agents[Symbol.asyncDispose]();
      await dnsService[Symbol.asyncDispose]();
      claim.release(); // the next daemon may be there before this process is gone
      operationLog.close();
      database.close();
    },
  };
}

/** Private ones are for their owner alone: they hold keys, sockets and disks. */
async function makeDirectories({ paths }: Config): Promise<void> {
  for (const directory of [paths.state, paths.run, join(paths.run, 'vmm'), paths.store, paths.cache, paths.bundles]) {
    await ensurePrivateDirectory(directory);
  }
  await chmod(paths.run, 0o700);
}

/** Who has the pool instead of this process; nobody when it can be taken now. */
async function holderOf(claim: PoolClaim): Promise<PoolHolder | undefined> {
  if (await claim.hold()) return undefined;
  const peer = await claim.holder();
  return { ...peer, stranger: isStranger(peer) };
}
