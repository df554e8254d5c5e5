/** What a VM's record says after each turn of its life: the only place where phases and what belongs to them change. */
import { BangerError, messageOf } from '../errors.ts';
import type { LastEnd } from './run-end.ts';
import type { Paused, SavedMemory, TimelineStep, VmRecord } from './vm.ts';

/** Fields that change after creation. */
export type VmChange = Partial<Omit<VmRecord, 'id' | 'mac' | 'createdAt' | 'temporary' | 'machineId' | 'forkedFrom'>>;

/** Nothing of a run is left. */
export function stopped(): VmChange {
  return { phase: 'stopped', failure: null, startedAt: null, vmm: null, memory: null, paused: null };
}

/** @param why a sentence for people */
export function failed(why: string): VmChange {
  return { phase: 'failed', failure: why, startedAt: null, vmm: null, memory: null, paused: null };
}

/** It ended as nobody wanted it, which is kept until it happens again. */
export function ended(lastEnd: LastEnd): VmChange {
  return { ...failed(lastEnd.why), lastEnd };
}

export function starting(): VmChange {
  return { phase: 'starting', failure: null, bootTimeline: [], bootMs: null, ready: null, paused: null };
}

export interface StartedRun {
  /** when the start ended */
  at: Date;
  vmm: VmRecord['vmm'];
  timeline: readonly TimelineStep[];
  /** `ms` the start took */
  tookMs: number;
}

export function running(
  vm: Pick<VmRecord, 'name' | 'vcpus' | 'memoryMib'>,
  { at, vmm, timeline, tookMs }: StartedRun,
): VmChange {
  return {
    phase: 'running',
    startedAt: at.toISOString(),
    vmm,
    run: { hostname: vm.name, vcpus: vm.vcpus, memoryMib: vm.memoryMib },
    bootTimeline: timeline.map(inWholeMs),
    bootMs: Math.round(tookMs),
  };
}

interface ReadyWord {
  /** when it was heard; undefined for a guest that does not say when it is ready */
  at: Date | undefined;
  /** `ms` the guest's kernel had run; given where it may have been said long before it was heard */
  uptimeMs?: number | undefined;
  failedUnits: string[];
}

/** The guest has said that it is ready: not before its first login, and not later than that was heard. */
export function becameReady(
  { startedAt, bootMs, bootTimeline }: Pick<VmRecord, 'startedAt' | 'bootMs' | 'bootTimeline'>,
  { at, uptimeMs, failedUnits }: ReadyWord,
): VmChange {
  const loginMs = bootMs ?? 0;
  const heardMs = startedAt === null || !at ? loginMs : at.getTime() - Date.parse(startedAt) + loginMs;
  const kernel = bootTimeline.find(({ step }) => step === 'boot-guest');
  const saidMs = uptimeMs === undefined ? heardMs : (kernel?.startedMs ?? 0) + (kernel?.durationMs ?? 0) + uptimeMs;
  return { ready: { ms: Math.round(Math.max(loginMs, Math.min(saidMs, heardMs))), failedUnits } };
}

/** After a start that was undone: one that was called off leaves a stopped VM, not a broken one. */
export function notStarted(error: unknown, timeline: readonly TimelineStep[]): VmChange {
  const calledOff = error instanceof BangerError && error.code === 'cancelled';
  return { ...(calledOff ? stopped() : failed(messageOf(error))), bootTimeline: timeline.map(inWholeMs) };
}

/** Its memory is about to be saved. */
export function suspending(): VmChange {
  return { phase: 'suspending' };
}

/** Its memory is safe, and it goes on from there and nowhere else. */
export function suspended(memory: SavedMemory): VmChange {
  return { phase: 'suspended', failure: null, startedAt: null, vmm: null, restarts: null, memory };
}

export function resuming(): VmChange {
  return { phase: 'resuming' };
}

/** From the next moment on its guest writes to its disks, on this boot of the host. */
export function spent(memory: SavedMemory, bootId: string): VmChange {
  return { memory: { ...memory, spentOn: bootId } };
}

/** Nothing was written to its disks: it is suspended as before. */
export function suspendedAgain(memory: SavedMemory): VmChange {
  return suspended({ ...memory, spentOn: null });
}

/** Its guest runs on, after its memory was saved or was to be saved; when it booted stays as it was. */
export function goneOn({ at, vmm }: Pick<StartedRun, 'at' | 'vmm'>): VmChange {
  return { phase: 'running', failure: null, startedAt: at.toISOString(), vmm, memory: null };
}

/** Its suspend came to nothing: it runs as if nobody had asked for it. */
export function notSuspended(): VmChange {
  return { phase: 'running', memory: null };
}

/** Its guest stands still; written before that is so, and taken out after it goes on. */
export function paused(why: Paused): VmChange {
  return { paused: why };
}

/** Its guest goes on. */
export function goingOn(): VmChange {
  return { paused: null };
}

/** Being stopped for good: what was planned for it is planned no more. */
export function stopping(): VmChange {
  return { phase: 'stopping', restarts: null };
}

/** Being deleted with its disks: `creating` is the phase whose recovery is removal, so none comes back as half a VM. */
export function leaving(): VmChange {
  return { phase: 'creating' };
}

/** After a daemon's death in the middle of what the phase says, when everything is freed. */
export function interrupted({ phase, failure, restarts }: Pick<VmRecord, 'phase' | 'failure' | 'restarts'>): VmChange {
  return {
    ...stopped(),
    ...(phase === 'failed' ? { phase, failure } : {}),
    // an attempt that was interrupted is made again; the end of the host was no failure of the VM
    restarts: phase === 'running' ? null : restarts,
  };
}

/** A record as it is kept in the trash. Memory that no guest has gone on from belongs to its disks, whatever it was to be used for. */
export function trashed(vm: VmRecord): VmRecord {
  return { ...vm, ...(vm.memory?.spentOn === null ? suspended(vm.memory) : stopped()), restarts: null };
}

function inWholeMs({ step, startedMs, durationMs }: TimelineStep): TimelineStep {
  return { step, startedMs: Math.round(startedMs), durationMs: Math.round(durationMs) };
}
