/** What VMs use, again and again for as long as somebody reads. */
import type { StatsFrame } from '../api/stats.ts';
import type { Host } from '../control/host.ts';
import type { StatsSampler } from '../control/stats/vm-stats.ts';
import { BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';

/** How often a sample is taken unless the client says otherwise. */
const DEFAULT_INTERVAL_MS = 2000;

/** Samples only as long as it is read; VMs that were named are followed by their id, through a rename. */
export async function* watchStats(
  host: Host,
  sampler: StatsSampler,
  chosen: ReadonlySet<string> | undefined,
  intervalMs: number | undefined,
  signal: AbortSignal,
): AsyncGenerator<StatsFrame> {
  const everyMs = intervalMs ?? DEFAULT_INTERVAL_MS;
  try {
    while (!signal.aborted) {
      const began = performance.now();
      const vms = host.stores.vms.list().filter(({ id }) => chosen?.has(id) ?? true);
      if (chosen && vms.length === 0) return; // all of them were deleted
      yield { at: host.now().toISOString(), vms: await sampler.sample(vms, signal) };
      await sleep(Math.max(everyMs - (performance.now() - began), 0), signal);
    }
  } catch (error) {
    if (!(error instanceof BangerError && error.code === 'cancelled')) throw error;
  }
}
