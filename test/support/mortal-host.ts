/**
 * A host with one VM whose daemons die: it keeps a set of what exists (devices, routes, packet rules, VMMs, files,
 * records), and each new daemon finds what the one before left.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import type { ClientChannel } from 'ssh2';
import type { Operation } from '../../src/api/operation.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/schema.ts';
import { createEvents } from '../../src/control/events.ts';
import type { Host } from '../../src/control/host.ts';
import { createHostNetwork } from '../../src/control/network/host-network.ts';
import { createOperations } from '../../src/control/operations.ts';
import { createUpkeep, type Upkeep } from '../../src/control/upkeep/watch.ts';
import { createGuests } from '../../src/control/vm/connections.ts';
import { createLife, type Life } from '../../src/control/vm/life.ts';
import { parseSubnet } from '../../src/core/addresses.ts';
import type { VmRecord } from '../../src/core/vm.ts';
import { NO_VM_USERS } from '../../src/core/vm-users.ts';
import type { SshConnection } from '../../src/guest/ssh.ts';
import { createLocalPort } from '../../src/network/port.ts';
import { type Database, openDatabase } from '../../src/state/database.ts';
import { createOperationStore, type OperationStore } from '../../src/state/operations.ts';
import { createStores } from '../../src/state/stores.ts';
import { imageFiles } from '../../src/storage/layout.ts';
import { createPrivileged } from '../../src/system/privilege.ts';
import {
  effectOrNever,
  type Fate,
  installEffects,
  type KernelFiles,
  type Mortal,
  mortal,
  mortalDatabase,
} from './effects.ts';
import type { FakeVmm } from './fake-vmm.ts';
import { createMedium, type Medium } from './medium.ts';
import { DISK_BYTES, ext4, NEW, OLD } from './mortal-disks.ts';
import { createPlace, type Place } from './mortal-place.ts';
import { type Seen, see } from './mortal-sight.ts';
import { NO_AGENTS } from './no-agents.ts';
import { PASSED_CHECKS } from './passed-checks.ts';
import { sampleVm } from './sample-vm.ts';

/** Files that are gone at the end of each of hundreds of hosts need no disk. */
const IN_MEMORY = '/dev/shm';

const NO_CGROUPS = { directory: undefined, why: 'a test' } as const;

/** Name of the VM. */
const SAMPLE = sampleVm().name;

const POOL = '172.30.0.0/16';

export interface Daemon {
  mortal: Mortal;
  host: Host;
  life: Life;
  upkeep: Upkeep;
  /**
   * Begins something as this daemon and waits for its end, or for this daemon's.
   * @returns the operation, undefined when the daemon died
   */
  finish(begin: () => Operation | Promise<Operation>): Promise<Operation | undefined>;
  /** Takes up what an earlier daemon left, and waits for what follows of it. */
  recover(): Promise<void>;
  /** Ends without a word, as by SIGKILL. */
  drop(): Promise<void>;
}

/** Its processes and files are gone with it. */
export interface MortalHost extends AsyncDisposable {
  config: Config;
  vm: VmRecord;
  vmms: FakeVmm[];
  /** records as they are, whoever is dead */
  stores: Host['stores'];
  /** whether what `stores` says is committed */
  settled(): boolean;
  /** what a power cut would take of its files */
  medium: Medium;
  /** From now on guests let us log in, and do not become ready. */
  stayUnready(): void;
  /** The kernel of the host ends a VMM because memory is short. */
  runOutOfMemory(vmm: FakeVmm | undefined): Promise<void>;
  daemon(fate?: Fate | string): Daemon;
  see(daemon: Daemon): Seen;
}

let current: { kernel: KernelFiles; medium: Medium; dir: string } | undefined;
let installed = false;

