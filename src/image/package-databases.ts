/** Which packages a root file system has, by the databases that package managers leave in it. */
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type InstalledPackage, parseApkInstalled, parseDpkgStatus, parsePacmanDesc } from '../core/packages.ts';
import { messageOf } from '../errors.ts';
import { turnsAfter } from '../system/turns.ts';
import { readRpmDatabase } from './rpm-database.ts';

/** Package managers by the type of their packages' URLs (package-url.org). */
export type PackageKind = 'deb' | 'apk' | 'rpm' | 'alpm';

/** Files of the root file system; links are followed. */
export interface RootFiles {
  read(path: string): Promise<Buffer | undefined>;
  list(directory: string): Promise<string[]>;
}

export interface FoundPackages {
  packages: InstalledPackage[];
  kinds: PackageKind[];
  /** what could not be read, each a sentence without its full stop */
  problems: string[];
}

const DPKG = '/var/lib/dpkg/status';
/** Images without dpkg itself have a file for each package. */
const DPKG_PARTS = '/var/lib/dpkg/status.d';
const APK = ['/lib/apk/db/installed', '/usr/lib/apk/db/installed'];
const RPM = ['/var/lib/rpm', '/usr/lib/sysimage/rpm'];
const RPM_NAME = 'rpmdb.sqlite';
/** More than any distribution has, where each has a file of its own. */
const MAX_FILES = 200_000;
const FILES_AT_ONCE = 1000;
const OLD_RPM_NAMES = ['Packages', 'Packages.db'];
const PACMAN = '/var/lib/pacman/local';

/** Every file that may be read, and directories whose files may be; `desc` files lie one level below. */
export const DATABASE_PLACES = {
  files: [DPKG, ...APK, ...RPM.map((directory) => `${directory}/${RPM_NAME}`)],
  directories: [DPKG_PARTS],
  directoriesOfDescriptions: [PACMAN],
} as const;

/** @param scratch directory for what is only read from files */
export async function findPackages(files: RootFiles, scratch: string): Promise<FoundPackages> {
  const found = new Map<string, InstalledPackage>();
  const kinds = new Set<PackageKind>();
  const problems: string[] = [];
  const add = (kind: PackageKind, packages: readonly InstalledPackage[]) => {
    for (const one of packages) {
      kinds.add(kind);
      found.set(`${one.name} ${one.arch} ${one.version}`, one);
    }
  };
  const turn = turnsAfter(FILES_AT_ONCE);
  const textOf = async (path: string) => {
    const pending = turn();
    if (pending) await pending;
    return (await files.read(path))?.toString('utf8') ?? '';
  };
  const fewOf = async (directory: string) => {
    const names = await files.list(directory);
    if (names.length > MAX_FILES) problems.push(`more than ${MAX_FILES} files are in its ${directory}`);
    return names.slice(0, MAX_FILES);
  };
  add('deb', parseDpkgStatus(await textOf(DPKG)));
  for (const name of await fewOf(DPKG_PARTS)) {
    if (name.endsWith('.md5sums')) continue;
    add('deb', parseDpkgStatus(await textOf(`${DPKG_PARTS}/${name}`), { all: true }));
  }
  for (const path of APK) add('apk', parseApkInstalled(await textOf(path)));
  for (const directory of RPM) {
    const names = await files.list(directory);
    if (OLD_RPM_NAMES.some((name) => names.includes(name)) && !names.includes(RPM_NAME)) {
      problems.push(`its database of rpm in ${directory} is in a format that is not read here`);
    }
    const bytes = names.includes(RPM_NAME) ? await files.read(`${directory}/${RPM_NAME}`) : undefined;
    if (!bytes || bytes.length === 0) continue;
    const copy = join(scratch, RPM_NAME);
    try {
      await writeFile(copy, bytes, { mode: 0o600 });
      add('rpm', readRpmDatabase(copy));
    } catch (error) {
      problems.push(messageOf(error).replace(/\.$/, ''));
    } finally {
      for (const suffix of ['', '-wal', '-shm', '-journal']) await rm(`${copy}${suffix}`, { force: true });
    }
  }
  for (const name of await fewOf(PACMAN)) {
    const one = parsePacmanDesc(await textOf(`${PACMAN}/${name}/desc`));
    if (one) add('alpm', [one]);
  }
  return { packages: [...found.values()], kinds: [...kinds], problems };
}

/** Which managers have left a database, without reading one. */
export async function packageKinds(files: RootFiles): Promise<PackageKind[]> {
  const has = async (path: string) => {
    const [directory, name = ''] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)];
    return (await files.list(directory)).includes(name);
  };
  const places: [PackageKind, string[]][] = [
    ['deb', [DPKG, DPKG_PARTS]],
    ['apk', APK],
    ['rpm', RPM.map((directory) => `${directory}/${RPM_NAME}`)],
    ['alpm', [PACMAN]],
  ];
  const kinds: PackageKind[] = [];
  for (const [kind, paths] of places) {
    for (const path of paths) if (!kinds.includes(kind) && (await has(path))) kinds.push(kind);
  }
  return kinds;
}
