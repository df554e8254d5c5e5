/**
 * A banger apart from every other one of this machine, for the demo and the tests: all it has lies in one
 * directory, where the next run finds the bundle again.
 */
import { createHash } from 'node:crypto';
import { lstat, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { MAX_SOCKET_PATH_BYTES, vmmSocket } from '../src/storage/layout.ts';

export interface DevHome {
  /** everything lies below it, but for sockets whose path would be too long */
  directory: string;
  /** `BANGER_HOME` */
  home: string;
  /** directory of the daemon's socket */
  run: string;
  /** directory of the bundle */
  bundle: string;
  /** what differs from the environment of whoever calls; these lines in a shell give them the same banger */
  settings: Record<string, string>;
  env: NodeJS.ProcessEnv;
}

/** Every VM's id has this many characters. */
const SAMPLE_ID = '00000000';

export async function openDevHome(given: string): Promise<DevHome> {
  const directory = resolve(given);
  await mkdir(directory, { recursive: true });
  const home = join(directory, 'home');
  const bundle = join(directory, 'bundle');
  const settings: Record<string, string> = {
    BANGER_HOME: home,
    BANGER_BUNDLE_DEFAULT: bundle,
    // what is there is what somebody asked for
    BANGER_WARM_AUTOMATIC: 'false',
  };
  let run = join(home, 'run');
  if (Buffer.byteLength(vmmSocket(run, SAMPLE_ID)) > MAX_SOCKET_PATH_BYTES) {
    run = await shortRunDirectory(home);
    settings.BANGER_PATHS_RUN = run;
  }
  return { directory, home, run, bundle, settings, env: { ...withoutPlaces(process.env), ...settings } };
}

/** The same for the same home, so that a daemon an earlier run left is found again. */
async function shortRunDirectory(home: string): Promise<string> {
  const session = process.env.XDG_RUNTIME_DIR;
  const name = `banger-${createHash('sha256').update(home).digest('hex').slice(0, 8)}`;
  const run = join(session !== undefined && isAbsolute(session) ? session : tmpdir(), name);
  await mkdir(run, { recursive: true, mode: 0o700 });
  // anybody may have made a directory of that name in /tmp before us
  const info = await lstat(run);
  if (!info.isDirectory() || info.uid !== process.geteuid?.() || (info.mode & 0o077) !== 0) {
    throw new Error(`${run} is not a directory of this user alone. Remove it, or set TMPDIR to another place.`);
  }
  return run;
}

/** The caller's own choice of VMM or memory counts; where the caller's own banger lives does not. */
function withoutPlaces(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const places = /^BANGER_(HOME|PATHS_\w+|BUNDLE_\w+)$/;
  return Object.fromEntries(Object.entries(env).filter(([name]) => !places.test(name)));
}
