/** Routes of disks. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import { named, type Route } from './route.ts';

const keptName = z.object({ name: z.string().min(1).max(80) });

export const diskRoutes = {
  listDisks: { method: 'GET', url: '/v1/disks', summary: 'Disks of all VMs, and kept ones', response: z.array(s.Disk) },
  showDisks: {
    method: 'GET',
    url: '/v1/vms/:name/disks',
    summary: 'Disks of one VM',
    params: named,
    response: z.array(s.Disk),
  },
  resizeDisks: {
    method: 'POST',
    url: '/v1/vms/:name/disks/resize',
    summary: 'Grow the disks of a VM',
    params: named,
    body: s.DiskResize,
    response: s.Operation,
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
