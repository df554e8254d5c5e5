/**
 * Debian packages for a guest, resolved and downloaded by the host: reading package lists takes an emulated guest a
 * minute and the host a second. The plan is apt's own, made from the guest's package state and sources; where the host
 * cannot make it, the guest's apt does all of it.
 */
import { createHash } from 'node:crypto';
import { stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Apt, prepareApt, updateLists } from '../../bundle/debian/apt.ts';
import { parseDeb822, parseOneLine, type SourceStanza } from '../../bundle/debian/apt-sources.ts';
import { parseDpkgStatus } from '../../core/packages.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { causeOf } from '../../image/failures.ts';
import { DEB_DIRECTORY } from '../../image/identity.ts';
import { DPKG_OPTIONS } from '../../image/package-managers.ts';
import type { ArchiveItem } from '../../image/tar-stream.ts';
import type { DiskRunner } from '../../storage/disk-runner.ts';
import { ensurePrivateDirectory, pathExists } from '../../system/files.ts';
import { createMutex } from '../../system/mutex.ts';
import type { Argv, Runner } from '../../system/runner.ts';

export interface DebPlan {
  /** the packages as files, to be unpacked at the guest's root */
  debs: ArchiveItem[];
  /** shell commands that install them, in apt's order */
  commands: string[];
}

export interface DebRequest {
  runner: Runner;
  reader: DiskRunner;
  /** debugfs program, a name in PATH or a path */
  debugfs: string;
  /** disk with the guest's root file system; nobody writes to it */
  rootDisk: string;
  packages: readonly string[];
  cacheDir: string;
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
}

const DOWNLOAD_LIMIT_MS = 15 * 60_000;

/** Package lists of one set of sources belong to one apt at a time. */
const mutex = createMutex();

/**
 * @returns undefined when the guest has to do it: it is no Debian, has pins or foreign architectures, or the host has no apt
 * @throws BangerError `invalid_input` when apt says that a package does not exist
 */
export async function planDebs(request: DebRequest): Promise<DebPlan | undefined> {
  const guest = await readGuest(request);
  if (!guest) return undefined;
  return await mutex.run(async () => {
    const apt = await prepareGuestApt(request, guest);
    if (!apt) return undefined;
    const install = ['--no-install-recommends', 'install', ...request.packages];
    const simulated = await request.runner.run(['apt-get', '-q', '--simulate', ...install], {
      env: apt.env,
      okExits: [0, 100],
      signal: request.signal,
    });
    if (simulated.exitCode !== 0) throw unresolvable(request.packages, simulated.stdout + simulated.stderr);
    const steps = parseSimulation(simulated.stdout);
    if (!steps) return undefined;
    const argv: Argv = ['apt-get', '-q', ...apt.mark, '-y', '--download-only', ...install];
    await request.runner.run(argv, { env: apt.env, timeoutMs: DOWNLOAD_LIMIT_MS, signal: request.signal });
    return await makePlan(apt, steps, request.packages);
  });
}

interface GuestPackages {
  arch: string;
  status: string;
  sources: SourceStanza[];
}

