/** VMs as the API shows them. */
import type { Vm, VmDetail } from '../../api/vm.ts';
import { pendingValues } from '../../core/plan-set.ts';
import { PROCESS_STATE_COMMAND, parseProcessState } from '../../core/process-state.ts';
import { ranStably } from '../../core/restart.ts';
import { hasGuest, shownState, tapName, type VmRecord } from '../../core/vm.ts';
import { describeVmm } from '../../firecracker/api.ts';
import { limitsOf, parseVmmVersion } from '../../firecracker/versions.ts';
import { runThroughAgent } from '../../guest/run-script.ts';
import { allocatedBytes, apparentBytes } from '../../storage/disk.ts';
import { imageFiles, vmFiles } from '../../storage/layout.ts';
import { sleep } from '../../system/abort.ts';
import type { Host } from '../host.ts';
import { readOciRecord } from '../images/oci-record.ts';
import { vmmSocketOf } from '../vmm.ts';
import { problemOf } from './problem.ts';
import { whyNotResumable } from './resume.ts';
import { lookAtUserData } from './user-data.ts';

/** Without looking at the host; what operations return. */
export function viewVm(host: Pick<Host, 'stores'>, vm: VmRecord): Vm {
  const process =
    vm.phase === 'running' ? host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'vmm') : undefined;
  return {
    id: vm.id,
    name: vm.name,
    state: shownState(vm),
    failure: vm.failure,
    problem: null,
    image: vm.image,
    vcpus: vm.vcpus,
    memoryMib: vm.memoryMib,
    rootDiskBytes: vm.rootDiskBytes,
    workDiskBytes: vm.workDiskBytes,
    workDiskMount: vm.workDiskMount,
    address: vm.address,
    mac: vm.mac,
    nat: vm.nat,
    autostart: vm.autostart,
    restartPolicy: vm.restartPolicy,
    idleSuspendMs: vm.idleSuspendMs,
    awakeUntil: vm.awakeUntil,
    createdAt: vm.createdAt,
    startedAt: vm.startedAt,
    vmm: vm.vmm,
    pid: process?.kind === 'vmm' ? (process.identity?.pid ?? null) : null,
    ready: vm.phase === 'running' && vm.ready !== null,
    bootMs: vm.bootMs,
    readyMs: vm.ready?.ms ?? null,
    failedUnits: vm.ready?.failedUnits ?? [],
    temporary: vm.temporary === null ? null : { holder: vm.temporary.holder },
    forkedFrom: vm.forkedFrom,
    suspended: vm.memory && { at: vm.memory.at, memoryBytes: vm.memory.bytes },
    snapshots: host.stores.snapshots.count(vm.id),
    health: null,
  };
}

/** With what is wrong with it at this moment. */
export async function viewVmNow(host: Pick<Host, 'stores' | 'health'>, vm: VmRecord): Promise<Vm> {
  const health = vm.phase === 'running' ? (host.health.processes.get(vm.id) ?? null) : null;
  return { ...viewVm(host, vm), problem: await problemOf(host, vm), health };
}

/** How long a VMM gets to say its version to somebody who looks, in `ms`. */
const VERSION_LIMIT_MS = 1000;

export async function viewVmDetail(
  host: Pick<Host, 'checks' | 'config' | 'stores' | 'system' | 'health' | 'now' | 'agents'>,
  vm: VmRecord,
): Promise<VmDetail> {
  const files = vmFiles(host.config.paths.store, vm.id);
  const roles = [
    ['root', files.rootDisk],
    ['work', files.workDisk],
    ['seed', files.seedDrive],
  ] as const;
  const disks = await Promise.all(
    roles.map(async ([role, path]) => {
      try {
        return [{ role, path, apparentBytes: await apparentBytes(path), allocatedBytes: await allocatedBytes(path) }];
      } catch {
        return []; // not made yet: the work disk and the seed appear with the first start
      }
    }),
  );
  // first: it brings the health up to date
  const process = vm.phase === 'running' && vm.paused === null ? await viewProcess(host, vm) : null;
  return {
    ...(await viewVmNow(host, vm)),
    ...(await viewVmm(host, vm)),
    notResumable: vm.phase === 'suspended' ? await whyNotResumable(host, vm) : [],
    agent: vm.phase === 'running' ? await viewAgent(host, vm) : null,
    userData: (await lookAtUserData(host, vm)) ?? null,
    process,
    directory: files.directory,
    disks: disks.flat(),
    tap: tapName(vm.id),
    consoleLog: files.consoleLog,
    vmmLog: files.vmmLog,
    pending: pendingValues(vm),
    current: hasGuest(vm) ? vm.run : null,
    lastEnd: vm.lastEnd,
    restarts: vm.phase === 'running' && ranStably(vm, host.now()) ? null : vm.restarts,
    bootTimeline: vm.bootTimeline,
  };
}

