/** What VMs use, looked at when somebody asks and never otherwise. */
import type { VmStats } from '../../api/stats.ts';
import { shownState, tapName, type VmRecord } from '../../core/vm.ts';
import type { GuestMemory } from '../../guest/meminfo.ts';
import { readTapStats, type TapStats } from '../../network/tap-stats.ts';
import { allocatedBytes, apparentBytes } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import { sleep } from '../../system/abort.ts';
import { type ProcessStats, readProcessTree } from '../../system/process-stats.ts';
import { MIB } from '../../units.ts';
import type { Host } from '../host.ts';
import { problemOf } from '../vm/problem.ts';
import { createGuestUsage } from './guest-usage.ts';

export interface StatsSampler {
  /**
   * One sample of each VM. Takes a moment longer when nobody has asked lately: the share of a processor is a
   * difference between two looks.
   * @throws BangerError `cancelled` when `signal` was aborted meanwhile
   */
  sample(vms: readonly VmRecord[], signal?: AbortSignal): Promise<VmStats[]>;
}

/** Processor time at one look, to which the next one is compared. */
interface CpuMark {
  /** start of the VMM; another one is another run */
  startTicks: number;
  cpuMs: number;
  atMs: number;
  /** percent found at this look */
  percent: number | null;
}

interface Look {
  vm: VmRecord;
  processes: ProcessStats[];
  tap: TapStats | undefined;
  disks: { apparent: number; allocated: number };
  atMs: number;
}

/** The kernel counts in steps of 10 ms: over this long they are 4 percent. */
const SECOND_LOOK_MS = 250;
/** Two looks further apart say how it was on average, not how it is. */
const MARK_LIVES_MS = 10_000;

export type StatsHost = Pick<Host, 'config' | 'stores' | 'guests' | 'health' | 'now'>;

export function createStatsSampler(host: StatsHost): StatsSampler {
  const marks = new Map<string, CpuMark>();
  const guestUsage = createGuestUsage(host.guests);

  /** Percent since the mark; undefined when there is none to compare with. Moves the mark forward. */
  function cpuPercent({ vm, processes: [vmm, ...helpers], atMs }: Look): number | null | undefined {
    if (!vmm) return null;
    const cpuMs = sum([vmm, ...helpers], (process) => process.cpuMs);
    const mark = marks.get(vm.id);
    const same = mark?.startTicks === vmm.startTicks && atMs - mark.atMs <= MARK_LIVES_MS ? mark : undefined;
    // somebody else has just looked: what was found then holds, and the mark stays until the step is large enough
    if (same && same.percent !== null && atMs - same.atMs < SECOND_LOOK_MS) return same.percent;
    if (same && atMs - same.atMs < SECOND_LOOK_MS) return undefined;
    const percent = same ? Math.max(((cpuMs - same.cpuMs) / (atMs - same.atMs)) * 100, 0) : null;
    marks.set(vm.id, { startTicks: vmm.startTicks, cpuMs, atMs, percent });
    return percent ?? undefined;
  }

  function forgetOldMarks(): void {
    const oldest = performance.now() - MARK_LIVES_MS;
    for (const [id, { atMs }] of marks) if (atMs < oldest) marks.delete(id);
  }

  async function look(vm: VmRecord): Promise<Look> {
    const [processes, tap, disks] = await Promise.all([
      vmmProcesses(host, vm),
      vm.phase === 'running' ? readTapStats(tapName(vm.id)) : undefined,
      diskSizes(vmFiles(host.config.paths.store, vm.id)),
    ]);
    return { vm, processes, tap, disks, atMs: performance.now() };
  }

  /** Looks twice when the first look has nothing to be compared with. */
  async function lookForCpu(vm: VmRecord, signal?: AbortSignal): Promise<{ seen: Look; percent: number | null }> {
    const first = await look(vm);
    const percent = cpuPercent(first);
    if (percent !== undefined) return { seen: first, percent };
    // a timer may come a little early
    await sleep(SECOND_LOOK_MS + 10, signal);
    const second = await look(vm);
    return { seen: second, percent: cpuPercent(second) ?? null };
  }

  return {
    async sample(vms, signal) {
      forgetOldMarks();
      return await Promise.all(
        vms.map(async (vm) => {
          const [{ seen, percent }, guest, problem] = await Promise.all([
            lookForCpu(vm, signal),
            shownState(vm) === 'running' ? guestUsage.memory(vm) : null,
            problemOf(host, vm),
          ]);
          return describe(seen, { percent, guest, problem }, host.now());
        }),
      );
    },
  };
}

/** The VMM and what it started; empty when it does not run. */
async function vmmProcesses({ stores }: StatsHost, vm: VmRecord): Promise<ProcessStats[]> {
  const resource = stores.ledger.of(vm.id).find(({ kind }) => kind === 'vmm');
  if (resource?.kind !== 'vmm' || !resource.identity) return [];
  const processes = await readProcessTree(resource.identity.pid);
  // the number alone may be another process's by now
  return processes[0]?.startTicks === resource.identity.startTicks ? processes : [];
}

async function diskSizes({ rootDisk, workDisk }: { rootDisk: string; workDisk: string }): Promise<Look['disks']> {
  const sizes = await Promise.all(
    // a work disk is made by the first start, and a VM may be without
    [rootDisk, workDisk].map(async (path) => ({
      apparent: await apparentBytes(path).catch(() => 0),
      allocated: await allocatedBytes(path).catch(() => 0),
    })),
  );
  return {
    apparent: sizes.reduce((total, size) => total + size.apparent, 0),
    allocated: sizes.reduce((total, size) => total + size.allocated, 0),
  };
}

function describe(
  { vm, processes, tap, disks }: Look,
  { percent, guest, problem }: { percent: number | null; guest: GuestMemory | null; problem: string | null },
  now: Date,
): VmStats {
  const alive = processes.length > 0;
  const ios = processes.map(({ io }) => io);
  const io = alive && ios.every((counters) => counters !== null) ? ios : undefined;
  return {
    id: vm.id,
    name: vm.name,
    state: shownState(vm),
    problem,
    sampledAt: now.toISOString(),
    uptimeMs: vm.startedAt === null ? null : Math.max(now.getTime() - Date.parse(vm.startedAt), 0),
    vcpus: vm.vcpus,
    cpuPercent: percent === null ? null : Math.round(percent * 10) / 10,
    cpuMs: alive ? sum(processes, ({ cpuMs }) => cpuMs) : null,
    threads: alive ? sum(processes, ({ threads }) => threads) : null,
    memoryBytes: vm.memoryMib * MIB,
    rssBytes: alive ? sum(processes, ({ rssBytes }) => rssBytes) : null,
    guestUsedBytes: guest?.usedBytes ?? null,
    guestTotalBytes: guest?.totalBytes ?? null,
    diskBytes: disks.apparent,
    diskAllocatedBytes: disks.allocated,
    suspendedBytes: vm.memory?.bytes ?? null,
    diskReadBytes: io ? sum(io, (counters) => counters.readBytes) : null,
    diskWrittenBytes: io ? sum(io, (counters) => counters.writtenBytes) : null,
    netReceivedBytes: tap?.receivedBytes ?? null,
    netSentBytes: tap?.sentBytes ?? null,
  };
}

function sum<T>(values: readonly T[], of: (value: T) => number): number {
  return values.reduce((total, value) => total + of(value), 0);
}
