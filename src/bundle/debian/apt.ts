/**
 * An apt of our own under the cache directory: the host's sources, proxies and trust, but nothing of its package
 * state. It resolves packages of any suite without root and without touching what the host has installed.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BangerError } from '../../errors.ts';
import type { Argv, Runner } from '../../system/runner.ts';
import { formatSources, parseDeb822, parseOneLine, readSources, sourcesForSuite } from './apt-sources.ts';

export interface AptRequest {
  /** release to resolve packages of, e.g. `bookworm` */
  suite: string;
  /** Debian's name of the architecture, e.g. `amd64` */
  arch: string;
  /** directory that holds this apt's lists and archives; created when missing */
  dir: string;
  /** environment of the programs */
  env: NodeJS.ProcessEnv;
  /** file of apt sources used as written instead of the host's own */
  sourcesFile?: string;
}

/** A prepared apt; give its environment to every apt program. */
export interface Apt {
  /** directory of this apt's state */
  dir: string;
  /** `APT_CONFIG` file */
  configFile: string;
  /** the sources used, as a deb822 file mmdebstrap reads too */
  sourcesFile: string;
  /** the host's download settings (proxies, TLS, validity checks) as configuration lines */
  acquireLines: string[];
  /** arguments for `apt-get` that say whose it is, for whoever finds it running; see `aptOf` */
  mark: readonly string[];
  /** where the host keeps passwords for its archives, as configuration lines */
  credentialLines: string[];
  env: NodeJS.ProcessEnv;
}

/** A package of the archive with the version apt would install. */
export interface ArchivePackage {
  name: string;
  version: string;
}

/** Parts of `Acquire` that shape what is downloaded, not how; ours are set below. */
const OWN_ACQUIRE = /^Acquire::(IndexTargets|CompressionTypes|Changelogs|Languages|GzipIndexes|cdrom)\b/i;

/** apt keeps options it does not know. */
const MARK = 'Banger::Directory=';

/** Directory of the apt that an `apt-get` with these arguments works for. */
export function aptOf(argv: readonly string[]): string | undefined {
  return argv.find((argument) => argument.startsWith(MARK))?.slice(MARK.length);
}

const SUITE = /^[a-z][a-z0-9.+-]{0,63}$/;

/** Downloads are waited for this long; apt retries by itself within. */
const DOWNLOAD_TIMEOUT_MS = 15 * 60_000;

/**
 * Writes the configuration of an isolated apt.
 * @throws BangerError `invalid_input` when the suite is no suite's name
 * @throws BangerError `host_unprepared` when apt is missing or its sources name no archive for the suite
 */
export async function prepareApt(runner: Runner, request: AptRequest): Promise<Apt> {
  if (!SUITE.test(request.suite)) {
    throw new BangerError('invalid_input', `"${request.suite}" is not the name of a Debian suite.`, {
      hint: 'Name a release such as bookworm or trixie.',
    });
  }
  const host = await hostApt(runner);
  const { dir } = request;
  for (const sub of ['lists/partial', 'archives/partial', 'sources.list.d', 'preferences.d']) {
    await mkdir(join(dir, sub), { recursive: true });
  }
  const sourcesFile = join(dir, 'sources.list.d', 'banger.sources');
  const configFile = join(dir, 'apt.conf');
  await writeFile(sourcesFile, await sourcesText(request, host));
  await writeFile(join(dir, 'status'), '');
  await writeFile(configFile, renderConfig(request, host));
  return {
    dir,
    configFile,
    sourcesFile,
    acquireLines: host.acquireLines,
    mark: ['-o', `${MARK}${dir}`],
    credentialLines: credentialLines(host),
    env: { ...request.env, APT_CONFIG: configFile, DEBIAN_FRONTEND: 'noninteractive' },
  };
}

/** Brings the package lists up to date. */
export async function updateLists(runner: Runner, apt: Apt, signal?: AbortSignal): Promise<void> {
  await runner.run(['apt-get', '-q', ...apt.mark, '-o', 'APT::Update::Error-Mode=any', 'update'], {
    env: apt.env,
    timeoutMs: DOWNLOAD_TIMEOUT_MS,
    ...(signal ? { signal } : {}),
  });
}

/**
 * Every package that installing `names` into an empty system brings, essential ones included, sorted by name.
 * @throws BangerError `command_failed` when the suite lacks one of them
 */