/** What its VMM says of itself: the file it was started from may be another version by now. */
async function viewVmm(
  host: Pick<Host, 'config' | 'stores' | 'system'>,
  vm: VmRecord,
): Promise<Pick<VmDetail, 'vmmVersion' | 'vmmLimits'>> {
  const unknown = { vmmVersion: null, vmmLimits: [] };
  if (vm.phase !== 'running') return unknown;
  try {
    const said = await describeVmm(vmmSocketOf(host, vm.id), VERSION_LIMIT_MS);
    if (said === 'silent') return unknown;
    const version = parseVmmVersion(said.vmm_version);
    return { vmmVersion: said.vmm_version, vmmLimits: version ? limitsOf(version) : [] };
  } catch {
    return unknown; // it ends at this moment, or is halted: `problem` says so
  }
}

/** What is known of the agent in a guest that runs, after looking for it. */
async function viewAgent({ agents }: Pick<Host, 'agents'>, vm: VmRecord): Promise<VmDetail['agent']> {
  await agents.get(vm);
  const standing = agents.standing(vm) ?? { kind: 'absent' };
  return {
    state: standing.kind,
    version: standing.kind === 'present' ? standing.version : null,
    reason: standing.kind === 'troubled' ? standing.why : null,
  };
}

/** A guest that is busy must not keep anybody waiting who only looks. */
const PROCESS_LIMIT_MS = 3000;

/** A guest that went on from memory has much to do at first, as has its host. */
const PROCESS_PAUSES_MS: readonly number[] = [5000, 15_000, 60_000, 300_000];

/**
 * Learns how the process of an image is in a guest that goes on from before: it may have said so when nobody listened, and says it
 * only once. It is asked until it answers, or has said something by itself.
 */
export async function learnProcess(
  host: Pick<Host, 'agents' | 'config' | 'health' | 'stores'>,
  vm: VmRecord,
  signal: AbortSignal,
  pausesMs = PROCESS_PAUSES_MS,
): Promise<void> {
  for (const pauseMs of [0, ...pausesMs]) {
    await sleep(pauseMs, signal);
    if (host.health.processes.has(vm.id) || !(await isOfOci(host, vm)) || (await viewProcess(host, vm))) return;
  }
}

async function isOfOci({ config }: Pick<Host, 'config'>, { imageId }: VmRecord): Promise<boolean> {
  return (
    imageId !== null && (await readOciRecord(imageFiles(config.paths.store, imageId).oci).catch(() => {})) !== undefined
  );
}

/** What the guest says of the process of its image; null where there is none, and when it does not tell. */
export async function viewProcess(
  { agents, config, health, stores }: Pick<Host, 'agents' | 'config' | 'health' | 'stores'>,
  vm: VmRecord,
): Promise<VmDetail['process']> {
  if (vm.imageId === null) return null;
  const oci = await readOciRecord(imageFiles(config.paths.store, vm.imageId).oci).catch(() => undefined);
  const agent = oci && (await agents.get(vm));
  if (!agent?.hello.features.has('exec')) return null;
  try {
    const { output } = await runThroughAgent(agent, PROCESS_STATE_COMMAND, PROCESS_LIMIT_MS);
    const state = parseProcessState(output) ?? null;
    // it may have been stopped meanwhile
    if (stores.vms.findById(vm.id)?.phase !== 'running') return state;
    if (state?.health) health.processes.set(vm.id, state.health.state);
    else health.processes.delete(vm.id);
    return state;
  } catch {
    return null; // it ends at this moment
  }
}
