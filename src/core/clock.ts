/** Clocks that stood still: a host that slept, a daemon that was held, and guests that lost the time meanwhile. */

/** Two clocks of this host read at once. */
export interface ClockSample {
  /** CLOCK_MONOTONIC in `ms`, which stands still while the host sleeps */
  monotonicMs: number;
  /** CLOCK_BOOTTIME in `ms`, which goes on */
  boottimeMs: number;
}

export type ClockJump =
  /** the host slept this long */
  | { kind: 'slept'; ms: number }
  /** this process, and maybe more than it, was not run for this long */
  | { kind: 'held'; ms: number };

/** Less is a busy host; guests keep time over it. */
const HELD_MS = 5000;

/** CLOCK_BOOTTIME comes with a resolution of 10 ms, and both are not read in the same instant. */
const SLEPT_MS = 1000;

/** What happened between two samples that should lie `intervalMs` apart; undefined when nothing did. */
export function findJump(before: ClockSample, after: ClockSample, intervalMs: number): ClockJump | undefined {
  const monotonic = after.monotonicMs - before.monotonicMs;
  const slept = after.boottimeMs - before.boottimeMs - monotonic;
  if (slept >= SLEPT_MS) return { kind: 'slept', ms: Math.round(slept) };
  const held = monotonic - intervalMs;
  return held >= HELD_MS ? { kind: 'held', ms: Math.round(held) } : undefined;
}

/** How far a guest's clock may be off before it is set: `date` answers in whole seconds. */
const TOLERANCE_S = 1.5;

/** Whether a guest whose clock shows `guestSeconds` must be told that it is `hostMs`. */
export function mustStep(guestSeconds: number, hostMs: number): boolean {
  return Math.abs(guestSeconds + 0.5 - hostMs / 1000) > TOLERANCE_S;
}
