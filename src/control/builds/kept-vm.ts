/**
 * Kept VMs of image builds: a VM as it stood between two steps, its memory beside its disk. The next build goes on in
 * it, where a boot and the login preparing the guest would take an emulated one six seconds.
 */
import { createHash, randomBytes } from 'node:crypto';
import { link, rename, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { vmDefaults } from '../../config/schema.ts';
import { formatSubnet } from '../../core/addresses.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import { quote } from '../../guest/command.ts';
import { waitForSsh } from '../../guest/readiness.ts';
import { runInGuest } from '../../guest/run.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import { prepareScript, WAKE_PORT } from '../../guest/wake.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { cloneFile } from '../../storage/clone.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { type KeptVmFiles, layerFile, layerFiles, layerKeptVm, vmFiles } from '../../storage/layout.ts';
import type { Distribution } from '../../system/os-release.ts';
import { readBootId } from '../../system/processes.ts';
import { MIB } from '../../units.ts';
import { VERSION } from '../../version.ts';
import { freeUser, handOverFile, takeBack } from '../handover.ts';
import type { Host } from '../host.ts';
import { prepareSave, saveMemory } from '../memory/checkpoint.ts';
import { fitOf } from '../memory/fit.ts';
import { contentsOf, type FileContent } from '../memory/manifest.ts';
import { loadMemory } from '../memory/restore.ts';
import { guestResolver } from '../network/guest-resolver.ts';
import { awaitLogin } from '../vm/boot.ts';
import { vmmSocketOf } from '../vmm.ts';
import { attachBuildVm, discardBuildVm, LEAN_ARGS } from './build-vm.ts';

/** What a layer's record says of its kept VM. */
export interface KeptVm {
  vm: VmRecord;
  distribution: Distribution;
  /** number of steps before it: without any its disk is of no use without it */
  done: number;
  /** what the VMM that wrote it called itself; no other version reads its state */
  vmmVersion: string;
  /** its disk, memory and state, which are of one moment */
  files: FileContent[];
  /** boot of the host it was made on, and goes on on */
  bootId: string;
  /** digest of everything else outside the guest that must still be the same */
  fits: string;
}

/** The files of a kept VM, and what the VMM that wrote them calls itself. */
export type SavedVm = KeptVmFiles & Pick<KeptVm, 'vmmVersion'>;

export interface RevivedVm {
  vm: VmRecord;
  connection: SshConnection;
  distribution: Distribution;
}

/** Each takes as much room as its guest has memory; who changes a recipe works on one or two. */
const KEPT_MACHINES = 3;

/** Left free beside a memory file. */
const RESERVE_BYTES = 1024 * MIB;

/**
 * A guest that goes on answers in a second or two, on a busy machine in many; one that shows no sign of life is given up
 * long before this, and booted instead.
 */
const LOGIN_LIMIT_MS = 60_000;
const SPARE_LIMIT_MS = 3000;

const PREPARE_LIMIT_MS = 60_000;

/** @returns whether the guest can go on later */
export async function prepareToKeep({ now }: Pick<Host, 'now'>, connection: SshConnection): Promise<boolean> {
  const command = `exec sh -c ${quote(prepareScript(now(), randomBytes(32)))}`;
  return (await runInGuest(connection, command, { timeoutMs: PREPARE_LIMIT_MS })).exitCode === 0;
}

/**
 * Writes a paused VM to files of its own directory.
 * @returns undefined where there is no room for it or the VMM cannot do that
 */
export async function saveKeptVm(host: Host, vm: VmRecord): Promise<SavedVm | undefined> {
  const { directory } = vmFiles(host.config.paths.store, vm.id);
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < vm.memoryMib * MIB + RESERVE_BYTES) return undefined;
  const files = ownFiles(host, vm);
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  try {
    const vmmVersion = await prepareSave(host, vm, api, files);
    await saveMemory(host, vm, api, files);
    for (const path of [files.state, files.memory]) await takeBack(host, path);
    return { ...files, vmmVersion };
  } catch (error) {
    host.log.warn({ vm: vm.name, error: messageOf(error) }, 'the VM of a build could not be kept');
    return undefined;
  }
}

/** What the record of a layer is to say of this VM. */
export async function describeKeptVm(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  distribution: Distribution,
  done: number,
  vmmVersion: string,
  files: FileContent[],
): Promise<string> {
  const fits = await digestOf(host, vm, boot);
  const bootId = await readBootId();
  return JSON.stringify({ vm, distribution, done, vmmVersion, files, bootId, fits } satisfies KeptVm);
}

/** Puts the files of a kept VM beside its layer, whose record must name none meanwhile. */
export async function placeKeptVm(host: Host, key: string, files: KeptVmFiles): Promise<void> {
  const place = layerKeptVm(host.config.paths.store, key);
  await rename(files.memory, place.memory);
  await rename(files.state, place.state);
}

/** Removes the kept VM of a layer; its disk stays where a build can begin from that alone. */
export async function forgetKeptVm(host: Pick<Host, 'config' | 'stores'>, key: string): Promise<void> {
  const { store } = host.config.paths;
  const machine = host.stores.layers.find(key)?.machine ?? null;
  const whole = machine !== null && (JSON.parse(machine) as KeptVm).done === 0;
  if (whole) host.stores.layers.remove(key);
  else host.stores.layers.forgetKeptVm(key);
  const { memory, state } = layerKeptVm(store, key);
  for (const path of whole ? layerFiles(store, key) : [memory, state]) await rm(path, { force: true });
}

