/** The steps of bringing a guest up that VMs on record and VMs of image builds share. */
import { rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { vmDefaults } from '../../config/schema.ts';
import { gatewayOf } from '../../core/addresses.ts';
import { type BootWord, createBootWordReader } from '../../core/boot-words.ts';
import {
  describeEnvironment,
  describeHealthUnit,
  describeProcess,
  describeUnit,
  describeVolumes,
  resolveProcess,
} from '../../core/guest-process.ts';
import { userDataFiles } from '../../core/user-data.ts';
import { tapName, type VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { connectVmm, explainRefusal, lacksSockets, versionOfVmm } from '../../firecracker/api.ts';
import { bootArgs } from '../../firecracker/boot-args.ts';
import { followFile, readTail, stripControls } from '../../firecracker/console.ts';
import { launchVmm } from '../../firecracker/launch.ts';
import { configurationRequests, type GuestDrive } from '../../firecracker/machine-config.ts';
import { lastWords, vmmExitedCleanly } from '../../firecracker/vmm-log.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { imageFiles, vmFiles, vmmSocket } from '../../storage/layout.ts';
import { openDirectory } from '../../storage/ownership.ts';
import { writeSeedDrive } from '../../storage/seed-drive.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { cleanEnvironment, letUsersOpenTun } from '../../system/confinement.ts';
import { readOomKills } from '../../system/oom-kills.ts';
import { leaveProcessorsToOthers } from '../../system/priority.ts';
import type { DetachedProcess } from '../../system/runner.ts';
import { timerMs } from '../../units.ts';
import { confinementOf, groupOf, programWithinReach } from '../confine.ts';
import { handOverFile, sealAgainstVmm, userOf, withinReach } from '../handover.ts';
import type { Host } from '../host.ts';
import { readOciRecord } from '../images/oci-record.ts';
import { guestResolver } from '../network/guest-resolver.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';
import { watchLifeSigns } from './life-signs.ts';
import { readUserData } from './user-data.ts';

/** After this time without a word, a guest has an initrd that says nothing: it is ready since its first login. */
const NO_WORD_MS = 10_000;

type ReadyWord = Extract<BootWord, { kind: 'ready' }>;

export interface LaunchedVm {
  kind: VmmChoice['kind'];
  /** how the VMM process ends */
  ended: DetachedProcess['ended'];
}

/** Writes the seed drive; `files` by absolute path are laid over the guest's root. */
export async function writeVmSeed(
  host: Host,
  vm: VmRecord,
  files: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { config, guests, network } = host;
  const { seedDrive } = vmFiles(config.paths.store, vm.id);
  const data = await readUserData(host, vm);
  const script = data?.by === 'script' ? { 'user-data': data.userData } : {};
  await writeSeedDrive(seedDrive, {
    hostname: vm.name,
    address: vm.address,
    gateway: gatewayOf(network.pool),
    mtu: await network.mtu(),
    ...(await guestResolver(config, network.pool)),
    authorizedKeys: [guests.publicKey],
    hostKeyPrivate: vm.hostKeyPrivate,
    hostKeyPublic: vm.hostKeyPublic,
    workMount: vm.workDiskMount,
    process: { ...(await processOf(host, vm)), ...script },
    files: { ...files, ...(vm.machineId === null ? {} : { '/etc/machine-id': `${vm.machineId}\n` }) },
    ...(data ? { privateFiles: userDataFiles(data, vm) } : {}),
  });
  await handOverFile(host, vm, seedDrive);
}

export interface LaunchVmOptions {
  /** whether the guest goes on from memory, and its console with it */
  continues?: boolean;
  /** whether it is to leave the processors to everybody else */
  background?: boolean;
  /** the one to launch, where it was chosen a moment ago */
  vmm?: VmmChoice | undefined;
}

/** What the image's process is to be; undefined for images that were no OCI image. */
async function processOf({ config }: Host, vm: VmRecord): Promise<Record<string, string> | undefined> {
  if (vm.imageId === null) return undefined;
  const oci = await readOciRecord(imageFiles(config.paths.store, vm.imageId).oci);
  if (!oci) return undefined;
  const process = resolveProcess(oci.process, vm.process ?? {});
  return {
    environment: describeEnvironment(process),
    service: describeProcess(process),
    'service.unit': describeUnit(process),
    'health.unit': describeHealthUnit(process),
    ...(vm.workDiskBytes === 0 ? {} : { volumes: describeVolumes(oci.process.volumes, vm.workDiskMount) }),
  };
}

/** Launches the VMM that fits this host; it is in the ledger before it exists. */
export async function launchVm(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  signal: AbortSignal,
  { continues = false, background = false, vmm: chosen }: LaunchVmOptions = {},
): Promise<LaunchedVm> {
  const vmm = chosen ?? (await host.checks.chooseVmm(boot));
  const files = vmFiles(host.config.paths.store, vm.id);
  const user = userOf(host, vm);
  // one whose end was not noticed may have another
  const socketPath = user === undefined ? vmmSocket(host.config.paths.run, vm.id) : files.apiSocket;
  const vmmEntry = { kind: 'vmm', name: socketPath, directory: files.directory } as const;
  host.stores.ledger.record(vm.id, vmmEntry);
  // nothing unlinks it when a VMM ends, and the next one could not bind it
  await rm(files.vsock, { force: true });
  // what is set for a VM applies from its next boot on
  const shape = continues ? { ...vm, ...vm.run } : vm;
  const onStarted = await groupOf(host, vm, shape);
  if (user !== undefined) {
    await openDirectory(files.directory, user);
    await letUsersOpenTun();
  }
  const running = await launchVmm(host.system.runner, {
    program: await programWithinReach(host, vm, vmm.program),
    id: `banger-${vm.id}`,
    directory: files.directory,
    socketPath,
    consoleLog: files.consoleLog,
    vmmLog: files.vmmLog,
    continues,
    env: { ...cleanEnvironment(host.system.env), ...vmm.env },
    user,
    // sudo itself needs the rights it has
    ...(vmm.bySudo ? {} : { confine: await confinementOf(host, vm, shape, vmm) }),
    ...(onStarted ? { onStarted } : {}),
    signal,
  });
  host.stores.ledger.record(vm.id, { ...vmmEntry, identity: running.identity });
  // when it answers: on a busy host it would not in time, and its guest, which takes the time, does not run yet
  if (background) await leaveProcessorsToOthers(running.identity.pid);
  if (vmm.undecided) host.health.emulatedMeanwhile.add(vm.id);
  return { kind: vmm.kind, ended: running.ended };
}

export interface VmBootOptions {
  /** added to the kernel command line */
  extraArgs?: string;
  /** whether its root disk is lost in a crash anyway */
  throwaway?: boolean;
}

/** Tells the VMM everything about the machine. */
export async function configureVm(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  signal: AbortSignal,
  { extraArgs = '', throwaway = false }: VmBootOptions = {},
): Promise<void> {
  const files = vmFiles(host.config.paths.store, vm.id);
  const hasWorkDisk = vm.workDiskBytes > 0;
  // named as seen from the VM's directory, where its VMM works: so is what it saves of itself
  const drives: GuestDrive[] = [
    { id: 'root', path: basename(files.rootDisk), readOnly: false, throwaway },
    { id: 'seed', path: basename(files.seedDrive), readOnly: true },
    ...(hasWorkDisk ? [{ id: 'work', path: basename(files.workDisk), readOnly: false }] : []),
  ];
  const devices = { root: '/dev/vda', seed: '/dev/vdb', work: hasWorkDisk ? '/dev/vdc' : undefined };
  const machine = {
    vcpus: vm.vcpus,
    memoryMib: vm.memoryMib,
    kernel: await withinReach(host, vm, boot.kernel),
    initrd: boot.initrd === undefined ? undefined : await withinReach(host, vm, boot.initrd),
    bootArgs: bootArgs(devices, `${vmDefaults(host.config, boot.defaults).bootArgs} ${extraArgs}`),
    drives,
    tap: tapName(vm.id),
    mac: vm.mac,
    mtu: await host.network.mtu(),
    vsock: basename(files.vsock),
  };
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  const version = await versionOfVmm(api);
  for (const request of configurationRequests(machine, version)) {
    signal.throwIfAborted();
    await api.send(request).catch((error) => {
      if (!lacksSockets(error)) throw explainRefusal(error, version);
      // as a guest whose initrd brings no agent: SSH does
      host.log.warn({ vm: vm.name, error: messageOf(error) }, 'a guest has no agent: its file system has no sockets');
    });
  }
  await sealAgainstVmm(host, vm);
}

/** Waits for the first login, or for a reason why none will come. */
export async function awaitLogin(
  host: Host,
  vm: VmRecord,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<SshConnection> {
  const files = vmFiles(host.config.paths.store, vm.id);
  const signsOf = watchLifeSigns(host, vm);
  const oomKills = await readOomKills();
  let lifeless: string | undefined;
  const login = host.guests.firstLogin(vm, {
    timeoutMs,
    signal,
    givenUp: async (answered) => {
      // looked for before the console is read: a guest says why it failed and ends its VMM at once
      const lives = await findVmmOf(host, vm);
      const said = stripControls(await readTail(files.consoleLog, 64 * 1024));
      const failed = /banger-init: FAILED: .*|Kernel panic - not syncing: .*/.exec(said);
      if (failed) return failed[0];
      if (!lives) return await whyVmmEnded(files.vmmLog, oomKills);
      lifeless = await signsOf(answered);
      return lifeless === undefined ? undefined : `it ${lifeless}.`;
    },
  });
  try {
    return await login;
  } catch (error) {
    if (lifeless === undefined || !(error instanceof BangerError)) throw error;
    throw error.reworded(error.message, { details: { lifeless } });
  }
}

/** What a guest did not do that showed no sign of life; undefined for any other failure. */
export function lifelessness(error: unknown): string | undefined {
  const lifeless = error instanceof BangerError ? error.details?.lifeless : undefined;
  return typeof lifeless === 'string' ? lifeless : undefined;
}

/**
 * A guest that resets ends its VMM in good order; anything else is the VMM's own failure, or the host's.
 * @param oomKills as counted before the guest ran
 */
async function whyVmmEnded(vmmLog: string, oomKills: number | undefined): Promise<string> {
  if (await vmmExitedCleanly(vmmLog)) return 'the guest reset before it answered.';
  const kills = await readOomKills();
  const isShort = kills !== undefined && oomKills !== undefined && kills > oomKills;
  const what = isShort ? 'the host had no memory left, and its kernel ended the VMM.' : 'the VMM ended.';
  return `${what}${await lastWords(vmmLog)}`;
}

/**
 * Waits for a guest's word that it is ready, from the beginning of its run.
 * @returns undefined for a guest that says nothing of the kind, and when `signal` is aborted
 */
export async function awaitReadyWord(host: Host, vmId: string, signal: AbortSignal): Promise<ReadyWord | undefined> {
  const { consoleLog } = vmFiles(host.config.paths.store, vmId);
  const read = createBootWordReader();
  const silent = new AbortController();
  const noWord = setTimeout(() => silent.abort(), NO_WORD_MS).unref();
  let announced = false;
  try {
    for await (const chunk of followFile(consoleLog, 0, AbortSignal.any([signal, silent.signal]))) {
      for (const word of read(stripControls(chunk))) {
        if (word.kind === 'ready') return word;
        if (word.kind === 'handover' && !announced) return undefined;
        announced = true;
        clearTimeout(noWord);
      }
    }
    return undefined;
  } finally {
    clearTimeout(noWord);
  }
}

/**
 * Waits until the init of a guest that was logged in to takes orders, whatever VM it is.
 * @returns false when that has not come within `limitMs`
 */
export async function awaitInit(host: Host, vmId: string, limitMs: number, signal: AbortSignal): Promise<boolean> {
  const late = AbortSignal.timeout(timerMs(limitMs));
  await awaitReadyWord(host, vmId, AbortSignal.any([signal, late]));
  throwIfCancelled(signal);
  return !late.aborted;
}