export async function resolvePackages(runner: Runner, apt: Apt, names: readonly string[]): Promise<ArchivePackage[]> {
  const argv: Argv = ['apt-get', '-qq', '--simulate', '--no-install-recommends', 'install', '?essential', ...names];
  const { stdout } = await runner.run(argv, { env: apt.env });
  const packages: ArchivePackage[] = [];
  for (const match of stdout.matchAll(/^Inst (\S+) \((\S+)/gm)) {
    packages.push({ name: match[1] ?? '', version: match[2] ?? '' });
  }
  return packages.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The package a metapackage stands for: its first dependency whose name matches, with the exact version. */
export async function resolveDependency(
  runner: Runner,
  apt: Apt,
  metapackage: string,
  pattern: RegExp,
): Promise<ArchivePackage> {
  const { stdout } = await runner.run(['apt-cache', 'show', '--no-all-versions', metapackage], { env: apt.env });
  const depends = /^Depends: (.*)$/m.exec(stdout)?.[1] ?? '';
  for (const dependency of depends.split(',')) {
    const match = /^(\S+)(?: \(= (\S+)\))?$/.exec(dependency.trim());
    if (match?.[1] && match[2] && pattern.test(match[1])) return { name: match[1], version: match[2] };
  }
  throw new BangerError('command_failed', `The package ${metapackage} names no kernel it stands for.`, {
    hint: `See its dependencies: apt-cache show ${metapackage}`,
  });
}

/** Downloads packages as files into `dir`. */
export async function downloadPackages(
  runner: Runner,
  apt: Apt,
  packages: readonly string[],
  dir: string,
  signal?: AbortSignal,
): Promise<void> {
  await runner.run(['apt-get', '-q', ...apt.mark, 'download', ...packages], {
    env: apt.env,
    cwd: dir,
    timeoutMs: DOWNLOAD_TIMEOUT_MS,
    ...(signal ? { signal } : {}),
  });
}

interface HostApt {
  sourceList: string;
  sourceParts: string;
  netrc: string;
  netrcParts: string;
  trusted: string;
  trustedParts: string;
  acquireLines: string[];
}

async function hostApt(runner: Runner): Promise<HostApt> {
  const { stdout } = await runner.run(['apt-config', 'dump', '--no-empty']);
  const value = (name: string, fallback: string) => new RegExp(`^${name} "(.*)";$`, 'm').exec(stdout)?.[1] ?? fallback;
  const etc = join(value('Dir', '/'), value('Dir::Etc', 'etc/apt'));
  const at = (name: string, fallback: string) => {
    const path = value(`Dir::Etc::${name}`, fallback);
    return path.startsWith('/') ? path : join(etc, path);
  };
  return {
    sourceList: at('sourcelist', 'sources.list'),
    sourceParts: at('sourceparts', 'sources.list.d'),
    netrc: at('netrc', 'auth.conf'),
    netrcParts: at('netrcparts', 'auth.conf.d'),
    trusted: at('trusted', 'trusted.gpg'),
    trustedParts: at('trustedparts', 'trusted.gpg.d'),
    acquireLines: stdout.split('\n').filter((line) => line.startsWith('Acquire::') && !OWN_ACQUIRE.test(line)),
  };
}

async function sourcesText(request: AptRequest, host: HostApt): Promise<string> {
  if (request.sourcesFile !== undefined) {
    const text = await readFile(request.sourcesFile, 'utf8');
    const stanzas = /^[ \t]{0,8}deb(\s|$)/m.test(text) ? parseOneLine(text) : parseDeb822(text);
    if (stanzas.length > 0) return formatSources(stanzas);
    throw new BangerError('invalid_input', `${request.sourcesFile} holds no apt source.`, {
      hint: 'Write it in the format of sources.list(5).',
    });
  }
  const stanzas = await readSources({ list: host.sourceList, parts: host.sourceParts });
  return formatSources(sourcesForSuite(stanzas, await hostCodename(), request.suite));
}

/** The host's release by name, empty where os-release gives none. */
async function hostCodename(): Promise<string> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  return /^VERSION_CODENAME="?([\w.-]+)"?$/m.exec(text)?.[1] ?? '';
}

function renderConfig(request: AptRequest, host: HostApt): string {
  const { dir, arch } = request;
  const paths: Record<string, string> = {
    'Dir::State': dir,
    'Dir::State::lists': join(dir, 'lists/'),
    'Dir::State::status': join(dir, 'status'),
    'Dir::Cache': dir,
    'Dir::Cache::archives': join(dir, 'archives/'),
    'Dir::Etc::sourcelist': '/dev/null',
    'Dir::Etc::sourceparts': join(dir, 'sources.list.d'),
    'Dir::Etc::main': '/dev/null',
    'Dir::Etc::parts': join(dir, 'preferences.d'),
    'Dir::Etc::preferences': '/dev/null',
    'Dir::Etc::preferencesparts': join(dir, 'preferences.d'),
    'Dir::Etc::trusted': host.trusted,
    'Dir::Etc::trustedparts': host.trustedParts,
    'APT::Architecture': arch,
    'APT::Architectures': arch,
    'Acquire::Languages': 'none',
  };
  const lines = Object.entries(paths).map(([name, path]) => `${name} "${path}";`);
  return `${[...lines, ...credentialLines(host), ...host.acquireLines].join('\n')}\n`;
}

function credentialLines(host: HostApt): string[] {
  return [`Dir::Etc::netrc "${host.netrc}";`, `Dir::Etc::netrcparts "${host.netrcParts}";`];
}