/** Removes the kept VMs of earlier boots of this host, which cannot go on. */
export async function forgetOldKeptVms(host: Pick<Host, 'config' | 'stores'>): Promise<void> {
  const bootId = await readBootId();
  for (const { key, machine } of host.stores.layers.list()) {
    if (machine !== null && (JSON.parse(machine) as KeptVm).bootId !== bootId) await forgetKeptVm(host, key);
  }
}

/** Removes the longest unused kept VMs beyond those that are worth their room. */
export async function limitKeptVms(host: Pick<Host, 'config' | 'stores'>): Promise<void> {
  const kept = host.stores.layers.list().filter(({ machine }) => machine !== null);
  for (const { key } of kept.slice(0, -KEPT_MACHINES)) await forgetKeptVm(host, key);
}

/**
 * Goes on in the VM kept beside a layer, if there is one that can go on here and now.
 * @param instead the VM of this build, which gives its address up where the kept one has it
 * @returns undefined when the build has to boot: there is none, it is in use, or it did not come up and is forgotten
 * @throws whatever `signal` was aborted with
 */
export async function reviveKeptVm(
  host: Host,
  key: string,
  boot: BootFiles,
  instead: VmRecord,
  signal: AbortSignal,
): Promise<RevivedVm | undefined> {
  const record = host.stores.layers.find(key)?.machine ?? null;
  if (record === null) return undefined;
  const kept = JSON.parse(record) as KeptVm;
  const { vm, distribution, bootId, fits } = kept;
  // it may fit another build: one of another name, or with more memory
  if (bootId !== (await readBootId()) || fits !== (await digestOf(host, instead, boot))) return undefined;
  if (
    host.stores.vms.findById(vm.id) ||
    host.stores.trash.has(vm.id) ||
    !host.stores.buildVms.readmit(host.network.pool, vm, instead)
  )
    return undefined;
  try {
    const connection = await bringUp(host, key, kept, boot, signal);
    return { vm, connection, distribution };
  } catch (error) {
    await discardBuildVm(host, vm);
    signal.throwIfAborted();
    host.log.warn({ layer: key, error: messageOf(error) }, 'a kept VM did not go on; a new one is booted');
    await forgetKeptVm(host, key);
    return undefined;
  }
}

async function bringUp(
  host: Host,
  key: string,
  { vm, vmmVersion, files }: KeptVm,
  boot: BootFiles,
  signal: AbortSignal,
): Promise<SshConnection> {
  const { config } = host;
  const { runner } = host.system;
  const { store } = config.paths;
  const kept = layerKeptVm(store, key);
  const { rootDisk } = vmFiles(store, vm.id);
  vm.user = freeUser(host, vm.id);
  // its VMM is launched while the disk is copied, and may write no file that is larger than what is known of it
  vm.rootDiskBytes = await apparentBytes(layerFile(store, key));
  const takeDisk = async () => {
    await cloneFile(runner, config.programs.cp, layerFile(store, key), rootDisk, 0, signal);
  };
  await attachBuildVm(host, vm, boot, signal, takeDisk);
  {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    // whoever replaces them meanwhile does not replace these
    const own = ownFiles(host, vm);
    await link(kept.memory, own.memory);
    await link(kept.state, own.state);
    for (const path of [rootDisk, own.memory, own.state]) await handOverFile(host, vm, path);
    await loadMemory(host, vm, api, own, vmmVersion);
    for (const path of [own.memory, own.state]) {
      await takeBack(host, path);
      await rm(path, { force: true });
    }
    // other builds may replace them at any time, one after the other
    if (!isDeepStrictEqual(await contentsOf(layerFiles(store, key)), files)) {
      throw new BangerError('conflict', 'It was replaced while it was loaded.');
    }
    await api.send(setState('Resumed'));
  }
  vm.startedAt = host.now().toISOString();
  const connection = await login(host, vm, signal);
  host.guests.keep(vm, connection);
  host.stores.layers.touch(key, host.now().toISOString());
  return connection;
}

/** By the server that was started for this, or by the ordinary one. */
async function login(host: Host, vm: VmRecord, signal: AbortSignal): Promise<SshConnection> {
  try {
    return await waitForSsh({ ...host.guests.target(vm), port: WAKE_PORT }, { timeoutMs: SPARE_LIMIT_MS, signal });
  } catch {
    signal.throwIfAborted();
    return await awaitLogin(host, vm, LOGIN_LIMIT_MS, signal);
  }
}

function ownFiles(host: Host, vm: VmRecord): KeptVmFiles {
  const { directory } = vmFiles(host.config.paths.store, vm.id);
  return { memory: join(directory, 'memory'), state: join(directory, 'vmstate') };
}

/** A kept VM goes on only where its memory fits, and where a VM would be booted now that is told the same. */
async function digestOf(host: Host, { name, vcpus, memoryMib }: VmRecord, boot: BootFiles): Promise<string> {
  const facts = {
    version: VERSION,
    fit: await fitOf(host, { vcpus, memoryMib }, boot),
    bootArgs: [vmDefaults(host.config, boot.defaults).bootArgs, LEAN_ARGS],
    name,
    pool: formatSubnet(host.network.pool),
    key: host.guests.publicKey,
    resolver: await guestResolver(host.config, host.network.pool),
  };
  return createHash('sha256').update(JSON.stringify(facts)).digest('hex');
}
