/** Deleted VMs, and what belongs to nobody: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';
import { Vm, VmName } from './vm.ts';

const TrashedVm = z.object({
  id: z.string(),
  name: VmName,
  image: z.string(),
  address: z.string().describe('kept for it as long as the pool has others'),
  deletedAt: z.iso.datetime(),
  purgedAt: z.iso.datetime().describe('when it is thrown away for good'),
  diskBytes: z.number().describe('bytes its disks take on the host'),
});

const Undelete = z.strictObject({ as: VmName.optional().describe('another name for it') });

const UndeletedVm = z.object({
  vm: Vm,
  lostAddress: z.string().nullable().describe('the address it had, when another VM has that one now'),
});

const TrashEmpty = z.strictObject({
  names: z.array(z.string().min(1)).optional().describe('names or ids; all without any'),
});

const Gc = z.strictObject({
  dryRun: z.boolean().optional().describe('only say what there is'),
  disks: z.boolean().optional().describe('also disks of VMs of which there is no record'),
});

/** Result of a garbage collection: one element for each thing found. */
export const Garbage = z.object({
  kind: z.enum(['ledger', 'directory', 'memory', 'socket', 'vmm', 'tap']),
  name: z.string(),
  whose: z.string().describe('whose it was, or why it is left alone'),
  verdict: z.enum(['free', 'ask', 'leave']).describe('`ask` takes data with it; `leave` is not ours to touch'),
  freed: z.boolean(),
});

export type Garbage = z.infer<typeof Garbage>;

const trashed = z.object({ name: z.string().min(1).describe('name or id of a deleted VM') });

export const leftoverRoutes = {
  listTrash: {
    method: 'GET',
    url: '/v1/trash',
    summary: 'Deleted VMs that can still be had back, newest first',
    response: z.array(TrashedVm),
  },
  undeleteVm: {
    method: 'POST',
    url: '/v1/trash/:name/restore',
    summary: 'Have a deleted VM back',
    params: trashed,
    body: Undelete,
    response: UndeletedVm,
  },
  emptyTrash: {
    method: 'POST',
    url: '/v1/trash/empty',
    summary: 'Throw deleted VMs away for good',
    body: TrashEmpty,
    response: Operation,
    status: 202,
  },
  collectGarbage: {
    method: 'POST',
    url: '/v1/gc',
    summary: 'Free what belongs to no VM any more, or say what there is',
    body: Gc,
    response: Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
