/**
 * Single programs with a right that this user does not have: directly when we are root, through `sudo -n` otherwise. Never a
 * shell. What needs no more than one right gets that alone, as a process of this user.
 */
import { basename } from 'node:path';
import { BangerError } from '../errors.ts';
import { findProgram } from './host-facts.ts';
import { LOWERER, lowerTo, type Right, STORAGE_PROGRAMS } from './privileged-commands.ts';
import type { ForeignKill } from './processes.ts';
import type { Argv, Runner, RunOptions, RunResult } from './runner.ts';

export interface PrivilegeOptions {
  /** effective user id of this process */
  uid: number;
  /** effective group id of this process; the process's own without */
  gid?: number;
  /** group that may open /dev/kvm, asked when it is needed; undefined where that is root's */
  kvmGroup?: () => Promise<number | undefined>;
  /** whether sudo may be asked at all */
  sudo: 'auto' | 'never';
  /** sudo program, a name in PATH or a path */
  sudoProgram: string;
}

export interface Privileged {
  /**
   * Runs one program.
   * @throws BangerError `host_unprepared` when this user is not root and sudo refuses
   */
  run(argv: Argv, options?: RunOptions): Promise<RunResult>;
  /** The command line that runs `argv`. */
  argv(argv: Argv): Promise<Argv>;
  /**
   * Sends a signal as root.
   * @throws BangerError when sudo refuses, or there is no such process
   */
  kill: ForeignKill;
}

/** One for each right. */
export type Rights = Readonly<Record<Right, Privileged>>;

/** Asking sudo for a signal takes milliseconds; one that hangs itself, as for a directory service, is given up. */
const KILL_LIMIT_MS = 5000;

/** Where sudo looks programs up unless its configuration says otherwise (Debian's and Fedora's secure_path). */
export const SUDO_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export function createRights(runner: Runner, options: PrivilegeOptions): Rights {
  return {
    network: createPrivileged(runner, options, 'network'),
    kvm: createPrivileged(runner, options, 'kvm'),
    root: createPrivileged(runner, options),
  };
}

export function createPrivileged(runner: Runner, options: PrivilegeOptions, right: Right = 'root'): Privileged {
  const { uid, gid = process.getegid?.() ?? uid, sudo, sudoProgram, kvmGroup } = options;
  const bySudo = (argv: Argv): Argv => {
    if (sudo === 'never') {
      throw new BangerError(
        'host_unprepared',
        `\`${argv.join(' ')}\` needs root, and the setting privilege.sudo is "never".`,
        {
          hint: 'Run the daemon as root, or set privilege.sudo = "auto" and install the rules of: banger doctor --sudoers',
        },
      );
    }
    return [sudoProgram, '-n', '--', ...argv];
  };
  const withRight = async (argv: Argv): Promise<Argv> => {
    if (uid === 0) return argv;
    if (right === 'root' || sudo === 'never') return bySudo(argv);
    const [program, ...args] = argv;
    // sudo matches all but the first word as text, so they have to be written as its rules have them
    const found = await findProgram(program, { PATH: SUDO_PATH });
    const owner = { uid, gid, kvmGroup: right === 'kvm' ? await kvmGroup?.() : undefined };
    return bySudo([LOWERER, ...lowerTo(right, owner), found.found ? found.path : program, ...args]);
  };
  const kill: ForeignKill = async (pid, signal) => {
    const argv: Argv = ['kill', `-${signal.slice(3)}`, String(pid)];
    await runner.run(uid === 0 ? argv : bySudo(argv), { timeoutMs: KILL_LIMIT_MS });
  };
  return {
    argv: withRight,
    kill,
    async run(argv, runOptions) {
      try {
        // what runs as root is ended as root
        const ending = uid !== 0 && right === 'root' ? { foreignKill: kill } : {};
        return await runner.run(await withRight(argv), { ...runOptions, ...ending });
      } catch (error) {
        throw sudoRefusal(error, argv) ?? error;
      }
    },
  };
}

/** What sudo complains about and then runs the program all the same: a host name without an address, limits of containers. */
const SUDO_WARNINGS = /^sudo: (unable to resolve host|setrlimit\().*$/gm;

/** sudo's own refusals, told apart from failures of the program it ran. */
function sudoRefusal(error: unknown, argv: Argv): BangerError | undefined {
  const stderr = error instanceof BangerError ? error.details?.stderr : undefined;
  if (typeof stderr !== 'string' || !/^sudo: /m.test(stderr.replace(SUDO_WARNINGS, ''))) return undefined;
  return new BangerError('host_unprepared', `sudo does not let this user run \`${argv.join(' ')}\`.`, {
    cause: error,
    hint: STORAGE_PROGRAMS.some((program) => program === basename(argv[0]))
      ? 'Install the rules that this prints, those for the store without their "#": banger doctor --sudoers'
      : 'Install the rules that this prints: banger doctor --sudoers',
    details: { program: argv[0] },
  });
}
