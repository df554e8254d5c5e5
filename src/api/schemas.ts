/** The bodies of bangerd's HTTP API, one zod schema each; clients use the inferred types only. */
import { z } from 'zod';

/** RFC 1123 label; a VM's name is also its host name and its DNS name below the zone. */
export const VmName = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, 'must be a DNS label: a-z, 0-9 and inner dashes, at most 63 characters')
  .describe('name of a VM: a DNS label (RFC 1123)');

export const VmState = z.enum(['creating', 'stopped', 'starting', 'running', 'stopping', 'paused', 'failed']);

/** One step of a start, in the order they ended. */
export const TimelineStep = z.object({
  step: z.string().describe('step name, e.g. `wait-for-ssh`'),
  startedMs: z.number().describe('milliseconds from the beginning of the start to the beginning of this step'),
  durationMs: z.number().describe('milliseconds this step took'),
});

export const Vm = z.object({
  id: z.string().describe('8 hexadecimal digits, unchanged for the life of the VM'),
  name: VmName,
  state: VmState,
  failure: z.string().nullable().describe('why the state is `failed`, in a sentence'),
  image: z.string().describe('bundle or image the VM was made from'),
  vcpus: z.int(),
  memoryMib: z.int(),
  rootDiskBytes: z.number().describe('apparent size of the root disk in bytes'),
  workDiskBytes: z.number().describe('apparent size of the work disk in bytes; 0 = no work disk'),
  address: z.string().describe('IPv4 address, fixed from creation to deletion'),
  mac: z.string(),
  nat: z.boolean().describe('whether the VM reaches the outside through the host'),
  createdAt: z.iso.datetime(),
  startedAt: z.iso.datetime().nullable().describe('when the current run began; null when not running'),
  vmm: z.string().nullable().describe('`firecracker` or `fcqemu` while it runs'),
  pid: z.int().nullable().describe('process id of the VMM while it runs'),
});

export const VmDetail = Vm.extend({
  directory: z.string().describe('host directory with everything of this VM'),
  disks: z.array(
    z.object({
      role: z.enum(['root', 'work', 'seed']),
      path: z.string(),
      apparentBytes: z.number(),
      allocatedBytes: z.number().describe('bytes really used on the host'),
    }),
  ),
  tap: z.string().describe('host network device while it runs'),
  consoleLog: z.string(),
  vmmLog: z.string(),
  bootTimeline: z.array(TimelineStep).describe('steps of the last start, up to the first SSH login'),
  bootMs: z.number().nullable().describe('milliseconds from the start request to the first SSH login'),
});

export const VmCreate = z.strictObject({
  name: VmName,
  image: z.string().min(1).optional().describe('bundle or image name; the configured default otherwise'),
  vcpus: z.int().min(1).max(32).optional(),
  memoryMib: z.int().min(64).optional(),
  rootDiskBytes: z.int().positive().optional().describe('grown from the image; never smaller than it'),
  workDiskBytes: z.int().nonnegative().optional().describe('0 for none'),
  nat: z.boolean().optional(),
});

export const VmStart = z.strictObject({
  timeoutMs: z.int().positive().optional().describe('limit in milliseconds for the guest to answer SSH'),
});

export const VmStop = z.strictObject({
  timeoutMs: z.int().nonnegative().optional().describe('milliseconds the guest gets to shut down before it is killed'),
});

export const SshAccess = z.object({
  user: z.string(),
  address: z.string(),
  port: z.int(),
  identityFile: z.string(),
  knownHostsFile: z.string(),
  hostKeyAlias: z.string(),
});

export const Problem = z.object({
  code: z.string().describe('stable error code'),
  message: z.string(),
  hint: z.string().optional().describe('the next command'),
  details: z.record(z.string(), z.unknown()).optional(),
  // RFC 9457 members, so that generic clients understand it too
  type: z.string(),
  title: z.string(),
  status: z.int(),
});

export const OperationState = z.enum(['running', 'succeeded', 'failed', 'cancelled', 'interrupted']);

export const Operation = z.object({
  id: z.string(),
  kind: z.string().describe('e.g. `vm.start`, `bundle.build`'),
  target: z.string().describe('name of the thing worked on'),
  state: OperationState,
  step: z.string().nullable().describe('what it does now, as a phrase for people'),
  createdAt: z.iso.datetime(),
  finishedAt: z.iso.datetime().nullable(),
  result: z.unknown().optional().describe('what the action returned, e.g. the VM'),
  error: Problem.nullable(),
  joined: z.boolean().optional().describe('true when the request found this operation already running'),
});

export const OperationEvent = z.discriminatedUnion('type', [
  z.object({ type: z.literal('step'), step: z.string(), label: z.string(), atMs: z.number() }),
  z.object({
    type: z.literal('progress'),
    label: z.string(),
    detail: z.string().optional(),
    done: z.number().optional(),
    total: z.number().optional(),
    atMs: z.number(),
  }),
  z.object({ type: z.literal('log'), line: z.string(), atMs: z.number() }),
  z.object({ type: z.literal('warning'), message: z.string(), atMs: z.number() }),
  z.object({ type: z.literal('done'), operation: Operation }),
]);

