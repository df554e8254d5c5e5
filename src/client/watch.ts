/** Answers that go on: what VMs use, what happens and what is held, value by value for as long as somebody reads. */
import type { CallArgs } from '../api/addresses.ts';
import type { Event } from '../api/event.ts';
import type { LeaseLine } from '../api/lease.ts';
import type { StatsFrame } from '../api/stats.ts';
import { BangerError } from '../errors.ts';
import { readJsonLines } from '../system/json-lines.ts';
import type { Client } from './client.ts';

/** What each streamed route sends, a value a line. */
interface Lines {
  watchStats: StatsFrame;
  watchEvents: Event;
  holdLease: LeaseLine;
}

/**
 * Reads a streamed answer; an aborted signal ends it without an error.
 * @throws BangerError with the daemon's own code, or `daemon_unreachable` when it goes away meanwhile
 */
export async function* readLines<K extends keyof Lines>(
  client: Client,
  route: K,
  args: CallArgs<K>,
  signal: AbortSignal,
): AsyncGenerator<Lines[K]> {
  try {
    const stream = await client.stream(route, { ...args, signal });
    try {
      // the daemon's serializer wrote it by the schema that types it here
      for await (const value of readJsonLines(stream)) yield value as Lines[K];
    } catch (error) {
      throw new BangerError('daemon_unreachable', 'The daemon went away.', {
        cause: error,
        hint: 'banger daemon status',
      });
    } finally {
      stream.destroy();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
