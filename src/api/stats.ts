/** Bodies about what VMs use and where they listen. */
import { z } from 'zod';
import type { Route } from './route.ts';
import { named, VmName, VmState } from './vm.ts';

const bytes = z.number().nonnegative();

/** What one VM uses. `null` is "not known", which is not 0: a VM that is stopped has no processor time. */
export const VmStats = z.object({
  id: z.string(),
  name: VmName,
  state: VmState,
  problem: z.string().nullable().describe('what is wrong with a VM that runs, and what helps; null when nothing is'),
  sampledAt: z.iso.datetime(),
  uptimeMs: z.number().nullable().describe('milliseconds since the current run began'),
  vcpus: z.int(),
  cpuPercent: z.number().nullable().describe('of one host CPU, between two samples: 200 is two CPUs at work'),
  cpuMs: z.number().nullable().describe('processor time of the VMM and its helpers since it was launched'),
  threads: z.int().nullable(),
  memoryBytes: bytes.describe('memory the guest was given'),
  rssBytes: bytes.nullable().describe('host memory that the VMM and its helpers hold'),
  guestUsedBytes: bytes.nullable().describe('MemTotal less MemAvailable, as the guest says'),
  guestTotalBytes: bytes.nullable(),
  diskBytes: bytes.describe('apparent size of root and work disk'),
  diskAllocatedBytes: bytes.describe('bytes they really take on the host'),
  suspendedBytes: bytes.nullable().describe('bytes the memory of a suspended VM takes on disk; null for others'),
  diskReadBytes: bytes.nullable().describe('read from the host’s devices since the VMM was launched'),
  diskWrittenBytes: bytes.nullable(),
  netReceivedBytes: bytes.nullable().describe('received by the guest since it was started'),
  netSentBytes: bytes.nullable(),
});

/** One line of a watched stream: all VMs that were asked for, at one moment. */
export const StatsFrame = z.object({ at: z.iso.datetime(), vms: z.array(VmStats) });

/** A TCP port somebody in the guest listens on. */
export const VmPort = z.object({
  port: z.int(),
  addresses: z.array(z.string()).describe('addresses it is bound to in the guest'),
  reach: z
    .enum(['network', 'loopback', 'other', 'none'])
    .describe(
      '`network`: from this host and other VMs; `loopback`: from the guest itself; `other`: neither is sure; `none`: nothing listens there',
    ),
  exposed: z.boolean().describe('whether its OCI image says that something listens there'),
  processes: z.array(z.object({ name: z.string(), pid: z.int() })).describe('empty when the guest does not tell'),
  url: z.string().nullable().describe('where a browser finds it; null for SSH and what is not reachable'),
});

export type VmStats = z.infer<typeof VmStats>;
export type StatsFrame = z.infer<typeof StatsFrame>;
export type VmPort = z.infer<typeof VmPort>;

const names = z.string().optional().describe('names of VMs, separated by commas; all of them without it');

export const statsRoutes = {
  listStats: {
    method: 'GET',
    url: '/v1/stats',
    summary: 'What VMs use now: processor, memory, disk, network',
    query: z.object({ names }),
    response: z.array(VmStats),
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
    response: z.array(VmPort),
  },
  metrics: {
    method: 'GET',
    url: '/metrics',
    summary: 'Everything that is counted, for Prometheus',
    streams: 'text/plain; version=0.0.4; charset=utf-8',
  },
} as const satisfies Record<string, Route>;
