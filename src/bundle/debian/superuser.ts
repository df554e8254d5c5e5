/**
 * Root over files we make ourselves: the real one, or the root of a user namespace in which the user's
 * subordinate ids are real owners. Either way nothing is mounted in the host's own mount namespace.
 */
import { BangerError } from '../../errors.ts';
import type { Argv, Runner } from '../../system/runner.ts';

export interface Superuser {
  /** whether ids inside are the host's own */
  kind: 'root' | 'namespace';
  /** the command that runs `argv` as root; killing it kills everything it started */
  wrap(argv: Argv): Argv;
}

/** The PID namespace makes every descendant end with its first process, however it is killed. */
const CONTAINED: Argv = ['unshare', '--mount', '--pid', '--fork', '--kill-child'];

/**
 * How this user runs programs as the owner of a root file system.
 * @throws BangerError `host_unprepared` when an ordinary user has no subordinate ids or may make no user namespace
 */
export async function findSuperuser(runner: Runner, uid: number): Promise<Superuser> {
  if (uid === 0)
    return { kind: 'root', wrap: (argv) => ['setpriv', '--pdeathsig', 'KILL', ...CONTAINED, '--', ...argv] };
  const wrap = (argv: Argv): Argv => [...CONTAINED, '--user', '--map-root-user', '--map-auto', '--', ...argv];
  try {
    await runner.run(wrap(['true']));
  } catch (error) {
    throw new BangerError(
      'host_unprepared',
      'This user cannot own a root file system: no user namespace with ids of its own.',
      {
        cause: error,
        hint: 'Install newuidmap (sudo apt install uidmap) and see that /etc/subuid names you, or run the build with sudo.',
      },
    );
  }
  return { kind: 'namespace', wrap };
}
