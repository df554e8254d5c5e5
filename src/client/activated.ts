/**
 * A daemon whose socket systemd holds: it starts with the first connection. So whoever only wants to know whether it runs must not
 * connect; and where systemd's own unit for the socket came with this program, starting that is starting the daemon.
 */
import { lstat, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { identifyProcess } from '../system/processes.ts';
import type { Argv, Runner } from '../system/runner.ts';

const SOCKET_UNIT = 'bangerd.socket';

/** A manager that does not answer must not hold a command up: the daemon can be started without it. */
const SYSTEMCTL_LIMIT_MS = 5000;

/**
 * Variables that would not reach a daemon that systemd starts: settings and places of banger, and what apt and other programs of
 * the daemon obey.
 */
const OWN_ENVIRONMENT = /^(BANGER_.*|XDG_(STATE|CACHE|CONFIG)_HOME|(https?|ftp|no|all)_proxy)$/i;

/** @param mark file that is there while systemd holds the socket; without it a connection is no risk and tells */
export async function isDaemonRunning(mark: string, pidFile: string): Promise<boolean> {
  if (!(await exists(mark))) return true;
  const [pid, startTicks] = (await readFile(pidFile, 'utf8').catch(() => '')).trim().split(' ').map(Number);
  if (pid === undefined || startTicks === undefined || !(pid > 0)) return false;
  return (await identifyProcess(pid))?.startTicks === startTicks;
}

export interface SocketUnitOptions {
  /** command line of banger itself */
  self: Argv;
  env: NodeJS.ProcessEnv;
  uid: number;
  runner: Pick<Runner, 'run'>;
  /** directory that has systemd's own socket while it manages this machine; that of the user's manager for other users than root */
  managerDirectory: string | undefined;
}

/**
 * Has systemd listen on the daemon's socket, by the unit installed with this program.
 * @returns whether it does; false where there is no such unit or no systemd, or where the daemon needs variables of this shell
 */
export async function startSocketUnit({
  self,
  env,
  uid,
  runner,
  managerDirectory,
}: SocketUnitOptions): Promise<boolean> {
  const [program] = self;
  if (self.length > 1 || managerDirectory === undefined) return false;
  if (Object.keys(env).some((name) => OWN_ENVIRONMENT.test(name) && env[name])) return false;
  const manager = uid === 0 ? 'system' : 'user';
  const unit = join(dirname(dirname(program)), 'lib/systemd', manager, SOCKET_UNIT);
  if (!(await exists(unit)) || !(await exists(managerDirectory))) return false;
  const argv: Argv = ['systemctl', ...(uid === 0 ? [] : ['--user']), '--no-ask-password', 'start', SOCKET_UNIT];
  try {
    await runner.run(argv, { env, timeoutMs: SYSTEMCTL_LIMIT_MS });
    return true;
  } catch {
    return false;
  }
}

async function exists(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}
