/** Routes of VMs. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import { flag, named, type Route } from './route.ts';

export const vmRoutes = {
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
    query: z.object({
      force: flag.describe('kill it first when it runs'),
      keepWorkDisk: flag.describe('keep its work disk, see GET /v1/disks'),
    }),
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
} as const satisfies Record<string, Route>;
