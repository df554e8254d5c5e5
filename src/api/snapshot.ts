/** Snapshots of VMs: routes and bodies. */
import { z } from 'zod';
import { Operation } from './operation.ts';
import type { Route } from './route.ts';
import { named, Vm, VmName } from './vm.ts';

const SnapshotName = z
  .string()
  .min(1)
  .max(63)
  .regex(
    /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/,
    'must be lower-case letters, digits and inner dashes, at most 63 characters',
  )
  .describe('name of a snapshot, unique among those of its VM');

export const Snapshot = z.object({
  vm: VmName,
  name: SnapshotName,
  id: z.string().describe('8 hexadecimal digits'),
  createdAt: z.iso.datetime(),
  automatic: z.boolean().describe('taken before a restore, which an undo puts back'),
  memory: z.boolean().describe('whether the memory of the guest is in it'),
  taken: z
    .enum(['at-rest', 'frozen', 'held', 'suspended'])
    .describe(
      '`at-rest`: the VM did not run; `frozen`: its guest held its file systems still; `held`: its guest stood still, and its ' +
        'memory is in it; `suspended`: so is that of a VM that was suspended',
    ),
  pauseMs: z.number().nullable().describe('milliseconds in which the guest could not write; null when it did not run'),
  image: z.string().describe('bundle or image that its root disk boots with'),
  rootDiskBytes: z.number().describe('apparent size of the root disk'),
  workDiskBytes: z.number().describe('apparent size of the work disk; 0 when it has none'),
  allocatedBytes: z.number().describe('bytes used on the host; blocks that it shares with others count too'),
  directory: z.string(),
});

const SnapshotCreate = z.strictObject({
  name: SnapshotName.optional().describe('made of the time without one'),
  pauseOk: z.boolean().optional().describe('whether the guest may stand still for as long as its disks are copied'),
  diskOnly: z.boolean().optional().describe('whether the memory of a guest that runs is left out'),
});

const Restore = z.strictObject({
  force: z.boolean().optional().describe('also a VM that runs: it is shut down, and started again'),
  start: z.boolean().optional().describe('false leaves a VM stopped that ran, and suspended one that gets memory'),
  diskOnly: z.boolean().optional().describe('whether the memory in the snapshot is left out'),
});

/** Result of a restore and of its undo. */
export const Restored = z.object({
  vm: Vm,
  before: SnapshotName.describe('automatic snapshot of what was there before'),
});

const SnapshotCopy = z.strictObject({
  name: VmName.describe('the new VM'),
  diskOnly: z
    .boolean()
    .optional()
    .describe('whether the memory in the snapshot is left out; the new VM does not run then'),
});

const SnapshotDiffRequest = z.strictObject({
  to: SnapshotName.optional().describe('another snapshot of the VM; its disks as they are now otherwise'),
  pauseOk: z
    .boolean()
    .optional()
    .describe('whether a running guest may stand still for as long as its disks are copied'),
});

/** Result of a comparison. */
export const SnapshotDiff = z.object({
  from: z.string(),
  to: z.string().nullable().describe('null for the disks as they are now'),
  changes: z
    .array(
      z.object({
        disk: z.enum(['root', 'work']),
        path: z.string().describe('in the guest; bytes that are no UTF-8 as \\xHH, a backslash as \\\\'),
        change: z.enum(['added', 'removed', 'changed']),
        kind: z.enum(['file', 'directory', 'link', 'other']),
      }),
    )
    .describe('by disk, then by path'),
  omitted: z.int().describe('changes beyond those that are listed'),
});

const SnapshotExport = z.strictObject({ file: z.string().min(1).describe('archive to write; it must not exist') });

/** Result of an export. */
export const SnapshotFile = z.object({
  vm: VmName,
  name: SnapshotName,
  file: z.string(),
  sizeBytes: z.number(),
});

const SnapshotImport = z.strictObject({
  file: z.string().min(1).describe('archive of an export'),
  name: VmName.describe('VM that is made of it'),
  image: z.string().min(1).optional().describe('bundle or image to boot with; the one it was made with otherwise'),
});

export type Snapshot = z.infer<typeof Snapshot>;
export type Restored = z.infer<typeof Restored>;
export type SnapshotDiff = z.infer<typeof SnapshotDiff>;
export type SnapshotFile = z.infer<typeof SnapshotFile>;
export type SnapshotImport = z.infer<typeof SnapshotImport>;

const one = named.extend({ snapshot: z.string().min(1).max(63) });

export const snapshotRoutes = {
  listSnapshots: {
    method: 'GET',
    url: '/v1/snapshots',
    summary: 'Snapshots of all VMs or of one, oldest first',
    query: z.object({ vm: VmName.optional() }),
    response: z.array(Snapshot),
  },
  importSnapshot: {
    method: 'POST',
    url: '/v1/snapshots/import',
    summary: 'Make a VM of an exported snapshot',
    body: SnapshotImport,
    response: Operation,
    status: 202,
  },
  showSnapshot: {
    method: 'GET',
    url: '/v1/vms/:name/snapshots/:snapshot',
    summary: 'One snapshot',
    params: one,
    response: Snapshot,
  },
  createSnapshot: {
    method: 'POST',
    url: '/v1/vms/:name/snapshots',
    summary: 'Take a snapshot of the disks of a VM, and of its memory when it runs',
    params: named,
    body: SnapshotCreate,
    response: Operation,
    status: 202,
  },
  restoreSnapshot: {
    method: 'POST',
    url: '/v1/vms/:name/snapshots/:snapshot/restore',
    summary: 'Put the disks of a snapshot in place of those of its VM, which are kept as a snapshot',
    params: one,
    body: Restore,
    response: Operation,
    status: 202,
  },
  copySnapshot: {
    method: 'POST',
    url: '/v1/vms/:name/snapshots/:snapshot/copy',
    summary: 'Make a new VM of a snapshot',
    params: one,
    body: SnapshotCopy,
    response: Operation,
    status: 202,
  },
  diffSnapshot: {
    method: 'POST',
    url: '/v1/vms/:name/snapshots/:snapshot/diff',
    summary: 'Names of files that are other than in the snapshot',
    params: one,
    body: SnapshotDiffRequest,
    response: Operation,
    status: 202,
  },
  exportSnapshot: {
    method: 'POST',
    url: '/v1/vms/:name/snapshots/:snapshot/export',
    summary: 'Write a snapshot as one file',
    params: one,
    body: SnapshotExport,
    response: Operation,
    status: 202,
  },
  deleteSnapshot: {
    method: 'DELETE',
    url: '/v1/vms/:name/snapshots/:snapshot',
    summary: 'Delete a snapshot for good',
    params: one,
    response: Operation,
    status: 202,
  },
  undoRestore: {
    method: 'POST',
    url: '/v1/vms/:name/undo',
    summary: 'Put back what was there before the last restore',
    params: named,
    body: Restore,
    response: Operation,
    status: 202,
  },
} as const satisfies Record<string, Route>;
