/** Handlers for what VMs use and where they listen. */
import type { Host } from '../../control/host.ts';
import { listVmPorts } from '../../control/stats/ports.ts';
import type { StatsSampler } from '../../control/stats/vm-stats.ts';
import type { VmRecord } from '../../core/vm.ts';
import type { Metrics } from '../metrics.ts';
import type { Handlers } from '../server.ts';
import { replyJsonLines } from '../streamed-reply.ts';
import { watchStats } from '../watched-stats.ts';

type StatsHandlers = Pick<Handlers, 'listStats' | 'watchStats' | 'listPorts' | 'metrics'>;

export function statsHandlers(host: Host, sampler: StatsSampler, metrics: Metrics): StatsHandlers {
  return {
    listStats: async ({ query, signal }) => await sampler.sample(select(host, query.names), signal),
    watchStats: async ({ query, reply, signal }) => {
      const chosen = query.names === undefined ? undefined : new Set(select(host, query.names).map(({ id }) => id));
      await replyJsonLines(reply, watchStats(host, sampler, chosen, query.intervalMs, signal), signal);
    },
    listPorts: async ({ params }) => await listVmPorts(host, host.stores.vms.get(params.name)),
    metrics: async ({ reply }) => {
      const text = await metrics.scrape();
      reply.type('text/plain; version=0.0.4; charset=utf-8').send(text);
    },
  };
}

/** @throws BangerError `not_found` */
function select({ stores: { vms } }: Host, names: string | undefined): VmRecord[] {
  if (names === undefined) return vms.list();
  return [...new Set(names.split(',').filter(Boolean))].map((name) => vms.get(name));
}
