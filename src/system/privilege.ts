/** Single programs as root: directly when we are root, through `sudo -n` otherwise. Never a shell. */
import { basename } from 'node:path';
import { BangerError } from '../errors.ts';
import { STORAGE_PROGRAMS } from './privileged-commands.ts';
import type { ForeignKill } from './processes.ts';
import type { Argv, Runner, RunOptions, RunResult } from './runner.ts';

export interface PrivilegeOptions {
  /** effective user id of this process */
  uid: number;
  /** whether sudo may be asked at all */
  sudo: 'auto' | 'never';
  /** sudo program, a name in PATH or a path */
  sudoProgram: string;
}

export interface Privileged {
  /**
   * Runs one program as root.
   * @throws BangerError `host_unprepared` when this user is not root and sudo refuses
   */
  run(argv: Argv, options?: RunOptions): Promise<RunResult>;
  /** The command line that runs `argv` as root. */
  argv(argv: Argv): Argv;
  /**
   * Sends a signal as root.
   * @throws BangerError when sudo refuses, or there is no such process
   */
  kill: ForeignKill;
}

/** Asking sudo for a signal takes milliseconds; one that hangs itself, as for a directory service, is given up. */
const KILL_LIMIT_MS = 5000;

export function createPrivileged(runner: Runner, options: PrivilegeOptions): Privileged {
  const asRoot = (argv: Argv): Argv => {
    if (options.uid === 0) return argv;
    if (options.sudo === 'never') {
      throw new BangerError(
        'host_unprepared',
        `\`${argv.join(' ')}\` needs root, and the setting privilege.sudo is "never".`,
        {
          hint: 'Run the daemon as root, or set privilege.sudo = "auto" and install the rules of: banger doctor --sudoers',
        },
      );
    }
    return [options.sudoProgram, '-n', '--', ...argv];
  };
  const kill: ForeignKill = async (pid, signal) => {
    await runner.run(asRoot(['kill', `-${signal.slice(3)}`, String(pid)]), { timeoutMs: KILL_LIMIT_MS });
  };
  return {
    argv: asRoot,
    kill,
    async run(argv, runOptions) {
      try {
        // what runs as root is ended as root
        return await runner.run(asRoot(argv), options.uid === 0 ? runOptions : { ...runOptions, foreignKill: kill });
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
