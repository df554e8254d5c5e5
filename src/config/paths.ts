/**
 * Where banger keeps things, decided by environment and user alone. It reads no file and needs no
 * library, so that a client finds the daemon's socket at no cost.
 */
import { existsSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { BangerError } from '../errors.ts';
import type { PathsConfig } from './schema.ts';

export interface Paths extends PathsConfig {
  /** configuration files in reading order; a later one wins, each may be missing */
  configFiles: string[];
}

/**
 * All paths as environment and user decide them: `BANGER_PATHS_*` first, then `BANGER_HOME`, then the
 * system's directories for root and the XDG ones for everyone else. A configuration file may still move
 * all but `run`, so only the run directory (and so the socket) is final here.
 * @throws BangerError `invalid_input` when a variable holds a relative path
 */
export function resolvePaths(env: NodeJS.ProcessEnv, uid: number): Paths {
  const base = basePaths(env, uid);
  const state = absolute(env, 'BANGER_PATHS_STATE') ?? base.state;
  return {
    state,
    cache: absolute(env, 'BANGER_PATHS_CACHE') ?? base.cache,
    run: base.run,
    store: absolute(env, 'BANGER_PATHS_STORE') ?? join(state, 'store'),
    bundles: absolute(env, 'BANGER_PATHS_BUNDLES') ?? join(state, 'bundles'),
    configFiles: base.configFiles,
  };
}

/** Where a daemon started by a client leaves what it has to say. */
export function daemonLogFile(paths: Pick<Paths, 'state'>): string {
  return join(paths.state, 'bangerd.log');
}

/** Name of Firecracker in PATH; where nothing else is set, one that banger installed stands in for it. */
export const OWN_FIRECRACKER = 'firecracker';

/** The link that names the release in use, beside the releases. */
export const CURRENT_VMM = 'current';

/** Releases of Firecracker that `banger vmm install` brought, one directory each. */
export function installsDirectory(paths: Pick<PathsConfig, 'state'>): string {
  return join(paths.state, 'vmm');
}

/** Files that sudo reads its rules from; root's. */
export const SUDOERS_DIRECTORY = '/etc/sudoers.d';

/** The daemon's Unix socket. */
export function socketPath(paths: Pick<PathsConfig, 'run'>): string {
  return join(paths.run, 'bangerd.sock');
}

/** Who the daemon is, while it runs: process id and start time. */
export function pidFile(paths: Pick<PathsConfig, 'run'>): string {
  return join(paths.run, 'bangerd.pid');
}

/** A link that is there while systemd listens on the socket: then a connection says nothing of a daemon, it starts one. */
export function activationMark(paths: Pick<PathsConfig, 'run'>): string {
  return join(paths.run, 'bangerd.activated');
}

/** A directory that is there while systemd manages this machine, for other users than root while it manages their session. */
export function managerDirectory(env: NodeJS.ProcessEnv, uid: number): string | undefined {
  if (uid === 0) return '/run/systemd/system';
  const run = env.XDG_RUNTIME_DIR;
  return run !== undefined && isAbsolute(run) ? join(run, 'systemd') : undefined;
}

type BasePaths = Pick<Paths, 'state' | 'cache' | 'run' | 'configFiles'>;

function basePaths(env: NodeJS.ProcessEnv, uid: number): BasePaths {
  const home = absolute(env, 'BANGER_HOME');
  const run = absolute(env, 'BANGER_PATHS_RUN');
  if (home !== undefined) {
    return {
      state: join(home, 'state'),
      cache: join(home, 'cache'),
      run: run ?? join(home, 'run'),
      configFiles: [join(home, 'config.toml')],
    };
  }
  const userFile = join(xdg(env, uid, 'XDG_CONFIG_HOME', '.config'), 'banger', 'config.toml');
  const configFiles = ['/etc/banger/config.toml', userFile];
  if (uid === 0) {
    return { state: '/var/lib/banger', cache: '/var/cache/banger', run: run ?? '/run/banger', configFiles };
  }
  const state = join(xdg(env, uid, 'XDG_STATE_HOME', '.local/state'), 'banger');
  return {
    state,
    cache: join(xdg(env, uid, 'XDG_CACHE_HOME', '.cache'), 'banger'),
    run: run ?? userRunDirectory(env, uid, state),
    configFiles,
  };
}

/** The login session's directory, or one in the state directory where no session keeps one (cron, containers). */
function userRunDirectory(env: NodeJS.ProcessEnv, uid: number, state: string): string {
  const given = env.XDG_RUNTIME_DIR;
  if (given !== undefined && isAbsolute(given)) return join(given, 'banger');
  const usual = `/run/user/${uid}`;
  return existsSync(usual) ? join(usual, 'banger') : join(state, 'run');
}

/** An XDG base directory; relative values count as unset, as the XDG specification says. */
function xdg(env: NodeJS.ProcessEnv, uid: number, variable: string, below: string): string {
  const given = env[variable];
  if (given !== undefined && isAbsolute(given)) return given;
  return join(homeDirectory(env, uid), below);
}

function homeDirectory(env: NodeJS.ProcessEnv, uid: number): string {
  const home = env.HOME;
  if (home !== undefined && isAbsolute(home)) return home;
  if (uid === 0) return '/root';
  throw new BangerError('invalid_input', 'HOME is not set, so there is no place for the files of banger.', {
    hint: 'Set HOME, or BANGER_HOME to a directory of its own for banger.',
  });
}

function absolute(env: NodeJS.ProcessEnv, variable: string): string | undefined {
  const given = env[variable];
  if (given === undefined || given === '') return undefined;
  if (isAbsolute(given)) return given;
  throw new BangerError('invalid_input', `${variable} holds "${given}", which is no absolute path.`, {
    hint: `Write it out: ${variable}="$PWD/${given}"`,
  });
}
