/** VMs: what is said of them and asked for them. */
import { z } from 'zod';
import { Problem } from './operation.ts';
import { VmProcess } from './vm-process.ts';

/** RFC 1123 label; a VM's name is also its host name and its DNS name below the zone. */
export const VmName = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, 'must be a DNS label: a-z, 0-9 and inner dashes, at most 63 characters')
  .describe('name of a VM: a DNS label (RFC 1123)');

export const VmState = z.enum([
  ...['creating', 'stopped', 'starting', 'running', 'paused', 'stopping', 'suspending', 'suspended', 'resuming'],
  'failed',
] as const);

export const RestartPolicy = z.enum(['never', 'on-failure', 'always']);

/** Shorter than that, a VM would be gone while somebody thinks. */
const MIN_IDLE_MS = 120_000;

const IdleSuspendMs = z
  .int()
  .nonnegative()
  .refine((ms) => ms === 0 || ms >= MIN_IDLE_MS, 'must be 0 or at least 120000 (2 minutes)')
  .describe('milliseconds without use after which it is suspended, at least 120000; 0 for never');

/** One step of a start, in the order they ended. */
export const TimelineStep = z.object({
  step: z.string().describe('step name, e.g. `wait-for-ssh`'),
  startedMs: z.number().describe('milliseconds from the beginning of the start to the beginning of this step'),
  durationMs: z.number().describe('milliseconds this step took'),
});

/** `reachable`: the first SSH login; `ready`: the guest's own boot is over. */
export const Until = z.enum(['ready', 'reachable']);

export const Vm = z.object({
  id: z.string().describe('8 hexadecimal digits, unchanged for the life of the VM'),
  name: VmName,
  state: VmState,
  failure: z.string().nullable().describe('why the state is `failed`, in a sentence'),
  problem: z.string().nullable().describe('what is wrong with a VM that runs, and what helps; null when nothing is'),
  image: z.string().describe('bundle or image the VM was made from'),
  vcpus: z.int(),
  memoryMib: z.int(),
  rootDiskBytes: z.number().describe('apparent size of the root disk in bytes'),
  workDiskBytes: z.number().describe('apparent size of the work disk in bytes; 0 = no work disk'),
  workDiskMount: z.string().describe('directory in the guest where the work disk is mounted'),
  address: z.string().describe('IPv4 address, fixed from creation to deletion'),
  mac: z.string(),
  nat: z.boolean().describe('whether the VM reaches the outside through the host'),
  autostart: z.boolean().describe('whether the daemon starts it after a boot of the host'),
  restartPolicy: RestartPolicy.describe('what happens when it ends without being asked to'),
  idleSuspendMs: z.int().describe('milliseconds without use after which it is suspended; 0 for never'),
  awakeUntil: z.iso.datetime().nullable().describe('until when it counts as used, whatever it does'),
  createdAt: z.iso.datetime(),
  startedAt: z.iso.datetime().nullable().describe('when the current run began; null when not running'),
  vmm: z.string().nullable().describe('`firecracker` or `fcqemu` while it runs'),
  pid: z.int().nullable().describe('process id of the VMM while it runs'),
  ready: z.boolean().describe('whether it runs and its boot is over'),
  bootMs: z
    .number()
    .nullable()
    .describe('milliseconds from the start request to the first SSH login of the last start'),
  readyMs: z.number().nullable().describe('milliseconds from the start request until its boot was over; null before'),
  failedUnits: z.array(z.string()).describe('units of its init that failed while it booted'),
  temporary: z
    .object({ holder: z.int().nullable().describe('process id of the client, as it said') })
    .nullable()
    .describe('for a VM that is deleted for good when the client that holds it leaves; null for all others'),
  forkedFrom: z
    .object({ id: z.string(), name: VmName.describe('its name then') })
    .nullable()
    .describe('the VM that it began as; null for one made from an image or bundle'),
  suspended: z
    .object({
      at: z.iso.datetime().describe('when its guest was held'),
      memoryBytes: z.number().describe('bytes its memory takes on the host’s disk'),
    })
    .nullable()
    .describe('its memory on disk, from which it goes on; null when it has none'),
  snapshots: z.int().describe('how many snapshots it has'),
  health: z
    .enum(['starting', 'healthy', 'unhealthy'])
    .nullable()
    .describe('what the HEALTHCHECK of its OCI image found last; null without one, and where nothing was heard yet'),
});

