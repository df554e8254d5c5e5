/**
 * A host with one VM whose daemons die: it keeps a set of what exists (devices, routes, packet rules, VMMs, files,
 * records), and each new daemon finds what the one before left.
 */
import assert from 'node:assert/strict';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { copyFile, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
import { parseAddress, parseSubnet } from '../../src/core/addresses.ts';
import { tapName, type VmRecord } from '../../src/core/vm.ts';
import type { SshConnection } from '../../src/guest/ssh.ts';
import { type Database, openDatabase } from '../../src/state/database.ts';
import { createOperationStore, type OperationStore } from '../../src/state/operations.ts';
import { createStores } from '../../src/state/stores.ts';
import { imageFiles, vmFiles } from '../../src/storage/layout.ts';
import { createPrivileged } from '../../src/system/privilege.ts';
import type { Argv, Runner, RunOptions, RunResult } from '../../src/system/runner.ts';
import {
  asNobody,
  effect,
  effectOrNever,
  installEffects,
  type KernelFiles,
  type Mortal,
  mortal,
  mortalDatabase,
} from './effects.ts';
import { type FakeVmm, startFakeVmm } from './fake-vmm.ts';
import { PASSED_CHECKS } from './passed-checks.ts';
import { sampleVm } from './sample-vm.ts';

export const DISK_BYTES = 64 * 1024;
/** Files that are gone at the end of each of hundreds of hosts need no disk. */
const IN_MEMORY = '/dev/shm';

/** Name of the VM. */
const SAMPLE = sampleVm().name;

const POOL = '172.30.0.0/16';

/** Two images, so that a disk can be told from the other's. */
export const OLD = { id: '000000aa', name: 'old' };
export const NEW = { id: '000000bb', name: 'new' };

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

/** What there is, in a form that can be compared; paths and ids of this host left out. */
export interface Seen {
  /** phase of the record; `trash` or `none` without one */
  vm: string;
  /** image of the record, and of the disk that is in its place */
  images: string;
  /** states of VMM processes */
  vmms: string[];
  /** whether the daemon watches the VM */
  watched: boolean;
  devices: string[];
  routes: string[];
  /** devices that packet rules are for */
  rules: string[];
  /** kinds of what the ledger knows, with those that have no owner marked */
  ledger: string[];
  /** files that a VM at rest has not */
  odd: string[];
}

/** Its processes and files are gone with it. */
export interface MortalHost extends AsyncDisposable {
  config: Config;
  vm: VmRecord;
  vmms: FakeVmm[];
  /** records as they are, whoever is dead */
  stores: Host['stores'];
  daemon(dieBefore?: string): Daemon;
  see(daemon: Daemon): Seen;
}

let current: { kernel: KernelFiles; dir: string } | undefined;
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
  const place = createPlace(config);
  current = { kernel: place.kernel, dir };
  if (!installed) installEffects(() => current?.kernel, nameOf);
  installed = true;

  const daemons: Daemon[] = [];
  return {
    config,
    vm,
    vmms: place.vmms,
    stores,
    daemon(dieBefore) {
      const daemon = createDaemon({ place, config, database, dieBefore });
      daemons.push(daemon);
      return daemon;
    },
    see: (daemon) => see(config, stores, place, daemon, vm),
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
    .replace(/^.*\/(?=[^/]+$)/, '');
}

interface Place {
  kernel: KernelFiles;
  vmms: FakeVmm[];
  devices: Set<string>;
  /** destination and device, `refused` for none */
  routes: Map<string, string>;
  rules: string;
  runner: Runner;
}

function createPlace(config: Config): Place {
  const settings = new Map<string, string>();
  const { programs } = config;
  const place: Place = {
    vmms: [],
    devices: new Set(),
    routes: new Map(),
    rules: '',
    kernel: {
      read(path) {
        if (path === '/proc/net/route') return routingTable(place.routes);
        const [, device] =
          /^\/sys\/class\/net\/([^/]+)$|\/conf\/([^/]+)\/forwarding$/.exec(path)?.filter(Boolean) ?? [];
        if (device === undefined || !place.devices.has(device)) return undefined;
        return settings.get(path) ?? '0';
      },
      write: (path, text) => void settings.set(path, text),
      processes: () => place.vmms.map(({ pid }) => pid),
    },
    runner: {
      async run(argv, options = {}): Promise<RunResult> {
        const line = argv.join(' ').replaceAll(/\/\S+\//g, '');
        const changes = !/^\S+ -j /.test(line);
        await effectOrNever(changes ? line : `look ${line}`);
        const { exitCode = 0, stdout = '' } = await asNobody(() => perform(argv, options));
        assert.ok((options.okExits ?? [0]).includes(exitCode), `${line} ended with ${exitCode}`);
        return { exitCode, stdout, stderr: '' };
      },
      async startDetached(argv) {
        await effectOrNever('start the VMM');
        // whoever asks it has it done
        const onRequest = (request: string) => asking?.run(() => effect(`VMM ${request}`));
        const vmm = await asNobody(() => startFakeVmm({ argv, onRequest }));
        place.vmms.push(vmm);
        return { pid: vmm.pid, ended: vmm.ended };
      },
    },
  };

  async function perform(argv: Argv, { input }: RunOptions): Promise<Partial<RunResult>> {
    const [program, ...args] = argv;
    const last = args.at(-1) ?? '';
    const line = args.join(' ');
    if (program === programs.ip) {
      const [, device = ''] = / dev (\S+)/.exec(` ${line}`) ?? [];
      const [, destination = ''] = /^route (?:replace|delete) (?:unreachable )?(\S+)/.exec(line) ?? [];
      if (line.startsWith('tuntap add')) place.devices.add(device);
      else if (line.startsWith('link delete')) {
        place.devices.delete(device);
        for (const [to, by] of place.routes) if (by === device) place.routes.delete(to);
      } else if (line.startsWith('route replace')) place.routes.set(destination, device || 'refused');
      else if (line.startsWith('route delete')) place.routes.delete(destination);
      else if (line.startsWith('-j')) return { stdout: '[]' };
      return {};
    }
    if (program === programs.nft) {
      if (line === '-f -') place.rules = /elements/.test(String(input)) ? String(input) : '';
      else return place.rules ? { stdout: JSON.stringify({ nftables: [{ text: place.rules }] }) } : { exitCode: 1 };
      return {};
    }
    if (program === programs.cp) await copyFile(args.at(-2) ?? '', last);
    else if (program === programs.mke2fs) await writeSuperblock(last);
    else if (program === programs.resize2fs) await writeSuperblock(last);
    else assert.equal(program, programs.e2fsck, `no script for: ${argv.join(' ')}`);
    return {};
  }
  return place;
}

let kept: OperationStore | undefined;

/** One for all: how operations ended is for people to read. */
function operationStore(): OperationStore {
  kept ??= createOperationStore(openDatabase(':memory:'));
  return kept;
}

/** Logs in as soon as the guest runs; whatever it is told there makes it go down. */
async function login({ vmms }: Place): Promise<SshConnection> {
  while (vmms.at(-1)?.state !== 'Running') await setImmediate();
  return {
    closed: false,
    onClose: () => {},
    async exec() {
      await effectOrNever('tell the guest to go down');
      void vmms.at(-1)?.reset();
      // nobody looks at the answer
      return {} as ClientChannel;
    },
    [Symbol.asyncDispose]: async () => {},
  };
}

/** The daemon whose requests VMMs get. */
let asking: Mortal | undefined;

function createDaemon(given: {
  place: Place;
  config: Config;
  database: Database;
  dieBefore: string | undefined;
}): Daemon {
  const { place, config, database, dieBefore } = given;
  const one = mortal(dieBefore, () => {
    if (database.isTransaction) database.exec('ROLLBACK');
  });
  asking = one;
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
    system: { runner, privileged, uid: 0, env: {} },
    network: createHostNetwork({
      ...{ config, runner, privileged, ledger: stores.ledger, pool, uid: 0, table: 'banger_mortal' },
      guests: () => stores.vms.list(),
      followChanges: async () => ({
        hearsRules: true,
        take: () => ({ rules: true, links: true }),
        [Symbol.dispose]: () => {},
      }),
    }),
    guests: { ...guests, firstLogin: () => login(place) },
    checks: PASSED_CHECKS,
    operations: createOperations(operationStore(), now),
    events: createEvents(now),
    health: { silent: new Set(), emulatedMeanwhile: new Set() },
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

/** What a VM at rest has in its directory. */
const USUAL = new Set([
  'root.ext4',
  'work.ext4',
  'seed.img',
  'console.log',
  'console.log.previous',
  'vmm.log',
  'vmm.log.previous',
]);

function see(config: Config, stores: Host['stores'], place: Place, daemon: Daemon, vm: VmRecord): Seen {
  const { store, run } = config.paths;
  const record = stores.vms.find(vm.name);
  const owned = record ?? stores.trash.list().find(({ vm: each }) => each.name === vm.name)?.vm;
  const files = vmFiles(store, owned?.id ?? vm.id);
  const owners = new Set([
    'host',
    ...stores.vms.list().map(({ id }) => id),
    ...stores.trash.list().map((each) => each.vm.id),
  ]);
  const directories = existsSync(join(store, 'vms')) ? readdirSync(join(store, 'vms')) : [];
  const alive = place.vmms.filter(
    ({ pid }) => existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`).length > 0,
  );
  const vmms = alive.map(({ state }) => state);
  const inDirectory = (id: string) => readdirSync(join(store, 'vms', id)).filter((name) => !USUAL.has(name));
  const sockets = readdirSync(join(run, 'vmm')).filter(
    (name) => !(record?.phase === 'running' && name === `${record.id}.sock`),
  );
  const named = (id: string) => (id === OLD.id ? OLD.name : id === NEW.id ? NEW.name : id);
  return {
    vm: record?.phase ?? (owned ? 'trash' : 'none'),
    images: owned
      ? `${named(owned.imageId ?? '')} on ${existsSync(files.rootDisk) ? marker(files.rootDisk) : 'nothing'}`
      : '',
    vmms,
    watched: record !== undefined && daemon.life.watches(record.id),
    devices: [...place.devices].map((name) => (owned && name === tapName(owned.id) ? 'tap' : name)),
    routes: [...place.routes.values()].map((by) => (owned && by === tapName(owned.id) ? 'tap' : by)).sort(),
    // each once: a device is in more than one set
    rules: [...new Set(Array.from(place.rules.matchAll(/"(bgr-[^"]+)" \. /g), ([, tap]) => String(tap)))].map((tap) =>
      owned && tap === tapName(owned.id) ? 'tap' : tap,
    ),
    ledger: stores.ledger
      .all()
      .map(({ owner, resource }) => `${owners.has(owner) ? '' : 'nobody’s '}${resource.kind}`)
      .sort(),
    odd: [
      ...directories.filter((id) => !owners.has(id)).map((id) => `directory ${id === vm.id ? 'of web' : 'of another'}`),
      ...directories.filter((id) => owners.has(id)).flatMap(inDirectory),
      ...sockets.map(() => 'socket'),
      ...readdirSync(store).filter((name) => !['vms', 'images', 'kept'].includes(name)),
    ].sort(),
  };
}

const MAGIC_AT = 1024;
const MARKER_AT = 4096;

/** Disk of an image: what is read of a superblock, and the image's name behind it. */
export function ext4(bytes: number, name: string): Buffer {
  const disk = Buffer.alloc(bytes);
  superblock(bytes).copy(disk, MAGIC_AT);
  disk.write(`${name}\0`, MARKER_AT);
  return disk;
}

function superblock(bytes: number): Buffer {
  const block = Buffer.alloc(1024);
  block.writeUInt32LE(bytes / 4096, 0x04); // blocks
  block.writeUInt32LE(2, 0x18); // of 4 KiB
  block.writeUInt32LE(32_768, 0x20); // blocks of a group
  block.writeUInt16LE(0xef53, 0x38);
  block.writeUInt16LE(1, 0x3a); // unmounted in good order
  return block;
}

async function writeSuperblock(path: string): Promise<void> {
  const { size } = statSync(path);
  const file = await open(path, 'r+');
  await file.write(superblock(size), 0, 1024, MAGIC_AT);
  await file.close();
}

function marker(path: string): string {
  const disk = readFileSync(path);
  return disk.subarray(MARKER_AT, disk.indexOf(0, MARKER_AT)).toString();
}

function routingTable(routes: ReadonlyMap<string, string>): string {
  const hex = (value: number) => {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(value >>> 0);
    return word.toString('hex').toUpperCase();
  };
  const lines = [...routes].map(([destination, device]) => {
    const [base = '', prefix = '32'] = destination.split('/');
    const mask = Number(prefix) === 0 ? 0 : (-1 << (32 - Number(prefix))) >>> 0;
    const flags = device === 'refused' ? '0200' : '0001';
    return [
      device === 'refused' ? '*' : device,
      hex(parseAddress(base)),
      '00000000',
      flags,
      '0',
      '0',
      '0',
      hex(mask),
    ].join('\t');
  });
  return ['Iface\tDestination\t…', ...lines].join('\n');
}
