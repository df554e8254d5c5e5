/**
 * How much slower than the machines that limits of tests were chosen on this place is. Host tests also run in a VM that
 * is emulated, where a program takes twenty times as long to start: a limit there is the usual one times the pace.
 *
 * Contract: `BANGER_TEST_PACE` is the pace, a number from 1 on. Without it the place is measured once per process, which
 * takes as long as three starts of Node. Whoever runs many test files measures once and passes it on:
 * `env: { ...process.env, BANGER_TEST_PACE: String(pace()) }`. Limits for the product ("within 5 s") are scaled too;
 * times that a test itself lets pass (a `sleep` in a guest) are not.
 */
import { spawnSync } from 'node:child_process';

/** What the start of a Node that does nothing takes where limits were chosen, on a machine that is busy with two VMs, in `ms`. */
const USUAL_START_MS = 150;

/** Guests do not become as slow as the programs that start them; a test that hangs must still end. */
const MOST = 10;

let measured: number | undefined;

/** At least 1. */
export function pace(): number {
  measured ??= given(process.env.BANGER_TEST_PACE) ?? measure();
  return measured;
}

/** A limit in `ms`, or whatever else shall grow with the slowness of the place. */
export function paced(limit: number): number {
  return Math.round(limit * pace());
}

/** @throws Error when the variable holds no pace: a limit of NaN would never end a test */
export function given(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  const value = Number(text);
  if (!Number.isFinite(value) || value < 1) throw new Error(`BANGER_TEST_PACE is "${text}"; it must be 1 or more.`);
  return value;
}

/** The pace of a place where Node starts in `startMs`: never faster than usual, for a quiet moment says nothing about the next. */
export function paceOf(startMs: number): number {
  return Math.min(MOST, Math.max(1, Math.round((startMs / USUAL_START_MS) * 10) / 10));
}

/** The second of three starts by duration: the first one reads the file from the disk, and one may meet something else. */
function measure(): number {
  const durations = [1, 2, 3].map(() => {
    const began = performance.now();
    const { error, status } = spawnSync(process.execPath, ['--eval', '0'], { stdio: 'ignore' });
    if (error || status !== 0) throw new Error('Node cannot start itself, so the pace of this place is not known.');
    return performance.now() - began;
  });
  return paceOf(durations.sort((a, b) => a - b)[1] ?? 0);
}