/** An end of a run that nobody wanted. */
export const LastEnd = z.object({
  at: z.iso.datetime().describe('when it was noticed'),
  kind: z
    .enum(['panic', 'reset', 'memory', 'vmm'])
    .describe(
      "the guest's kernel panicked; its processor was reset without a word; the host had no memory left; the VMM failed",
    ),
  why: z.string().describe('a sentence'),
  lines: z.array(z.string()).describe('what was said last, by the guest or the VMM'),
});

export const VmDetail = Vm.extend({
  notResumable: z
    .array(z.string())
    .describe('why a suspended VM cannot go on from its memory here and now, each a clause; empty when it can'),
  vmmVersion: z.string().nullable().describe('what its VMM calls itself; null when it does not run or is silent'),
  vmmLimits: z.array(z.string()).describe('what this version of its VMM cannot do, and what is done instead'),
  agent: z
    .object({
      state: z
        .enum(['present', 'absent', 'troubled'])
        .describe('`absent`: its initrd brought none; `troubled`: it is there and cannot be used'),
      version: z.string().nullable(),
      reason: z.string().nullable().describe('why it cannot be used'),
    })
    .nullable()
    .describe('the agent in the guest; null when the VM does not run. Without one everything goes over SSH'),
  userData: z
    .object({
      by: z.enum(['cloud-init', 'script']).describe('who takes it up; `script` in images without cloud-init'),
      state: z.enum(['running', 'done', 'failed']),
      detail: z.string().describe('what went wrong, as the guest says'),
    })
    .nullable()
    .describe(
      'how far the guest is with what it was given for its first boot; null when that is nothing, or it does not tell',
    ),
  process: z
    .object({
      state: z
        .enum(['running', 'waiting', 'ended', 'failed', 'none'])
        .describe('`waiting`: it failed and begins again in a moment; `none`: nothing is to run'),
      detail: z.string().describe('how it ended last, e.g. `status 3`, or why it could not begin'),
      restarts: z.int().describe('how often it was begun again since the guest booted'),
      health: z
        .object({
          state: z.enum(['starting', 'healthy', 'unhealthy']),
          detail: z.string().describe('how the check ended last, and what it said then; empty when it is well'),
        })
        .nullable()
        .describe('what its HEALTHCHECK found; null without one'),
    })
    .nullable()
    .describe('the process of an OCI image; null for other VMs, and when the guest does not tell'),
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
  pending: z
    .object({ hostname: z.string(), vcpus: z.int(), memoryMib: z.int() })
    .partial()
    .nullable()
    .describe('values that count from the next start on; the current run has others'),
  current: z
    .object({ hostname: z.string(), vcpus: z.int(), memoryMib: z.int() })
    .nullable()
    .describe('what the current run was started with; null when it does not run'),
  lastEnd: LastEnd.nullable().describe('the last end of a run that nobody wanted; null when there was none'),
  restarts: z
    .object({ attempts: z.int(), nextAt: z.iso.datetime().nullable() })
    .nullable()
    .describe('automatic restarts since it last ran for a minute, and when the next one is due'),
  bootTimeline: z.array(TimelineStep).describe('steps of the last start, up to the first SSH login'),
});

/** Longer than any cloud takes. */
const FirstBootText = z.string().min(1).max(100_000);

export const VmCreate = z.strictObject({
  name: VmName,
  image: z.string().min(1).optional().describe('bundle or image name; the configured default otherwise'),
  vcpus: z.int().min(1).max(32).optional(),
  memoryMib: z.int().min(64).optional(),
  rootDiskBytes: z.int().positive().optional().describe('grown from the image; never smaller than it'),
  workDiskBytes: z.int().nonnegative().optional().describe('0 for none'),
  workMount: z.string().optional().describe('directory in the guest where the work disk is mounted'),
  workDiskFrom: z
    .string()
    .min(1)
    .optional()
    .describe('name of a kept work disk, which moves, or path of a file, which is copied'),
  nat: z.boolean().optional(),
  autostart: z.boolean().optional().describe('whether the daemon starts it after a boot of the host; default false'),
  restartPolicy: RestartPolicy.optional().describe('what happens when it ends without being asked to; default `never`'),
  idleSuspendMs: IdleSuspendMs.optional(),
  process: VmProcess.optional(),
  userData: FirstBootText.optional().describe('for cloud-init in the guest; a script (`#!`) also where there is none'),
  metaData: FirstBootText.optional().describe('for cloud-init; made of the VM otherwise'),
});

