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
  /** what the VMM that wrote the state calls itself */
  vmmVersion: string;
  /** units of its init that had failed by then */
  failedUnits: string[];
  /** whether its memory file is its own, see `needsOwnMemory`; one for all that begin as the same otherwise */
  ownMemory: boolean;
  /** what else has to be done before the memory is loaded, by the step it is in the timeline */
  first: Readonly<Record<string, (signal: AbortSignal) => Promise<void>>>;
  /** checks that go on beside all this, and have to pass before its guest goes on */
  checks?: Promise<void> | undefined;
  /** looks at what was loaded, before its guest goes on */
  loaded?: () => Promise<void>;
  /** done when the guest has acknowledged and goes on, before the VM counts as running */
  awake?: () => Promise<void>;
  /** its VMM, which was launched and has its device already */
  launched?: LaunchedVm | undefined;
  /** of `performance.now()`: what came before is part of the start */
  began?: number;
}

/**
 * Disks and memory of `vm` have to be in its directory when `first` is done. What fails leaves it to be discarded.
 * @throws BangerError `guest_failed` when the guest does not acknowledge
 */
export async function startAsNew(
  host: Host,
  vm: VmRecord,
  { boot, vmm, vmmVersion, failedUnits, ownMemory, first, checks, loaded, awake, ...before }: Beginning,
  signal: AbortSignal,
): Promise<StartedVm> {
  const { began = performance.now() } = before;
  const timeline: TimelineStep[] = [];
  const timed =
    <T>(step: string, work: (either: AbortSignal) => Promise<T>) =>
    async (either: AbortSignal): Promise<T> => {
      const startedMs = performance.now() - began;
      const result = await work(either);
      timeline.push({ step, startedMs, durationMs: performance.now() - began - startedMs });
      return result;
    };
  let { launched } = before;
  let identity: WakeIdentity | undefined;
  await sideBySide(signal, [
    // before its guest goes on: what it waits for then is in nobody's hands
    async () => {
      identity = await identityOf(host, vm);
    },
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
  if (!launched || !identity) throw new BangerError('internal', `The VMM of ${vm.name} was not launched.`);
  {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    const files = memoryFiles(host.config.paths.store, vm.id);
    await timed('load-memory', async () => {
      await letLoadShared(host, vm, files, ownMemory);
      await loadMemory(host, vm, api, files, vmmVersion, tapName(vm.id));
      await loaded?.();
      await checks;
    })(signal);
    signal.throwIfAborted();
    await api.send(setState('Resumed'));
  }
  const who = identity;
  const agent = await timed('reach-agent', () => reachAgent(host, vm))(signal);
  await timed('wake', () => wakeAs(host, vm, who, agent))(signal);
  // what was loaded needs its name no more
  await Promise.all([timed('open-network', () => host.network.open(vm))(signal), forgetMemory(host, vm)]);
  await awake?.();
  signal.throwIfAborted();
  const tookMs = performance.now() - began;
  const ready = { ms: Math.round(tookMs), failedUnits };
  host.stores.vms.update(vm.id, {
    ...running(vm, { at: host.now(), vmm: launched.kind, timeline, tookMs }),
    ready,
  });
  return { vm: host.stores.vms.get(vm.name), ended: launched.ended };
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
