/**
 * The part of the user's ssh configuration that is about VMs: one file of ours, and one Include of it in the
 * user's own file. Names are found by the daemon, so no resolver needs to know them.
 */
import { chmod, mkdir, readFile, realpath, rm, stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import type { Config } from '../../config/schema.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { writeFileAtomic } from '../../system/files.ts';
import type { Terminal } from '../terminal.ts';

/** First line of what is ours, in both files. */
const MARKER = '# Written by "banger ssh-config --install"; "banger ssh-config --uninstall" removes it.';

/** What decides where a banger keeps its things; ssh may be started where these are not set. */
const PLACES = ['BANGER_HOME', 'BANGER_PATHS_RUN', 'BANGER_PATHS_STATE', 'BANGER_PATHS_CACHE', 'BANGER_PATHS_STORE'];

/** Our file: for every name below the zone, the way there. */
export function clientConfig(config: Pick<Config, 'dns' | 'paths'>, terminal: Pick<Terminal, 'self' | 'env'>): string {
  const { zone } = config.dns;
  const places = PLACES.flatMap((name) => (terminal.env[name] ? [`${name}=${terminal.env[name]}`] : []));
  const program = [...(places.length > 0 ? ['env', ...places] : []), ...terminal.self];
  // ssh expands %h, then a shell takes the command apart: the quotes keep a strange name from being more than that
  const command = [...program, 'ssh-proxy', '--zone', zone].map(shellWord).join(' ').replaceAll('%', '%%');
  const directory = join(config.paths.state, 'ssh');
  return [
    MARKER,
    `Host *.${zone}`,
    '  User root',
    `  ProxyCommand ${command} '%h'`,
    `  IdentityFile ${configValue(join(directory, 'id_ed25519'))}`,
    '  IdentitiesOnly yes',
    '  PreferredAuthentications publickey',
    // banger made the keys of the guests, so one it does not know is an attack or a mistake
    '  StrictHostKeyChecking yes',
    `  UserKnownHostsFile ${configValue(join(directory, 'known_hosts'))}`,
    '  GlobalKnownHostsFile /dev/null',
    '  CheckHostIP no',
    '',
  ].join('\n');
}

export interface ConfigFiles {
  /** the user's own file, which gets the Include */
  main: string;
  /** the file that is included */
  ours: string;
}

/** @param given the user's own file, when it is not the usual one */
export function configFiles(config: Pick<Config, 'paths'>, given: string | undefined): ConfigFiles {
  // ssh looks in the home of the user database, whatever HOME says
  const main = given ?? join(userInfo().homedir, '.ssh', 'config');
  return { main, ours: join(config.paths.state, 'ssh', 'config') };
}

/** Writes both files; doing it again brings them up to date. */
export async function installClientConfig({ main, ours }: ConfigFiles, text: string): Promise<void> {
  await mkdir(dirname(ours), { recursive: true, mode: 0o700 });
  await writeFileAtomic(ours, text, 0o600);
  const before = await readText(main);
  // first in the file: behind a Host line an Include counts for that host only, and ssh takes the first value it finds
  const after = [MARKER, includeLine(ours), '', withoutInclude(before ?? '', ours)].join('\n');
  if (after === before) return;
  await mkdir(dirname(main), { recursive: true, mode: 0o700 });
  await replaceText(main, after);
}

/** Takes both back; says whether there was anything. */
export async function uninstallClientConfig({ main, ours }: ConfigFiles): Promise<boolean> {
  const before = await readText(main);
  const after = withoutInclude(before ?? '', ours);
  const included = before !== undefined && after !== before;
  if (included) await replaceText(main, after);
  const written = (await readText(ours)) !== undefined;
  await rm(ours, { force: true });
  return included || written;
}

/** The user's text without our lines and the empty one behind them. */
function withoutInclude(text: string, ours: string): string {
  const lines = text.split('\n');
  for (;;) {
    const at = lines.indexOf(includeLine(ours));
    if (at < 0) return lines.join('\n');
    const first = lines[at - 1] === MARKER ? at - 1 : at;
    const last = lines[at + 1] === '' && at + 2 < lines.length ? at + 1 : at;
    lines.splice(first, last - first + 1);
  }
}

/** Unlike the values of other options, ssh takes this path as it stands. */
function includeLine(ours: string): string {
  return `Include ${quoted(ours)}`;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new BangerError('host_unprepared', `${path} cannot be read: ${systemCode(error) ?? error}.`, {
      cause: error,
      hint: 'Print the settings and put them where you want them: banger ssh-config',
    });
  }
}

/** Many keep this file as a link into a directory of their own: the link stays. */
async function replaceText(path: string, text: string): Promise<void> {
  const target = await realpath(path).catch(() => path);
  const mode = await stat(target).then(
    (found) => found.mode & 0o777,
    () => 0o600,
  );
  await writeFileAtomic(target, text, mode);
  await chmod(target, mode); // whatever our umask is
}

function configValue(value: string): string {
  return quoted(value.replaceAll('%', '%%'));
}

function quoted(value: string): string {
  return /[\s"#]/.test(value) ? `"${value.replaceAll('"', '\\"')}"` : value;
}

function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