export const VmSet = z.strictObject({
  vcpus: z.int().min(1).max(32).optional(),
  memoryMib: z.int().min(64).optional(),
  nat: z.boolean().optional(),
  autostart: z.boolean().optional(),
  restartPolicy: RestartPolicy.optional(),
  idleSuspendMs: IdleSuspendMs.optional(),
  dryRun: z.boolean().optional().describe('only say what would change'),
});

/** Result of the operation that sets a VM's values. */
export const VmSetResult = z.object({
  vm: Vm,
  changes: z.array(
    z.object({
      setting: z.enum(['vcpus', 'memoryMib', 'nat', 'autostart', 'restartPolicy', 'idleSuspendMs']),
      from: z.union([z.number(), z.boolean(), z.string()]),
      to: z.union([z.number(), z.boolean(), z.string()]),
      applies: z.enum(['now', 'at-next-start']),
    }),
  ),
});

export const VmRename = z.strictObject({ name: VmName.describe('the new name') });

/** Result of the operation that renames a VM. */
export const VmRenameResult = z.object({
  vm: Vm,
  hostname: z.enum(['now', 'at-next-start']).describe('when the guest calls itself by the new name'),
});

export const VmStart = z.strictObject({
  timeoutMs: z
    .int()
    .positive()
    .optional()
    .describe('limit in milliseconds for the guest to answer SSH, and to be ready where that is waited for'),
  until: Until.optional().describe('when it ends; default `ready`'),
  discardMemory: z
    .boolean()
    .optional()
    .describe('whether a suspended VM boots, its memory being given up; without it, it goes on where it stood'),
});

/** What a VM is made from counts only when there is none of that name yet. */
export const VmRun = VmCreate.omit({ name: true }).extend({
  ...VmStart.shape,
  lease: z
    .string()
    .optional()
    .describe('makes a VM that is deleted for good when this lease ends; there may be none of that name'),
  cold: z.boolean().optional().describe('whether a new VM boots although there is a template that it could start from'),
});

/** Result of the operation that runs a VM; `vm.start`, which it may join, ends with the VM alone. */
export const VmRunResult = Vm.extend({
  created: z.boolean().describe('whether there was no VM of that name before'),
  started: z.boolean().describe('whether it did not run before'),
  resumed: z.boolean().describe('whether it was suspended and went on where it stood'),
  warm: z.boolean().describe('whether it is new and started from a template'),
});

/** Result of the operations that start or resume a VM. */
export const VmStartResult = Vm.extend({ resumed: VmRunResult.shape.resumed });

export const VmFork = z.strictObject({
  names: z.array(VmName).min(1).max(100).describe('names of the forks'),
});

/** Result of the operation that forks a VM. */
export const VmForkResult = z.object({
  forks: z.array(Vm).describe('those that run'),
  failed: z.array(z.object({ name: VmName, problem: Problem })).describe('those that did not become VMs, and why'),
  pausedMs: z.number().describe('milliseconds the VM stood still; 0 for one that was suspended'),
});

export const VmStop = z.strictObject({
  timeoutMs: z.int().nonnegative().optional().describe('milliseconds the guest gets to shut down before it is killed'),
  discardMemory: z.boolean().optional().describe('whether the memory of a suspended VM is given up'),
});

export const SshAccess = z.object({
  user: z.string(),
  address: z.string(),
  port: z.int(),
  identityFile: z.string(),
  knownHostsFile: z.string(),
  hostKeyAlias: z.string(),
  term: z
    .string()
    .nullable()
    .describe('terminal to log in with where one was asked about: that one, or another if the guest does not know it'),
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
  until: Until.optional().describe('what it waits for in a VM that is being started; default `ready`'),
});

export type Until = z.infer<typeof Until>;
export type VmState = z.infer<typeof VmState>;
export type TimelineStep = z.infer<typeof TimelineStep>;
export type Vm = z.infer<typeof Vm>;
export type VmDetail = z.infer<typeof VmDetail>;
export type VmCreate = z.infer<typeof VmCreate>;
export type VmSetResult = z.infer<typeof VmSetResult>;
export type VmRenameResult = z.infer<typeof VmRenameResult>;
export type RestartPolicy = z.infer<typeof RestartPolicy>;
export type VmRun = z.infer<typeof VmRun>;
export type VmRunResult = z.infer<typeof VmRunResult>;
export type VmStartResult = z.infer<typeof VmStartResult>;
export type VmForkResult = z.infer<typeof VmForkResult>;
export type SshAccess = z.infer<typeof SshAccess>;
export type ExecRequest = z.input<typeof ExecRequest>;

export const named = z.object({ name: VmName });
