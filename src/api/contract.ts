/** Every route of bangerd's HTTP API: one table that validates requests, types the client and becomes OpenAPI. */
import { z } from 'zod';
import * as s from './schemas.ts';

const named = z.object({ name: s.VmName });
const operationId = z.object({ id: z.string().min(1) });

export interface Route {
  method: 'GET' | 'POST' | 'DELETE';
  url: string;
  summary: string;
  params?: z.ZodType;
  query?: z.ZodType;
  body?: z.ZodType;
  /** body of the success answer; absent when the answer is a stream */
  response?: z.ZodType;
  /** status of success; default 200 */
  status?: number;
  /** media type of a streamed answer */
  streams?: string;
}

const flag = z.stringbool().optional();

export const contract = {
  status: {
    method: 'GET',
    url: '/v1/status',
    summary: 'The daemon: version, sockets, counts',
    response: s.DaemonStatus,
  },
  shutdown: { method: 'POST', url: '/v1/shutdown', summary: 'Stop the daemon; VMs keep running', status: 202 },
  doctor: { method: 'GET', url: '/v1/doctor', summary: 'Run every preflight check', response: s.DoctorReport },
  sudoers: {
    method: 'GET',
    url: '/v1/doctor/sudoers',
    summary: 'The smallest sudoers rules for the daemon’s user',
    response: z.object({ text: z.string().describe('a file for /etc/sudoers.d') }),
  },

  listVms: { method: 'GET', url: '/v1/vms', summary: 'All VMs, by name', response: z.array(s.Vm) },
  createVm: {
    method: 'POST',
    url: '/v1/vms',
    summary: 'Create a VM without starting it',
    body: s.VmCreate,
    response: s.Operation,
    status: 202,
  },
  showVm: { method: 'GET', url: '/v1/vms/:name', summary: 'One VM, in detail', params: named, response: s.VmDetail },
  startVm: {
    method: 'POST',
    url: '/v1/vms/:name/start',
    summary: 'Start a VM and wait for SSH',
    params: named,
    body: s.VmStart,
    response: s.Operation,
    status: 202,
  },
  stopVm: {
    method: 'POST',
    url: '/v1/vms/:name/stop',
    summary: 'Ask the guest to shut down, then make sure',
    params: named,
    body: s.VmStop,
    response: s.Operation,
    status: 202,
  },
  killVm: {
    method: 'POST',
    url: '/v1/vms/:name/kill',
    summary: 'End the VMM at once',
    params: named,
    response: s.Operation,
    status: 202,
  },
  restartVm: {
    method: 'POST',
    url: '/v1/vms/:name/restart',
    summary: 'Stop, then start',
    params: named,
    body: s.VmStart,
    response: s.Operation,
    status: 202,
  },
  deleteVm: {
    method: 'DELETE',
    url: '/v1/vms/:name',
    summary: 'Delete a VM and its disks',
    params: named,
    query: z.object({ force: flag.describe('kill it first when it runs') }),
    response: s.Operation,
    status: 202,
  },
  sshAccess: {
    method: 'GET',
    url: '/v1/vms/:name/ssh',
    summary: 'How to reach the VM over SSH',
    params: named,
    response: s.SshAccess,
  },
  logs: {
    method: 'GET',
    url: '/v1/vms/:name/logs',
    summary: 'Serial console',
    params: named,
    streams: 'text/plain',
    query: z.object({
      follow: flag,
      lines: z.coerce.number().int().nonnegative().optional(),
      source: z.enum(['console', 'vmm']).optional(),
    }),
  },
  exec: {
    method: 'POST',
    url: '/v1/vms/:name/exec',
    summary: 'Run a command; upgrades to the `banger-exec` protocol',
    params: named,
    streams: 'application/vnd.banger.exec',
  },

  listOperations: {
    method: 'GET',
    url: '/v1/operations',
    summary: 'Recent operations, newest first',
    response: z.array(s.Operation),
  },
  showOperation: {
    method: 'GET',
    url: '/v1/operations/:id',
    summary: 'One operation',
    params: operationId,
    response: s.Operation,
  },
  operationEvents: {
    method: 'GET',
    url: '/v1/operations/:id/events',
    summary: 'Events of an operation, from its beginning to its end',
    params: operationId,
    streams: 'application/x-ndjson',
  },
  cancelOperation: {
    method: 'POST',
    url: '/v1/operations/:id/cancel',
    params: operationId,
    summary: 'Undo what an operation did so far, unless others wait for it too',
    response: z.object({ cancelled: z.boolean(), watchers: z.int().describe('other clients that wait for it') }),
  },

  listBundles: { method: 'GET', url: '/v1/bundles', summary: 'Runtime bundles', response: z.array(s.Bundle) },
  buildBundle: {
    method: 'POST',
    url: '/v1/bundles/build',
    summary: 'Build a runtime bundle from Debian packages',
    body: s.BundleBuild,
    response: s.Operation,
    status: 202,
  },
  showBundle: {
    method: 'GET',
    url: '/v1/bundles/show',
    summary: 'One runtime bundle, in detail',
    // a path does not fit into an address's segment
    query: z.object({ name: s.BundleRef.optional() }),
    response: s.BundleDetail,
  },
  useBundle: {
    method: 'POST',
    url: '/v1/bundles/use',
    summary: 'Make a runtime bundle the default one',
    body: s.BundleUse,
    response: s.Bundle,
  },
  verifyBundle: {
    method: 'POST',
    url: '/v1/bundles/verify',
    summary: 'Check a runtime bundle’s sums and whether it can boot here',
    body: s.BundleVerify,
    response: s.Operation,
    status: 202,
  },
  importBundle: {
    method: 'POST',
    url: '/v1/bundles/import',
    summary: 'Bring a runtime bundle into the bundle store, verified',
    body: s.BundleImport,
    response: s.Operation,
    status: 202,
  },
  exportBundle: {
    method: 'POST',
    url: '/v1/bundles/export',
    summary: 'Write a runtime bundle as one file',
    body: s.BundleExport,
    response: s.Operation,
    status: 202,
  },
  adoptBundle: {
    method: 'POST',
    url: '/v1/bundles/adopt',
    summary: 'Write the bundle.json of a directory that has none',
    body: s.BundleAdopt,
    response: s.Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;

export type RouteName = keyof typeof contract;
