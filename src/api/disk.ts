/** Disks of VMs: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';
import { named } from './vm.ts';

export const Disk = z.object({
  vm: z.string().nullable().describe('VM it belongs to; null for a work disk that was kept'),
  role: z.enum(['root', 'work', 'kept']),
  name: z.string().nullable().describe('name of a kept disk'),
  path: z.string(),
  mount: z.string().nullable().describe('directory in the guest; null for a kept disk'),
  apparentBytes: z.number().describe('size the guest sees'),
  allocatedBytes: z.number().describe('bytes really used on the host; blocks that clones share count for each'),
});

export const DiskResize = z.strictObject({
  rootBytes: z.int().positive().optional().describe('new size of the root disk; disks only grow'),
  workBytes: z.int().positive().optional().describe('new size of the work disk; disks only grow'),
  online: z.boolean().default(false).describe('also while the VM runs'),
});

export type Disk = z.infer<typeof Disk>;
export type DiskResize = z.output<typeof DiskResize>;

const keptName = z.object({ name: z.string().min(1).max(80) });

export const diskRoutes = {
  listDisks: { method: 'GET', url: '/v1/disks', summary: 'Disks of all VMs, and kept ones', response: z.array(Disk) },
  showDisks: {
    method: 'GET',
    url: '/v1/vms/:name/disks',
    summary: 'Disks of one VM',
    params: named,
    response: z.array(Disk),
  },
  resizeDisks: {
    method: 'POST',
    url: '/v1/vms/:name/disks/resize',
    summary: 'Grow the disks of a VM',
    params: named,
    body: DiskResize,
    response: Operation,
    status: 202,
  },
  deleteDisk: {
    method: 'DELETE',
    url: '/v1/disks/kept/:name',
    summary: 'Delete a work disk that was kept',
    params: keptName,
    response: z.object({ name: z.string() }),
  },
} as const satisfies Record<string, Route>;
