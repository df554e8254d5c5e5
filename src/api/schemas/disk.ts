/** Bodies about disks of VMs. */
import { z } from 'zod';

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
