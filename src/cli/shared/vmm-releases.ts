/**
 * Releases of Firecracker below the state directory, one directory each: fetched, compared with their checksums, tried, and
 * only then renamed to where they count. The link `current` names the one that is used.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { CURRENT_VMM } from '../../config/paths.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import { unpackArchive } from '../../system/archive.ts';
import { download } from '../../system/download.ts';
import { ensurePrivateDirectory, pathExists, syncPath } from '../../system/files.ts';
import type { Runner } from '../../system/runner.ts';

export interface ReleaseStore {
  /** where releases are kept, absolute */
  directory: string;
  /** as release archives spell it, e.g. `x86_64` */
  arch: string;
  /** to which `/vVERSION/FILE` is added */
  releaseUrl: string;
  runner: Runner;
  programs: { tar: string; zstd: string };
}

export interface InstalledRelease {
  version: string;
  /** whether VMs are started with it, unless another Firecracker is in PATH */
  isCurrent: boolean;
  directory: string;
}

/** Both are part of every release; banger starts the first. */
const PROGRAMS = ['firecracker', 'jailer'];

/** The archives are some 10 MB. */
const ARCHIVE_LIMIT = { limitBytes: 512 * 1024 * 1024, timeoutMs: 15 * 60_000 };
const SUMS_LIMIT = { limitBytes: 64 * 1024, timeoutMs: 60_000 };

const RELEASE = /^\d+\.\d+\.\d+$/;

/** @throws BangerError `invalid_input` for what is no version of a release */
export function releaseVersion(text: string): string {
  const version = text.replace(/^v/, '');
  if (RELEASE.test(version)) return version;
  throw new BangerError('invalid_input', `"${text}" is no version of Firecracker.`, {
    hint: 'Versions look like 1.16.1: banger vmm install 1.16.1',
  });
}

/** The version in the name of a release archive; undefined when it has another name. */
export function versionOfArchive(file: string): string | undefined {
  return /^firecracker-v(\d+\.\d+\.\d+)-\w+\.tgz$/.exec(basename(file))?.[1];
}

