/**
 * Starts a guest over whose kernel has measured its timer wrongly. Under TCG the one timer that interrupts a guest is its local
 * APIC's (QEMU's microvm has no other that a kernel would use), and Linux measures how fast that counts during 100 ms of its
 * boot, against the TSC. Both go on while the host lets the virtual CPU wait: what is measured then is too much, so that everything
 * in the guest takes many times as long, or too little, or nothing, and the kernel does without a timer and waits for ever.
 * No disk has been read by then, so nothing is lost by a reset.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ThreadLog } from '../log.ts';
import type { MicroVm } from './micro-vm.ts';

/** What the local APIC says of its timer. */
export interface ApicTimer {
  masked: boolean;
  mode: 'one-shot' | 'periodic' | 'deadline';
  vector: number;
  divisor: number;
  initialCount: number;
}

/** `measuring`: as Linux leaves it until it is done, and for ever when it gives the timer up. */
export type TimerState = 'unused' | 'measuring' | 'right' | 'wrong' | 'beyond';

/** A kernel ticks for half a second before it changes to one-shot timers. */
const POLL_MS = 20;
/** The same while the guest's processor does nothing, and so nothing to its timer. */
const IDLE_POLL_MS = 250;
/** Later no kernel is at this point any more, or it is none that we know. */
const WATCHED_MS = 120_000;
/** Machines that are started over so often are on a host on which nothing helps. */
const MAX_RESETS = 5;

/** Counts per second: QEMU's APIC has 1 GHz, and Linux divides that by 16. */
const COUNTS_PER_SECOND = 62_500_000;
/** Ticks per second that Linux can be built with. One of 250 that counts 2.5 times too slowly looks like one of 100, and is left. */
const TICK_RATES = [100, 250, 300, 1000];
/** Timers that are wrong by no more than this are of no consequence. */
const TOLERANCE = 1.25;
/** What Linux lets the timer count from while it measures. */
const MEASURED_FROM = 0xffff_ffff >>> 4;
/** Linux's interrupt for it since 4.20 or so, and what it lets the timer divide by. */
const LINUX_VECTOR = 0xec;
const LINUX_DIVISOR = 16;
/** CPU time in which it is done with that; it never sleeps meanwhile. */
const MEASURING_CPU_MS = 400;

/** What is done to a machine. */
export type WatchedVm = Pick<MicroVm, 'execute' | 'paused' | 'pid' | 'reset'>;

/** Watches until the guest's timer is known to be right. Never rejects: a machine may end at any time. */
export async function watchTimer(vm: WatchedVm, log: Pick<ThreadLog, 'warn'>): Promise<void> {
  try {
    await watch(vm, log);
  } catch {
    // QEMU is gone, or tells these things in another way: then nothing is known, and nothing is done
  }
}

async function watch(vm: WatchedVm, log: Pick<ThreadLog, 'warn'>): Promise<void> {
  const [cpu] = await vm.execute<{ 'thread-id': number }[]>('query-cpus-fast');
  const cpuMs = () => threadCpuMs(vm.pid, cpu?.['thread-id'] ?? 0);
  const end = performance.now() + WATCHED_MS;
  let measuringSince: number | undefined;
  let waitMs = POLL_MS;
  let unusedAt: number | undefined;
  for (let resets = 0; performance.now() < end; ) {
    await sleep(waitMs, undefined, { ref: false });
    if (vm.paused) continue;
    // a CPU that has not run since has not touched its timer either
    if (unusedAt === cpuMs()) {
      waitMs = Math.min(waitMs * 2, IDLE_POLL_MS);
      continue;
    }
    waitMs = POLL_MS;
    unusedAt = undefined;
    const timer = parseApicTimer(await ask(vm, 'info lapic'));
    const state = timer && timerState(timer);
    if (state === undefined || state === 'beyond' || state === 'right') return;
    if (state === 'unused') {
      unusedAt = cpuMs();
      continue;
    }
    if (state === 'measuring') {
      measuringSince ??= cpuMs();
      if (cpuMs() - measuringSince < MEASURING_CPU_MS && !/\bHLT=1\b/.test(await ask(vm, 'info registers'))) continue;
    } else if (measuringSince === undefined && timer?.vector !== LINUX_VECTOR) return; // another kernel ticks as it likes
    if (resets === MAX_RESETS || (await hasUsedDisks(vm))) {
      log.warn('The guest has measured its timer wrongly, because the host was busy: it may be slow, or hang.');
      return;
    }
    if (vm.paused) continue;
    log.warn('The guest has measured its timer wrongly, because the host was busy: it is started over.');
    await vm.reset();
    resets += 1;
    measuringSince = undefined;
  }
}

/** QEMU's text about the local APIC of the first CPU. @returns undefined when it is another than expected */
export function parseApicTimer(text: string): ApicTimer | undefined {
  const entry = /^LVTT\s+0x([0-9a-f]+)/m.exec(text)?.[1];
  const count = /\binitial_count = (\d+)/.exec(text)?.[1];
  const divisor = /\(divide by (\d+)\)/.exec(text)?.[1];
  if (entry === undefined || count === undefined || divisor === undefined) return undefined;
  const bits = Number.parseInt(entry, 16);
  const mode = (['one-shot', 'periodic', 'deadline'] as const)[(bits >>> 17) & 3];
  if (mode === undefined) return undefined;
  const masked = (bits & 0x1_0000) !== 0;
  return { masked, mode, vector: bits & 0xff, divisor: Number(divisor), initialCount: Number(count) };
}

export function timerState({ masked, mode, divisor, initialCount }: ApicTimer): TimerState {
  if (masked) return mode === 'periodic' && initialCount === MEASURED_FROM ? 'measuring' : 'unused';
  // that comes after the ticks
  if (mode !== 'periodic' || divisor !== LINUX_DIVISOR) return 'beyond';
  // allowed to interrupt already, but not yet told how often
  if (initialCount === MEASURED_FROM) return 'measuring';
  const isRight = TICK_RATES.map((rate) => (initialCount * rate) / COUNTS_PER_SECOND).some(
    (ratio) => ratio < TOLERANCE && ratio > 1 / TOLERANCE,
  );
  return isRight ? 'right' : 'wrong';
}

/** Then a reset would be a power cut. */
async function hasUsedDisks(vm: WatchedVm): Promise<boolean> {
  const disks = await vm.execute<{ stats: { rd_operations: number; wr_operations: number } }[]>('query-blockstats');
  return disks.some(({ stats }) => stats.rd_operations + stats.wr_operations > 0);
}

async function ask(vm: WatchedVm, command: string): Promise<string> {
  return await vm.execute<string>('human-monitor-command', { 'command-line': command, 'cpu-index': 0 });
}

/** CPU time of one thread in `ms`. */
function threadCpuMs(pid: number, thread: number): number {
  const fields = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
