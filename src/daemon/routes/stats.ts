/** Handlers for what VMs use and where they listen. */
import type { StatsFrame } from '../../api/stats.ts';
import type { Host } from '../../control/host.ts';
import { listVmPorts } from '../../control/stats/ports.ts';
import type { StatsSampler } from '../../control/stats/vm-stats.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { sleep } from '../../system/abort.ts';
import type { Metrics } from '../metrics.ts';
import type { Handlers } from '../server.ts';
import { replyJsonLines } from '../streamed-reply.ts';

type StatsHandlers = Pick<Handlers, 'listStats' | 'watchStats' | 'listPorts' | 'metrics'>;

/** How often a watched sample is taken unless the client says otherwise. */
const DEFAULT_INTERVAL_MS = 2000;

export function statsHandlers(host: Host, sampler: StatsSampler, metrics: Metrics): StatsHandlers {
  return {
    listStats: async ({ query, signal }) => await sampler.sample(select(host, query.names), signal),
    watchStats: async ({ query, reply, signal }) => {
      const chosen = query.names === undefined ? undefined : new Set(select(host, query.names).map(({ id }) => id));
      await replyJsonLines(
        reply,
        watch(host, sampler, chosen, query.intervalMs ?? DEFAULT_INTERVAL_MS, signal),
        signal,
      );
    },
    listPorts: async ({ params }) => await listVmPorts(host, host.stores.vms.get(params.name)),
    metrics: async ({ reply }) => {
      const text = await metrics.scrape();
      reply.type('text/plain; version=0.0.4; charset=utf-8').send(text);
    },
  };
}

/** Samples only as long as it is read; VMs that were named are followed by their id, through a rename. */
async function* watch(
  host: Host,
  sampler: StatsSampler,
  chosen: ReadonlySet<string> | undefined,
  intervalMs: number,
  signal: AbortSignal,
): AsyncGenerator<StatsFrame> {
  try {
    while (!signal.aborted) {
      const began = performance.now();
      const vms = host.stores.vms.list().filter(({ id }) => chosen?.has(id) ?? true);
      if (chosen && vms.length === 0) return; // all of them were deleted
      yield { at: host.now().toISOString(), vms: await sampler.sample(vms, signal) };
      await sleep(Math.max(intervalMs - (performance.now() - began), 0), signal);
    }
  } catch (error) {
    if (!(error instanceof BangerError && error.code === 'cancelled')) throw error;
  }
}

/** @throws BangerError `not_found` */
function select({ stores: { vms } }: Host, names: string | undefined): VmRecord[] {
  if (names === undefined) return vms.list();
  return [...new Set(names.split(',').filter(Boolean))].map((name) => vms.get(name));
}