export const Bundle = z.object({
  name: z.string(),
  directory: z.string(),
  arch: z.string(),
  kernelRelease: z.string().nullable(),
  createdAt: z.string().nullable(),
  legacy: z.boolean().describe('true when the directory has no bundle.json'),
  isDefault: z.boolean(),
  problem: z.string().nullable().describe('why it cannot be used, if so'),
  usedBy: z.array(z.string()).describe('names of the VMs made from it'),
});

export const BundleBuild = z.strictObject({
  suite: z.string().min(1).optional().describe('Debian suite; default bookworm'),
  name: z.string().min(1).optional().describe('bundle name; default `debian-<suite>`'),
  output: z.string().startsWith('/').optional().describe('directory to write; default the bundle store'),
  rootDiskBytes: z.int().positive().optional().describe('apparent size of rootfs.ext4; default 2 GiB'),
  force: z.boolean().optional().describe('build even when nothing changed'),
});

/** A bundle is named like the bundle store names it, or by where it is. */
export const BundleRef = z.string().min(1).describe('name in the bundle store or absolute path; default the default');

export const BundleDetail = Bundle.extend({
  kernel: z.string().describe('absolute path, as all below'),
  initrd: z.string(),
  rootfs: z.string(),
  modules: z.string().nullable(),
  packages: z.string().nullable().describe('list of the packages in the root file system'),
  helpers: z.array(z.string()),
  defaults: z
    .object({
      vcpus: z.int(),
      memoryMib: z.int(),
      bootArgs: z.string(),
      rootDiskBytes: z.number(),
      workDiskBytes: z.number(),
    })
    .describe('what a VM gets unless configuration or request say otherwise'),
  notice: z.string().nullable().describe('what should be known about it, with the command that settles it'),
});

export const BundleUse = z.strictObject({ name: z.string().min(1).describe('name in the bundle store') });

export const BundleVerify = z.strictObject({ name: BundleRef.optional() });

/** Result of a `bundle.verify` operation, which succeeds whatever the checks say. */
export const BundleVerdict = z.object({
  name: z.string(),
  directory: z.string(),
  ok: z.boolean().describe('whether every check was'),
  checks: z.array(
    z.object({
      field: z.string().describe('field of bundle.json it is about, e.g. `files.vmlinux`'),
      ok: z.boolean(),
      detail: z.string().describe('what was found, as a sentence'),
    }),
  ),
});

export const BundleImport = z.strictObject({
  source: z.string().startsWith('/').describe('`.tar.zst` or `.tar` file, or the directory of a bundle'),
  name: z.string().min(1).optional().describe('name in the bundle store; default the one in bundle.json'),
  force: z.boolean().optional().describe('replace a bundle of that name'),
});

export const BundleExport = z.strictObject({
  name: BundleRef.optional(),
  file: z.string().startsWith('/').describe('`.tar.zst` file to write; it must not exist'),
});

/** Result of a `bundle.export` operation. */
export const BundleFile = z.object({
  name: z.string(),
  file: z.string(),
  sizeBytes: z.number(),
});

export const BundleAdopt = z.strictObject({ directory: z.string().startsWith('/') });

export const CheckResult = z.object({
  id: z.string(),
  title: z.string(),
  status: z.enum(['ok', 'warning', 'failed', 'not_applicable']),
  lookedFor: z.string(),
  detail: z.string(),
  fix: z.string().optional(),
});

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
  operations: z.int().describe('operations running now'),
  rssBytes: z.number(),
});

/** First line a client sends on an upgraded exec connection. */
export const ExecRequest = z.strictObject({
  argv: z.array(z.string()).min(1).describe('command and arguments, passed to the guest as they are'),
  tty: z.boolean().default(false),
  columns: z.int().positive().optional(),
  rows: z.int().positive().optional(),
  term: z.string().max(64).optional(),
  env: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string()).default({}),
  cwd: z.string().optional(),
});

export type VmState = z.infer<typeof VmState>;
export type TimelineStep = z.infer<typeof TimelineStep>;
export type Vm = z.infer<typeof Vm>;
export type VmDetail = z.infer<typeof VmDetail>;
export type VmCreate = z.infer<typeof VmCreate>;
export type VmStart = z.infer<typeof VmStart>;
export type VmStop = z.infer<typeof VmStop>;
export type SshAccess = z.infer<typeof SshAccess>;
export type Problem = z.infer<typeof Problem>;
export type Operation = z.infer<typeof Operation>;
export type OperationState = z.infer<typeof OperationState>;
export type OperationEvent = z.infer<typeof OperationEvent>;
export type Bundle = z.infer<typeof Bundle>;
export type BundleBuild = z.infer<typeof BundleBuild>;
export type BundleDetail = z.infer<typeof BundleDetail>;
export type BundleVerdict = z.infer<typeof BundleVerdict>;
export type BundleImport = z.infer<typeof BundleImport>;
export type BundleFile = z.infer<typeof BundleFile>;
export type CheckResult = z.infer<typeof CheckResult>;
export type DoctorReport = z.infer<typeof DoctorReport>;
export type DaemonStatus = z.infer<typeof DaemonStatus>;
export type ExecRequest = z.input<typeof ExecRequest>;
