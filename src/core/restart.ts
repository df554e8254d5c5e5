/** Whether a VM that ended by itself is started again, and when. */
import type { RestartState, VmRecord } from './vm.ts';

/** How a run ended that nobody asked to end; a guest that reboots is not one of them, see `nextReboot`. */
export type RunEnd =
  /** the VMM died, or a start that the policy had asked for failed */
  | 'failure'
  /** the guest powered itself off */
  | 'poweroff';

/** First wait; every further one is twice as long. */
const FIRST_DELAY_MS = 1000;

/** The longest wait: a host that was short of something for hours is used again soon after. */
const LONGEST_DELAY_MS = 5 * 60_000;

/** A run of this length was no failed attempt: what ends it counts from the beginning. */
const STABLE_RUN_MS = 60_000;

type Judged = Pick<VmRecord, 'restartPolicy' | 'restarts' | 'startedAt'>;

/** The next attempt of a VM whose run just ended; undefined when its policy leaves it where it is. */
export function nextRestart(vm: Judged, end: RunEnd, now: Date): (RestartState & { nextAt: string }) | undefined {
  if (vm.restartPolicy === 'never' || (vm.restartPolicy === 'on-failure' && end !== 'failure')) return undefined;
  const before = ranStably(vm, now) ? 0 : (vm.restarts?.attempts ?? 0);
  return { attempts: before + 1, nextAt: new Date(now.getTime() + delayMs(before)).toISOString() };
}

/** Reboots in a row that are nobody's concern: installers and updates do two or three. */
const QUICK_REBOOTS = 3;

/** The next start of a guest that rebooted: at once, unless it does nothing else. Its policy has no say in it. */
export function nextReboot(vm: Omit<Judged, 'restartPolicy'>, now: Date): RestartState {
  const before = ranStably(vm, now) ? 0 : (vm.restarts?.attempts ?? 0);
  const waits = before < QUICK_REBOOTS ? null : delayMs(before - QUICK_REBOOTS);
  return { attempts: before + 1, nextAt: waits === null ? null : new Date(now.getTime() + waits).toISOString() };
}

/** Wait in `ms` after so many attempts. */
export function delayMs(attempts: number): number {
  return Math.min(FIRST_DELAY_MS * 2 ** Math.min(attempts, 30), LONGEST_DELAY_MS);
}

export function ranStably({ startedAt }: Pick<VmRecord, 'startedAt'>, now: Date): boolean {
  return startedAt !== null && now.getTime() - Date.parse(startedAt) >= STABLE_RUN_MS;
}

/** VMs to start when a host came up. */
export function toAutostart<T extends Pick<VmRecord, 'autostart' | 'phase'>>(
  vms: readonly T[],
  boots: { current: string; handled: string | undefined },
): T[] {
  if (boots.current === boots.handled) return [];
  return vms.filter((vm) => vm.autostart && (vm.phase === 'stopped' || vm.phase === 'failed'));
}
