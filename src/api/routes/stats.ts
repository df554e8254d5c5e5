/** Routes of what VMs use. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import { named, type Route } from './route.ts';

const names = z.string().optional().describe('names of VMs, separated by commas; all of them without it');

export const statsRoutes = {
  listStats: {
    method: 'GET',
    url: '/v1/stats',
    summary: 'What VMs use now: processor, memory, disk, network',
    query: z.object({ names }),
    response: z.array(s.VmStats),
  },
  watchStats: {
    method: 'GET',
    url: '/v1/stats/watch',
    summary: 'What VMs use, again and again while the client stays: a `StatsFrame` a line',
    query: z.object({
      names,
      intervalMs: z.coerce.number().int().min(500).max(3_600_000).default(2000).optional(),
    }),
    streams: 'application/x-ndjson',
  },
  listPorts: {
    method: 'GET',
    url: '/v1/vms/:name/ports',
    summary: 'TCP ports on which the guest listens',
    params: named,
    response: z.array(s.VmPort),
  },
  metrics: {
    method: 'GET',
    url: '/metrics',
    summary: 'Everything that is counted, for Prometheus',
    streams: 'text/plain; version=0.0.4; charset=utf-8',
  },
} as const satisfies Record<string, Route>;
