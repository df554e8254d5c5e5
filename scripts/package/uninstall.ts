/** Takes away what `make install` put somewhere. On the system that runs, what systemd made of it goes first. packaging/tarball/install.sh does the same. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Entry } from './content.ts';
import { unstage } from './stage.ts';

/** The system that files are taken from. */
export interface System {
  /** whether it is managed by systemd, and whoever calls may change that */
  managed: boolean;
  /** @returns standard output, undefined when the program fails or is missing */
  run(...argv: readonly string[]): string | undefined;
}

const UNITS = ['bangernet.socket', 'bangernet.service', 'bangerd.socket', 'bangerd.service'];
/** Where units of packages are. */
const PACKAGED_UNITS = '/usr/lib/systemd/system';

/**
 * @param root what `entries` are below
 * @param system whose root that is; undefined when it is none that runs
 */
export function uninstall(root: string, prefix: string, entries: readonly Entry[], system: System | undefined): void {
  const units = join(prefix, 'lib/systemd/system');
  const managed = system?.managed && uses(system, join(units, 'bangernet.socket')) ? system : undefined;
  const another = units !== PACKAGED_UNITS && existsSync(join(PACKAGED_UNITS, 'bangernet.socket'));
  if (another) {
    managed?.run('systemctl', 'stop', ...UNITS);
  } else {
    managed?.run('systemctl', 'disable', '--now', ...UNITS);
    managed?.run('systemctl', '--global', 'disable', 'bangerd.socket', 'bangerd.service');
  }
  unstage(
    root,
    entries.filter(({ path }) => !(system && path.startsWith('/etc/') && isPackaged(system, path))),
  );
  managed?.run('systemctl', 'daemon-reload');
  if (!another) return;
  for (const socket of ['bangernet.socket', 'bangerd.socket']) {
    if (managed?.run('systemctl', 'is-enabled', socket) !== undefined) managed.run('systemctl', 'start', socket);
  }
}

/** This system, for a tree that is its own. */
export function thisSystem(root: string): System | undefined {
  if (root !== '/') return undefined;
  return {
    managed: existsSync('/run/systemd/system') && process.geteuid?.() === 0,
    run(program = '', ...args) {
      const { status, stdout } = spawnSync(program, args, { encoding: 'utf8' });
      return status === 0 ? stdout : undefined; // what is not there needs no end, and files go all the same
    },
  };
}

/** Whether systemd has its unit from that file, and not from another banger's: the one in use shall stay. */
function uses(system: System, file: string): boolean {
  const used = system.run('systemctl', 'show', '--value', '--property=FragmentPath', 'bangernet.socket')?.trim();
  // systemd may call /usr/lib by its old name
  return used?.replace(/^\/usr\//, '/') === file.replace(/^\/usr\//, '/');
}

/** Whether a package has that file too: it goes with the package. */
function isPackaged(system: System, path: string): boolean {
  return system.run('dpkg', '-S', path) !== undefined || system.run('rpm', '-qf', path) !== undefined;
}
