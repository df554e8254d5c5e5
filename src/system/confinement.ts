/**
 * Takes rights away from programs that work for a VM before they begin: user, groups, capabilities, the way to get new
 * ones, environment and resources. Done by prlimit and setpriv of util-linux, which replace themselves by the program.
 */
import { readFileSync } from 'node:fs';
import { chmod, stat } from 'node:fs/promises';
import { BangerError, messageOf } from '../errors.ts';
import type { Argv } from './runner.ts';

/** Resources a program may take; what is left out stays as it is. */
export interface Limits {
  /** size of any file it writes to, in `bytes` */
  fileBytes?: number | undefined;
  openFiles?: number | undefined;
  /** processes and threads of its user; only for a user of its own */
  tasks?: number | undefined;
  /** address space in `bytes` */
  memoryBytes?: number | undefined;
  /** processor time in `s` */
  cpuSeconds?: number | undefined;
}

export interface Confined {
  /** user and group to run as; the daemon's own without */
  user?: number | undefined;
  /** groups it is in besides */
  groups?: readonly number[] | undefined;
  limits: Limits;
}

export const LIMITER = 'prlimit';
export const DROPPER = 'setpriv';

/** Command line that runs `argv` with fewer rights; the process that it starts becomes the program itself. */
export function confinedArgv(argv: Argv, { user, groups = [], limits }: Confined): Argv {
  const limit = (name: Limit, value: number | undefined) =>
    value === undefined ? [] : [`--${name}=${Math.min(value, ownLimit(name))}`];
  const identity =
    user === undefined
      ? []
      : [
          ...['--reuid', String(user), '--regid', String(user)],
          ...(groups.length === 0 ? ['--clear-groups'] : ['--groups', groups.join(',')]),
          ...['--inh-caps=-all', '--ambient-caps=-all', '--bounding-set=-all'],
        ];
  return [
    LIMITER,
    // memory of a guest must not end in a file of its own
    '--core=0',
    ...(limits.fileBytes === undefined ? [] : [fileLimit(limits.fileBytes, user)]),
    ...limit('nofile', limits.openFiles),
    ...limit('nproc', user === undefined ? undefined : limits.tasks),
    ...limit('as', limits.memoryBytes),
    ...limit('cpu', limits.cpuSeconds),
    ...[DROPPER, '--no-new-privs', ...identity, '--'],
    ...argv,
  ];
}

/** Only what is in force where a hard limit could not be raised again when a disk grows: by other users, and in containers. */
function fileLimit(bytes: number, user: number | undefined): string {
  return `--fsize=${Math.min(bytes, ownLimit('fsize'))}${user !== undefined && mayRaiseLimits() ? '' : ':'}`;
}

/**
 * Command line that gives a process that runs another limit for the size of its files, in `bytes`.
 * @param user of the process; the daemon's own without
 */
export function fileLimitArgv(pid: number, bytes: number, user: number | undefined): Argv {
  const argv: Argv = [LIMITER, '--pid', String(pid), fileLimit(bytes, user)];
  return user === undefined || mayRaiseLimits() ? argv : confinedArgv(argv, { user, limits: {} });
}

/** Limits by their option of prlimit, with their name in /proc/PID/limits. */
const NAMES = {
  fsize: 'Max file size',
  nofile: 'Max open files',
  nproc: 'Max processes',
  as: 'Max address space',
  cpu: 'Max cpu time',
} as const;

type Limit = keyof typeof NAMES;

/** The most that a program started by this process may have; no limit where this process can raise them. */
function ownLimit(name: Limit): number {
  if (mayRaiseLimits()) return Number.POSITIVE_INFINITY;
  const limits = readFileSync('/proc/self/limits', 'utf8');
  const hard = new RegExp(`^${NAMES[name]}\\s+\\S+\\s+(\\d+)`, 'm').exec(limits)?.[1];
  return hard === undefined ? Number.POSITIVE_INFINITY : Number(hard);
}

/** CAP_SYS_RESOURCE among the bits of CapEff (Linux, include/uapi/linux/capability.h). */
const SYS_RESOURCE = 1n << 24n;

let raises: boolean | undefined;

function mayRaiseLimits(): boolean {
  raises ??= (BigInt(`0x${effectiveCapabilities()}`) & SYS_RESOURCE) !== 0n;
  return raises;
}

function effectiveCapabilities(): string {
  return /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
}

/** Variables that programs which work for a VM get: where programs are, and the settings of fcqemu. */
const PASSED_ON = /^(PATH|TZ|TMPDIR|FCQEMU_\w+)$/;

/** Nothing of the daemon's surroundings that such a program does not need. */
export function cleanEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return {
    ...Object.fromEntries(Object.entries(env).filter(([name]) => PASSED_ON.test(name))),
    LC_ALL: 'C.UTF-8',
  };
}

/** Whether users of VMs may open a device, with its group or without. */
export async function usersMayOpen(device: string): Promise<boolean> {
  try {
    const { mode } = await stat(device);
    return (mode & 0o006) === 0o006 || (await groupOfDevice(device)) !== undefined;
  } catch {
    return false; // there is none
  }
}

/** Device that makes taps. */
export const TUN_DEVICE = '/dev/net/tun';

/**
 * Lets users of VMs open the device that makes taps: the kernel makes it root's alone, and udev, which a container or a
 * small system may not run, lets everybody open it. Who may use a tap depends on the tap's owner, not on this.
 * @throws BangerError `host_unprepared` when its mode cannot be changed
 */
export async function letUsersOpenTun(device = TUN_DEVICE): Promise<void> {
  if (await usersMayOpen(device)) return;
  await chmod(device, 0o666).catch((error) => {
    const message = `${device} may be opened by root alone, VMs run as users of their own, and that cannot be changed: ${messageOf(error)}`;
    throw new BangerError('host_unprepared', message, {
      hint: `Let them: chmod 666 ${device}   or run VMs as root: privilege.vm_users = "none"`,
    });
  });
}

/** Group that may read and write a device which not everybody may; never root's. */
export async function groupOfDevice(device: string): Promise<number | undefined> {
  try {
    const { mode, gid } = await stat(device);
    return (mode & 0o006) !== 0o006 && (mode & 0o060) === 0o060 && gid !== 0 ? gid : undefined;
  } catch {
    return undefined; // there is none
  }
}

/**
 * The user whose programs work in a directory that is root's: it is theirs by its group, so that they cannot move what is
 * in it. Undefined for any other directory, and for daemons of other users.
 */
export async function userOfDirectory(path: string): Promise<number | undefined> {
  try {
    const { uid, gid } = await stat(path);
    return process.geteuid?.() === 0 && uid === 0 && gid !== 0 ? gid : undefined;
  } catch {
    return undefined;
  }
}