export async function mortalHost(): Promise<MortalHost> {
  const dir = mkdtempSync(join(existsSync(IN_MEMORY) ? IN_MEMORY : tmpdir(), 'banger-mortal-'));
  const { config: loaded } = await loadConfig({ env: { HOME: dir, BANGER_HOME: dir }, uid: 0 });
  const config: Config = {
    ...loaded,
    limits: { ...loaded.limits, bootTimeoutMs: 20_000, stopTimeoutMs: 20_000 },
    storage: { ...loaded.storage, minFreeBytes: 0 },
  };
  const { store, run, cache } = config.paths;
  for (const path of [store, join(run, 'vmm'), cache]) mkdirSync(path, { recursive: true });
  const database = openDatabase(':memory:');
  const stores = createStores(database);
  for (const { id, name } of [OLD, NEW]) {
    const files = imageFiles(store, id);
    mkdirSync(files.directory, { recursive: true });
    for (const path of [files.kernel, files.initrd, files.packages]) writeFileSync(path, '');
    writeFileSync(files.rootfs, ext4(DISK_BYTES, name));
    stores.images.insert({
      ...{ id, name, arch: 'x86_64', base: 'import', digest: '', sizeBytes: DISK_BYTES },
      ...{ recipe: null, recipeKey: null, createdAt: '2026-11-25T00:00:00.000Z' },
    });
  }
  const sizes = { rootDiskBytes: DISK_BYTES, workDiskBytes: DISK_BYTES };
  const vm = sampleVm({ ...sizes, image: OLD.name, imageId: OLD.id, phase: 'stopped' });
  const medium = createMedium(store);
  const place = createPlace(config, medium);
  current = { kernel: place.kernel, medium, dir };
  if (!installed)
    installEffects(
      () => current?.kernel,
      () => current?.medium,
      nameOf,
    );
  installed = true;

  const daemons: Daemon[] = [];
  return {
    config,
    vm,
    vmms: place.vmms,
    stores,
    settled: () => !database.isTransaction,
    medium,
    stayUnready: () => {
      place.neverReady = true;
    },
    async runOutOfMemory(vmm) {
      place.oomKills += 1;
      await vmm?.die();
    },
    daemon(given = {}) {
      const fate = typeof given === 'string' ? { dieBefore: given } : given;
      const daemon = createDaemon({ place, config, database, fate });
      daemons.push(daemon);
      return daemon;
    },
    see: ({ life }) => see({ config, stores, place, vm, watches: life.watches }),
    async [Symbol.asyncDispose]() {
      for (const daemon of daemons) await daemon.drop();
      for (const vmm of place.vmms) await vmm.die();
      database.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The same for every run: no path of this one, no random part. */
function nameOf(path: string): string {
  return path
    .replace(current?.dir ?? '', '')
    .replace(/[0-9a-f]{8}\.tmp$/, 'tmp')
    .replace(/probe-[0-9a-f]{8}/, 'probe')
    .replace(/[0-9a-f]{8}(?=\.sock$)/, 'ID')
    .replace(/^.*\/(?=[^/]+$)/, '')
    .replace(/^[0-9a-f]{8}$/, 'ID');
}

let kept: OperationStore | undefined;

/** One for all: how operations ended is for people to read. */
function operationStore(): OperationStore {
  kept ??= createOperationStore(openDatabase(':memory:'));
  return kept;
}

/** Logs in as soon as the guest runs; whatever it is told there makes it go down. */
async function login({ vmms }: Place): Promise<SshConnection> {
  // the last may be one that waits for its memory
  const up = () => vmms.findLast(({ state }) => state === 'Running');
  while (!up()) await setImmediate();
  return {
    closed: false,
    onClose: () => {},
    async exec(command) {
      if (!command.includes('going down')) {
        await effectOrNever('tell the guest something');
        return answer();
      }
      await effectOrNever('tell the guest to go down');
      void up()?.reset();
      // nobody looks at the answer
      return {} as ClientChannel;
    },
    [Symbol.asyncDispose]: async () => {},
  };
}

/** Of a command that did what it was told and said nothing. */
function answer(): ClientChannel {
  const channel = Object.assign(new PassThrough({ emitClose: false }), { stderr: new PassThrough(), close: () => {} });
  void setImmediate().then(() => channel.emit('close', 0));
  return channel as unknown as ClientChannel;
}

function createDaemon(given: { place: Place; config: Config; database: Database; fate: Fate }): Daemon {
  const { place, config, database, fate } = given;
  const one = mortal(fate, () => {
    if (database.isTransaction) database.exec('ROLLBACK');
  });
  place.asking = one;
  const now = () => new Date();
  const stores = createStores(mortalDatabase(database), { now });
  const { runner } = place;
  const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
  const pool = parseSubnet(POOL);
  const guests = createGuests({ publicKey: 'ssh-ed25519 AAAA', privateKey: '' }, '');
  const host: Host = {
    config,
    log: { info: () => {}, warn: () => {}, error: () => {} },
    now,
    stores,
    system: { runner, privileged, uid: 0, vmUsers: NO_VM_USERS, cgroups: NO_CGROUPS, env: {} },
    network: createHostNetwork({
      ...{ config, runner, ledger: stores.ledger, pool, uid: 0, table: 'banger_mortal' },
      port: createLocalPort({ privileged, programs: config.programs, atOnce: true }),
      guests: () => [...stores.vms.list(), ...stores.buildVms.list()],
      followChanges: async () => ({
        hearsRules: true,
        take: () => ({ rules: true, links: true }),
        [Symbol.dispose]: () => {},
      }),
    }),
    guests: { ...guests, firstLogin: () => login(place), get: () => login(place) },
    agents: NO_AGENTS,
    checks: PASSED_CHECKS,
    operations: createOperations(operationStore(), now),
    events: createEvents(now),
    health: { silent: new Set(), emulatedMeanwhile: new Set(), processes: new Map() },
  };
  const { life, upkeep } = one.run(() => {
    const owner = createLife(host);
    return { life: owner, upkeep: createUpkeep(host, owner, {}) };
  });
  const orDeath = <T>(work: Promise<T>) => Promise.race([work, one.death.then(() => undefined)]);
  const idle = async () => {
    for (let at = host.operations.activeOn(SAMPLE); at && !one.dead; at = host.operations.activeOn(SAMPLE)) {
      await orDeath(host.operations.finished(at.id));
    }
  };
  return {
    mortal: one,
    host,
    life,
    upkeep,
    async finish(begin) {
      const ended = one.run(async () => {
        const { id } = await begin();
        return await host.operations.finished(id);
      });
      const operation = await orDeath(ended);
      await idle();
      return one.dead ? undefined : operation;
    },
    async recover() {
      await orDeath(one.run(() => upkeep.recover()));
      await idle();
    },
    async drop() {
      await one.end();
      life.close();
      upkeep.close();
      await guests[Symbol.asyncDispose]();
    },
  };
}
