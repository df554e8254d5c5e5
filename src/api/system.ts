/** The daemon and the machine: routes and bodies. */
import { z } from 'zod';
import { DnsSummary } from './dns.ts';
import type { Route } from './route.ts';

export const CheckResult = z.object({
  id: z.string(),
  title: z.string(),
  status: z.enum(['ok', 'warning', 'failed', 'not_applicable']),
  lookedFor: z.string(),
  detail: z.string(),
  fix: z.string().optional(),
  repair: z
    .object({ argv: z.tuple([z.string()], z.string()).readonly(), asRoot: z.boolean() })
    .optional()
    .describe('the fix as a command that takes no decision; `banger doctor --fix` runs it'),
});

/** What the checks of one command are asked for by. */
export const DoctorCommand = z.enum(['create', 'start', 'nat', 'ssh', 'exec', 'build', 'bundle', 'resize']);

export const DoctorReport = z.object({
  checks: z.array(CheckResult),
  summary: z.record(z.string(), z.string()).describe('what banger would do here: vmm, acceleration, disks, …'),
  ok: z.boolean(),
});

export const DaemonStatus = z.object({
  version: z.string(),
  pid: z.int(),
  startedAt: z.iso.datetime(),
  socket: z.string(),
  stateDirectory: z.string(),
  pool: z.string().describe('address pool, CIDR'),
  vms: z.object({ total: z.int(), running: z.int() }),
  standby: z
    .object({ ready: z.int(), wanted: z.int() })
    .optional()
    .describe('guests that stand ready for new VMs, and how many are to (`pool.ready`); absent when none are'),
  operations: z.int().describe('operations running now'),
  commands: z.int().describe('commands of `banger exec` running now'),
  dns: DnsSummary.describe('names of VMs on this host'),
  rssBytes: z.number(),
  store: z.object({
    freeBytes: z.number(),
    sizeBytes: z.number(),
    state: z.enum(['ok', 'low', 'full']).describe('see GET /v1/storage'),
  }),
});

export type DoctorCommand = z.infer<typeof DoctorCommand>;
export type CheckResult = z.infer<typeof CheckResult>;
export type DoctorReport = z.infer<typeof DoctorReport>;
export type DaemonStatus = z.infer<typeof DaemonStatus>;

export const systemRoutes = {
  status: {
    method: 'GET',
    url: '/v1/status',
    summary: 'The daemon: version, sockets, counts',
    response: DaemonStatus,
  },
  shutdown: { method: 'POST', url: '/v1/shutdown', summary: 'Stop the daemon; VMs keep running', status: 202 },
  doctor: {
    method: 'GET',
    url: '/v1/doctor',
    summary: 'Run every preflight check, or those of one command',
    query: z.object({ command: DoctorCommand.optional() }),
    response: DoctorReport,
  },
  sudoers: {
    method: 'GET',
    url: '/v1/doctor/sudoers',
    summary: 'The smallest sudoers rules for the daemon’s user',
    response: z.object({ text: z.string().describe('a file for /etc/sudoers.d') }),
  },
} as const satisfies Record<string, Route>;
