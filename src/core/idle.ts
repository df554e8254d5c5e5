/** Whether a VM is used: what speaks for it at a look, and for how long nothing has. */

/** What is seen of a VM that runs. */
export interface IdleSight {
  nowMs: number;
  /** tells its run from others: a VM that went on is awake anew */
  run: string;
  /** commands, copies and logins through the daemon */
  sessions: number;
  /** how many of these have begun: one may be over before anybody looks */
  sessionsBegun: number;
  /** connections that are open from or to it; undefined where they cannot be seen */
  connections: number | undefined;
  /** packets its device has carried in this run */
  packets: number;
  /** processor time of its VMM in this run */
  cpuMs: number;
}

/** A time in which nothing spoke for its use. */
export interface IdleSpan extends Pick<IdleSight, 'run' | 'sessionsBegun' | 'packets' | 'cpuMs'> {
  sinceMs: number;
}

/** More of one processor than this is work: an idle guest needs its timers alone. */
const BUSY_PERCENT = 2;

/** Where connections are not seen, more packets than that are talk; resolvers and clocks send a few. */
const BUSY_PACKETS_PER_MINUTE = 60;

/**
 * @param span what the look before this one returned
 * @param idleMs after so long it is to be suspended
 * @returns the span that goes on or begins now, and whether it is long enough
 */
export function judgeIdle(
  span: IdleSpan | undefined,
  seen: IdleSight,
  idleMs: number,
  awakeUntil: string | null,
): { span: IdleSpan; suspend: boolean } {
  const { nowMs, run, sessionsBegun, packets, cpuMs } = seen;
  const anew = { span: { sinceMs: nowMs, run, sessionsBegun, packets, cpuMs }, suspend: false };
  if (!span || span.run !== run) return anew;
  if (awakeUntil !== null && Date.parse(awakeUntil) > nowMs) return anew;
  if (seen.sessions > 0 || sessionsBegun !== span.sessionsBegun) return anew;
  if ((seen.connections ?? 0) > 0) return anew;
  const lastedMs = nowMs - span.sinceMs;
  if (
    seen.connections === undefined &&
    packets - span.packets > BUSY_PACKETS_PER_MINUTE * Math.max(1, lastedMs / 60_000)
  ) {
    return anew;
  }
  if (lastedMs < idleMs) return { span, suspend: false };
  if (((cpuMs - span.cpuMs) / lastedMs) * 100 > BUSY_PERCENT) return anew;
  return { span, suspend: true };
}
