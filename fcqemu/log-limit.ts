/** Messages that a client or a guest can cause at will are written ten at a time, and two a second from then on. */
import type { ThreadLog } from './log.ts';
import type { Metrics } from './metrics.ts';

const BURST = 10;
const REFILL_MS = 5000;
const MS_PER_MESSAGE = REFILL_MS / BURST;

/**
 * @returns a function that writes, or counts what is not written and says how much that was with the next message
 * @param now the time in `ms`
 */
export function createLogLimit(
  log: Pick<ThreadLog, 'warn'>,
  metrics: Pick<Metrics, 'count'>,
  now: () => number = () => performance.now(),
): (write: () => void) => void {
  /** when as many messages could be written again as at the beginning */
  let refilledAt = 0;
  let suppressed = 0;
  return (write) => {
    const at = Math.max(refilledAt, now()) + MS_PER_MESSAGE;
    if (at - now() > REFILL_MS) {
      suppressed += 1;
      metrics.count('logger', 'rate_limited_log_count');
      return;
    }
    refilledAt = at;
    if (suppressed > 0) log.warn(`${suppressed} messages were suppressed due to rate limiting`);
    suppressed = 0;
    write();
  };
}
