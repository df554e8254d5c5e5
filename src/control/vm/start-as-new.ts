/**
 * Starts a VM from memory that was another's: a fork, or a new VM that begins as a template stands. It is nobody until its
 * agent has acknowledged who it is.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { gatewayOf } from '../../core/addresses.ts';
import { type TimelineStep, tapName, type VmRecord } from '../../core/vm.ts';
import { running } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import type { WakeIdentity } from '../../guest/agent/wake-request.ts';
import type { BootFiles } from '../../preflight/context.ts';
import type { VmmChoice } from '../../preflight/vmm-choice.ts';
import { memoryFiles } from '../../storage/layout.ts';
import { resolvConf } from '../../storage/seed-drive.ts';
import { sideBySide } from '../../system/abort.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import { loadMemory } from '../memory/restore.ts';
import { letLoadShared } from '../memory/share.ts';
import { guestResolver } from '../network/guest-resolver.ts';
import { vmmSocketOf } from '../vmm.ts';
import { type LaunchedVm, launchVm, writeVmSeed } from './boot.ts';
import type { StartedVm } from './start.ts';
import { reachAgent, wakeAs } from './wake.ts';

/** What a VM begins as. */
export interface Beginning {
  boot: BootFiles;
  /** the VMM to launch, where it was chosen a moment ago */
  vmm?: VmmChoice | undefined;
  /** what else has to be done before the memory is loaded, by the step it is in the timeline */
  first: Readonly<Record<string, (signal: AbortSignal) => Promise<void>>>;
  /** its VMM, which was launched and has its device already */
  launched?: LaunchedVm | undefined;
}

/** Its memory. */
export interface Saved {
  /** what the VMM that wrote the state calls itself */
  vmmVersion: string;
  /** whether its memory file is its own, see `needsOwnMemory`; one for all that begin as the same otherwise */
  ownMemory: boolean;
}

/** How it goes on, and becomes a VM on record. */
export interface Awakening {
  /** units of its init that had failed by then */
  failedUnits: string[];
  /** looks at what was loaded and at the host, before its guest goes on */
  check?: () => Promise<void>;
  /** done when the guest has acknowledged and goes on, before the VM counts as running */
  awake?: () => Promise<void>;
}

/** Steps of a start, each with when it began and how long it took. */
export interface Timeline {
  /** of `performance.now()` */
  began: number;
  steps: TimelineStep[];
  timed<T>(step: string, work: (signal: AbortSignal) => Promise<T>): (signal: AbortSignal) => Promise<T>;
}

/** Begins now. */
export function createTimeline(): Timeline {
  const began = performance.now();
  const steps: TimelineStep[] = [];
  return {
    began,
    steps,
    timed: (step, work) => async (signal) => {
      const startedMs = performance.now() - began;
      const result = await work(signal);
      steps.push({ step, startedMs, durationMs: performance.now() - began - startedMs });
      return result;
    },
  };
}

/**
 * Gives a VM everything on the host and loads its memory; its guest stands still. What fails leaves it to be discarded.
 * @throws BangerError `conflict` when another version of the VMM wrote the state
 */
export async function loadAsNew(
  host: Host,
  vm: VmRecord,
  beginning: Beginning & Saved,
  timeline: Timeline,
  signal: AbortSignal,
): Promise<LaunchedVm> {
  const launched = await prepareAsNew(host, vm, beginning, timeline, signal);
  await loadPrepared(host, vm, beginning, timeline, signal);
  return launched;
}

/** The same without its memory, which has to be in its directory with its disks when `first` is done. */
export async function prepareAsNew(
  host: Host,
  vm: VmRecord,
  { boot, vmm, first, launched: before }: Beginning,
  { timed }: Timeline,
  signal: AbortSignal,
): Promise<LaunchedVm> {
  let launched = before;
  await sideBySide(signal, [
    timed('write-seed-drive', () => writeVmSeed(host, vm)),
    ...(launched
      ? []
      : [
          // what it sends before it has its own address goes nowhere
          timed('attach-network', () => host.network.attach(vm, { closed: true })),
          timed('launch-vmm', async (either) => {
            launched = await launchVm(host, vm, boot, either, { continues: true, vmm });
          }),
        ]),
    ...Object.entries(first).map(([step, work]) => timed(step, work)),
  ]);
  if (launched) return launched;
  throw new BangerError('internal', `The VMM of ${vm.name} was not launched.`);
}

/** Loads the memory of a VM that was prepared. */
export async function loadPrepared(
  host: Host,
  vm: VmRecord,
  { vmmVersion, ownMemory }: Saved,
  { timed }: Timeline,
  signal: AbortSignal,
): Promise<void> {
  const files = memoryFiles(host.config.paths.store, vm.id);
  await timed('load-memory', async () => {
    await letLoadShared(host, vm, files, ownMemory);
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await loadMemory(host, vm, api, files, vmmVersion, tapName(vm.id));
  })(signal);
  signal.throwIfAborted();
}

/**
 * Lets a guest go on whose memory was loaded, as this VM, which is running then.
 * @throws BangerError `guest_failed` when the guest does not acknowledge; it is to be discarded
 */
export async function goOnAsNew(
  host: Host,
  vm: VmRecord,
  { kind, ended }: LaunchedVm,
  { failedUnits, check, awake }: Awakening,
  { began, steps, timed }: Timeline,
  signal: AbortSignal,
): Promise<StartedVm> {
  // before its guest goes on: what it waits for then is in nobody's hands
  const [identity] = await sideBySide(signal, [() => identityOf(host, vm), async () => check?.()]);
  signal.throwIfAborted();
  {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(setState('Resumed'));
  }
  const agent = await timed('reach-agent', () => reachAgent(host, vm))(signal);
  await timed('wake', () => wakeAs(host, vm, identity, agent))(signal);
  // what was loaded needs its name no more
  await Promise.all([timed('open-network', () => host.network.open(vm))(signal), forgetMemory(host, vm)]);
  await awake?.();
  signal.throwIfAborted();
  const tookMs = performance.now() - began;
  const ready = { ms: Math.round(tookMs), failedUnits };
  host.stores.vms.update(vm.id, {
    ...running(vm, { at: host.now(), vmm: kind, timeline: steps, tookMs }),
    ready,
  });
  return { vm: host.stores.vms.get(vm.name), ended };
}

/** All that makes it another machine than the one it begins as. */
async function identityOf(host: Host, vm: VmRecord): Promise<WakeIdentity> {
  const { config, guests, network } = host;
  return {
    hostname: vm.name,
    address: vm.address,
    gateway: gatewayOf(network.pool),
    mtu: await network.mtu(),
    mac: vm.mac,
    machineId: vm.machineId ?? randomBytes(16).toString('hex'),
    bootId: randomUUID(),
    resolver: resolvConf(await guestResolver(config, network.pool)),
    hostKey: { private: vm.hostKeyPrivate, public: `${vm.hostKeyPublic}\n` },
    authorizedKeys: [guests.publicKey],
  };
}
