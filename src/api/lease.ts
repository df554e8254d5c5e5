/** Leases: what holds temporary VMs for as long as a client reads. */
import { z } from 'zod';
import type { Route } from './route.ts';
import { VmName } from './vm.ts';

/** Lines of the answer to `holdLease`. */
export const LeaseLine = z.discriminatedUnion('type', [
  z.object({ type: z.literal('granted'), lease: z.string(), name: VmName.describe('free for a VM of this lease') }),
  z.object({ type: z.literal('ended') }).describe('the daemon ends, and the VMs of the lease are gone'),
]);

export type LeaseLine = z.infer<typeof LeaseLine>;

export const leaseRoutes = {
  holdLease: {
    method: 'POST',
    url: '/v1/leases',
    summary: 'Hold temporary VMs for as long as this answer is read',
    query: z.object({ holder: z.coerce.number().int().positive().optional().describe('process id of the client') }),
    streams: 'application/x-ndjson',
  },
  endLease: {
    method: 'DELETE',
    url: '/v1/leases/:id',
    summary: 'End a lease and wait until its VMs are gone',
    params: z.object({ id: z.string().min(1) }),
    response: z.object({ id: z.string() }),
  },
} as const satisfies Record<string, Route>;