/** Every release that is there, oldest first. */
export async function listReleases(directory: string): Promise<InstalledRelease[]> {
  const current = await readlink(join(directory, CURRENT_VMM)).catch(() => undefined);
  const names = await readdir(directory).catch((error) => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  return names
    .filter((name) => RELEASE.test(name))
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .map((version) => ({ version, isCurrent: version === current, directory: join(directory, version) }));
}

/**
 * Puts a release where VMs are started from, and makes it the one that is used.
 * @param from its archive, with the file of its checksum beside it; fetched when undefined
 * @returns whether it was new
 * @throws BangerError `corrupt` when the archive is not what the release says
 */
export async function installRelease(
  store: ReleaseStore,
  version: string,
  from: string | undefined,
  talk: (text: string) => void,
): Promise<{ release: InstalledRelease; isNew: boolean }> {
  const { directory } = store;
  const target = join(directory, version);
  const isNew = !(await pathExists(target));
  await ensurePrivateDirectory(directory);
  await removeLeftovers(directory);
  if (isNew) {
    // of this process: what a dead one left is told apart by it
    const work = await mkdtemp(join(directory, `.new-${process.pid}-`));
    try {
      const made = await prepareRelease(store, version, from, work, talk);
      await rename(made, target);
      await syncPath(directory);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
  await makeCurrent(directory, version);
  return { release: { version, isCurrent: true, directory: target }, isNew };
}

/**
 * Running VMs keep the program they were started with.
 * @returns the release that is used from now on, if one is left
 * @throws BangerError `not_found` when it is not there
 */
export async function removeRelease(directory: string, version: string): Promise<string | undefined> {
  const releases = await listReleases(directory);
  const removed = releases.find((release) => release.version === version);
  if (removed === undefined) {
    throw new BangerError('not_found', `Firecracker ${version} was not installed by banger.`, {
      hint: 'See what was: banger vmm list',
    });
  }
  const left = releases.filter((release) => release !== removed);
  const next = left.find(({ isCurrent }) => isCurrent)?.version ?? left.at(-1)?.version;
  // first, so that it never names what is not there
  if (next === undefined) await rm(join(directory, CURRENT_VMM), { force: true });
  else await makeCurrent(directory, next);
  const gone = await mkdtemp(join(directory, `.old-${process.pid}-`));
  await rename(removed.directory, join(gone, version));
  await rm(gone, { recursive: true, force: true });
  return next;
}

/** @returns a directory in `work` with the programs alone, which have been compared and tried */
async function prepareRelease(
  store: ReleaseStore,
  version: string,
  from: string | undefined,
  work: string,
  talk: (text: string) => void,
): Promise<string> {
  const { arch, runner, programs, releaseUrl } = store;
  const name = `firecracker-v${version}-${arch}.tgz`;
  const archive = from ?? join(work, name);
  const sums = from === undefined ? join(work, `${name}.sha256.txt`) : `${from}.sha256.txt`;
  if (from === undefined) {
    const url = `${releaseUrl.replace(/(?<!\/)\/+$/, '')}/v${version}/${name}`;
    talk(`Fetching ${url}`);
    await fetchOrExplain(`${url}.sha256.txt`, sums, SUMS_LIMIT, url);
    await fetchOrExplain(url, archive, ARCHIVE_LIMIT, url);
  }
  await compare(archive, sums, from === undefined ? name : basename(archive));

  const unpacked = join(work, 'unpacked');
  await mkdir(unpacked);
  const kind = {
    noun: 'release',
    manifest: `firecracker-v${version}-${arch}`,
    madeBy: "Firecracker's project",
    setting: 'paths.state',
  };
  const top = await unpackArchive({ runner, programs }, archive, unpacked, kind);
  const made = join(work, 'release');
  await mkdir(made, { mode: 0o755 });
  for (const program of PROGRAMS) {
    const file = join(top, `${program}-v${version}-${arch}`);
    if (!(await lstat(file).catch(() => undefined))?.isFile()) {
      throw new BangerError('corrupt', `${archive} holds no ${basename(file)}.`, { hint: 'Get the file again.' });
    }
    await chmod(file, 0o755);
    await syncPath(file);
    await rename(file, join(made, program));
  }
  await tryRelease(runner, made, version);
  await syncPath(made);
  return made;
}

async function fetchOrExplain(
  url: string,
  path: string,
  limit: typeof ARCHIVE_LIMIT,
  archiveUrl: string,
): Promise<void> {
  try {
    await download(url, path, limit);
  } catch (error) {
    if (!(error instanceof BangerError)) throw error;
    throw error.reworded(error.message, { hint: byHand(archiveUrl) });
  }
}

/** How a release comes to a machine that cannot fetch it. */
function byHand(url: string): string {
  const file = basename(url);
  return `Get two files on a machine with network: curl -LO ${url} -LO ${url}.sha256.txt   then here: banger vmm install --from ${file}`;
}

/** @throws BangerError `corrupt` when the file is another one than the sums say */
async function compare(archive: string, sums: string, name: string): Promise<void> {
  const text = await readFile(sums, 'utf8').catch((error) => {
    throw new BangerError('not_found', `There are no checksums to compare ${archive} with: ${messageOf(error)}.`, {
      hint: `Put the release's file beside it: ${sums}`,
    });
  });
  const lines = text.split('\n').map((line) => /^([0-9a-f]{64})(?:\s+\*?(\S+))?\s*$/i.exec(line));
  const wanted = lines.find((line) => line !== null && basename(line[2] ?? name) === name)?.[1]?.toLowerCase();
  if (wanted === undefined) {
    throw new BangerError('corrupt', `${sums} holds no SHA-256 checksum of ${name}.`, {
      hint: 'The archive keeps the name it has in the release.',
    });
  }
  const hash = createHash('sha256');
  await pipeline(createReadStream(archive), hash).catch((error) => {
    throw new BangerError('not_found', `${archive} cannot be read: ${messageOf(error)}.`, {
      cause: error,
      hint: `ls -l ${archive}`,
    });
  });
  const found = hash.digest('hex');
  if (found === wanted) return;
  throw new BangerError('corrupt', `${archive} has the checksum ${found}; the release says ${wanted}.`, {
    hint: 'Nothing was installed. Get the file again: it is damaged, cut short, or another one.',
  });
}

/** @throws BangerError `corrupt` when the program does not run here or is another version */
async function tryRelease(runner: Runner, directory: string, version: string): Promise<void> {
  const program = join(directory, 'firecracker');
  const said = await runner.run([program, '--version'], { timeoutMs: 10_000 }).catch((error) => {
    throw new BangerError('corrupt', `The firecracker of this release does not run here: ${messageOf(error)}`, {
      cause: error,
      hint: 'Get the release for this machine: banger vmm install',
    });
  });
  if (/\bv?(\d+\.\d+\.\d+)\b/.exec(said.stdout)?.[1] === version) return;
  const line = said.stdout.trim().split('\n')[0] ?? '';
  throw new BangerError('corrupt', `The firecracker of release ${version} says that it is "${line}".`, {
    hint: 'Nothing was installed. Get the file again.',
  });
}

/** From one moment to the next: there is no time without. */
async function makeCurrent(directory: string, version: string): Promise<void> {
  const link = join(directory, `.${CURRENT_VMM}-${process.pid}`);
  await rm(link, { force: true });
  await symlink(version, link);
  await rename(link, join(directory, CURRENT_VMM));
}

/** What an installation or removal that was killed has left. */
async function removeLeftovers(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    const pid = Number(/^\.(?:new|old|current)-(\d+)(?:-|$)/.exec(name)?.[1] ?? Number.NaN);
    if (Number.isNaN(pid) || (pid !== process.pid && lives(pid))) continue;
    await rm(join(directory, name), { recursive: true, force: true });
  }
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) !== 'ESRCH';
  }
}