/** debugfs reads a file system without mounting it, and writes nothing. */
async function readGuest({ reader, debugfs, rootDisk, signal }: DebRequest): Promise<GuestPackages | undefined> {
  const ask = async (command: string) => (await reader.run([debugfs, '-R', command, rootDisk], { signal })).stdout;
  const names = async (directory: string) =>
    [...(await ask(`ls -p ${directory}`)).matchAll(/^\/\d+\/\d+\/\d+\/\d+\/([^/]+)\//gm)]
      .map((match) => match[1] ?? '')
      .filter((name) => name !== '.' && name !== '..');
  const status = await ask('cat /var/lib/dpkg/status');
  const arch = parseDpkgStatus(status).find(({ name }) => name === 'dpkg')?.arch;
  if (arch === undefined) return undefined;
  const foreign = (await ask('cat /var/lib/dpkg/arch')).split('\n').filter((line) => line !== '' && line !== arch);
  const pins =
    (await ask('cat /etc/apt/preferences')).trim() !== '' || (await names('/etc/apt/preferences.d')).length > 0;
  if (foreign.length > 0 || pins) return undefined;
  const sources = parseOneLine(await ask('cat /etc/apt/sources.list'));
  for (const name of (await names('/etc/apt/sources.list.d')).sort()) {
    if (!/^[\w-]+(\.[\w-]+)*\.(list|sources)$/.test(name)) continue;
    const text = await ask(`cat /etc/apt/sources.list.d/${name}`);
    sources.push(...(name.endsWith('.list') ? parseOneLine(text) : parseDeb822(text)));
  }
  return { arch, status, sources };
}

/** The guest's sources are data of a stranger: only archives on the net, and only keys that the host has too. */
async function isUsable(sources: readonly SourceStanza[]): Promise<boolean> {
  if (sources.length === 0) return false;
  for (const stanza of sources) {
    const uris = (stanza.get('URIs') ?? '').split(/\s+/).filter(Boolean);
    if (uris.length === 0 || uris.some((uri) => !/^https?:\/\//.test(uri))) return false;
    if (stanza.has('Trusted') || stanza.has('Allow-Insecure')) return false;
    const key = stanza.get('Signed-By')?.trim() ?? '';
    if (key.startsWith('/') && !(/^\/(usr\/share|etc\/apt)\/keyrings\/[\w.-]+$/.test(key) && (await pathExists(key)))) {
      return false;
    }
  }
  return true;
}

async function prepareGuestApt(request: DebRequest, guest: GuestPackages): Promise<Apt | undefined> {
  if (!(await isUsable(guest.sources))) return undefined;
  const text = guest.sources.map((stanza) => [...stanza].map(([name, value]) => `${name}: ${value.trim()}`).join('\n'));
  const sources = `${text.join('\n\n')}\n`;
  const id = createHash('sha256').update(`${guest.arch}\n${sources}`).digest('hex').slice(0, 16);
  const dir = join(request.cacheDir, 'apt', `guest-${id}`);
  const sourcesFile = `${dir}.sources`;
  try {
    const apt = await prepareApt(request.runner, {
      suite: 'guest',
      arch: guest.arch,
      dir,
      env: request.env,
      sourcesFile: await written(sourcesFile, sources),
    });
    await writeFile(join(dir, 'status'), guest.status);
    await updateLists(request.runner, apt, request.signal);
    return apt;
  } catch (error) {
    // no apt here, or the host does not reach the archive: the guest's own apt says what is wrong, if anything is
    if (error instanceof BangerError && error.code !== 'cancelled') return undefined;
    throw error;
  }
}

async function written(path: string, text: string): Promise<string> {
  await ensurePrivateDirectory(dirname(path));
  await writeFile(path, text);
  return path;
}

export type AptStep = { do: 'unpack'; name: string; version: string; arch: string } | { do: 'configure'; name: string };

/** The steps `apt-get --simulate` prints; undefined when it would remove something or needs a foreign architecture. */
export function parseSimulation(text: string): AptStep[] | undefined {
  const steps: AptStep[] = [];
  for (const line of text.split('\n')) {
    if (/^(Remv|Purg) /.test(line)) return undefined;
    const unpack = /^Inst (\S+)(?: \[\S*\])? \((\S+) .*\[(\w+)\]\)/.exec(line);
    const configure = /^Conf (\S+) /.exec(line);
    const [, name = '', version = '', arch = ''] = unpack ?? configure ?? [];
    if (name.includes(':')) return undefined;
    if (unpack) steps.push({ do: 'unpack', name, version, arch });
    else if (configure) steps.push({ do: 'configure', name });
  }
  return steps;
}

async function makePlan(apt: Apt, steps: readonly AptStep[], asked: readonly string[]): Promise<DebPlan> {
  const debs: ArchiveItem[] = [];
  for (const step of steps) {
    if (step.do !== 'unpack') continue;
    const file = debFile(step);
    const source = join(apt.dir, 'archives', file);
    const { size, mtime } = await stat(source);
    const path = `${DEB_DIRECTORY}/${file}`.slice(1);
    debs.push({ path, kind: 'file', mode: 0o644, user: '0', group: '0', mtime, size, source });
  }
  return { debs, commands: dpkgCommands(steps, asked) };
}

function debFile({ name, version, arch }: { name: string; version: string; arch: string }): string {
  return `${name}_${version.replaceAll(':', '%3a')}_${arch}.deb`;
}

/** apt's steps as few calls of dpkg as keep their order; then the notes apt would have made about who asked for what. */
export function dpkgCommands(steps: readonly AptStep[], asked: readonly string[]): string[] {
  const groups: AptStep[][] = [];
  for (const step of steps) {
    const last = groups.at(-1);
    if (last?.[0]?.do === step.do) last.push(step);
    else groups.push([step]);
  }
  // the last call unpacks and configures at once where that configures all there is, else -a finds what is left
  const [unpacked = [], configured = []] = groups.slice(-2);
  const leaves = (group: AptStep[], others: AptStep[]) =>
    group.some(({ name }) => !others.some((o) => o.name === name));
  const atOnce = configured[0]?.do === 'configure' && !leaves(configured, unpacked) && !leaves(unpacked, configured);
  if (configured[0]?.do === 'configure') groups.pop();
  const options = DPKG_OPTIONS.join(' ');
  const commands = groups.map((group) => {
    const files = group.flatMap((step) => (step.do === 'unpack' ? [`${DEB_DIRECTORY}/${debFile(step)}`] : []));
    if (files.length === 0) return `dpkg ${options} --configure ${group.map(({ name }) => name).join(' ')}`;
    return `dpkg ${options} ${atOnce && group === unpacked ? '--install' : '--unpack'} ${files.join(' ')}`;
  });
  const wanted = new Set(asked.map((name) => name.split('=')[0]));
  const automatic = steps.flatMap((step) => (step.do === 'unpack' && !wanted.has(step.name) ? [step] : []));
  const notes = automatic.map(({ name, arch }) => `Package: ${name}\\nArchitecture: ${arch}\\nAuto-Installed: 1\\n\\n`);
  return [
    ...commands,
    ...(atOnce && groups.length === 1 ? [] : [`dpkg ${options} --configure -a`]),
    ...(notes.length > 0 ? [`printf '${notes.join('')}' >> /var/lib/apt/extended_states`] : []),
    `rm -rf ${DEB_DIRECTORY}`,
  ];
}

function unresolvable(packages: readonly string[], output: string): BangerError {
  const lines = output.split('\n').filter((line) => /^E: |unmet|Depends/.test(line));
  const cause = causeOf(lines) ?? (lines.join(' ') || messageOf(output));
  return new BangerError('invalid_input', `The packages ${packages.join(', ')} cannot be installed: ${cause}.`, {
    hint: 'Correct the list of packages; apt-cache search finds names.',
    details: { lines },
  });
}
