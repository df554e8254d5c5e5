/** Bundles as one file: `.tar.zst`, with disk images kept sparse, and nothing visible before its sums were compared. */
import { mkdir, realpath, rm, stat } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';
import { type ArchiveDeps, packArchive, TRANSFER_TIMEOUT_MS, unpackArchive } from '../../system/archive.ts';
import type { ArchiveKind } from '../../system/archive-entries.ts';
import { pathExists } from '../../system/files.ts';
import type { Argv } from '../../system/runner.ts';
import type { KernelArch } from '../boot/kernel.ts';
import { claimWorkDir, putInPlace, releaseWorkDir, restoreReplaced } from '../debian/work-dir.ts';
import type { BundlePrograms } from '../programs.ts';
import { DEFAULT_LINK } from './catalogue.ts';
import type { SumOptions } from './checksum.ts';
import { type Bundle, MANIFEST_FILE, readBundle } from './manifest.ts';
import { type BundleVerdict, verifyBundle } from './verify.ts';

export interface TransferDeps extends ArchiveDeps {
  programs: Pick<BundlePrograms, 'tar' | 'zstd' | 'cp'>;
}

export interface ImportRequest {
  /** `.tar.zst` or `.tar` file, or a bundle's directory, which is copied */
  source: string;
  /** directory of all bundles */
  catalog: string;
  /** name in the catalog; default the one in bundle.json */
  name?: string;
  /** replaces a bundle of that name */
  replace?: boolean;
  /** architecture of this machine */
  arch: KernelArch;
  onBytes?: SumOptions['onBytes'];
}

const BUNDLE_ARCHIVE: ArchiveKind = {
  noun: 'bundle',
  manifest: MANIFEST_FILE,
  madeBy: 'banger bundle export',
  setting: 'paths.bundles',
};

/**
 * Writes a bundle as a `.tar.zst`: what its bundle.json names, in a directory of its name, and nothing else.
 * @throws BangerError `conflict` when the file exists
 */
export async function exportBundle(deps: TransferDeps, dir: string, file: string): Promise<void> {
  const bundle = await readBundle(dir);
  await packArchive(deps, {
    file,
    directory: dir,
    members: await membersOf(bundle),
    top: bundle.manifest.name,
  });
}

/**
 * Brings a bundle into the catalog: unpacked beside it, verified there, then renamed into place.
 * @throws BangerError `corrupt` when the archive holds what no bundle may, or a sum, field or architecture is wrong
 * @throws BangerError `conflict` when there is a bundle of that name
 * @throws BangerError `host_unprepared` when it does not fit on the disk
 */
export async function importBundle(deps: TransferDeps, request: ImportRequest): Promise<Bundle> {
  const { catalog } = request;
  await mkdir(catalog, { recursive: true });
  const source = resolve(request.source);
  const isDirectory = await isSourceDirectory(source);
  const removeTree = async (paths: string[]) => {
    for (const path of paths) await rm(path, { recursive: true, force: true });
  };
  const work = await claimWorkDir(join(catalog, '.import'), removeTree);
  try {
    const unpacked = isDirectory
      ? await copyDirectory(deps, source, work.result)
      : await unpackArchive(deps, source, work.result, BUNDLE_ARCHIVE);
    const { signal } = deps;
    const { onBytes } = request;
    const options = { arch: request.arch, ...(signal ? { signal } : {}), ...(onBytes ? { onBytes } : {}) };
    await readBundle(unpacked);
    const verdict = await verifyBundle(unpacked, options);
    if (!verdict.ok) throw refused(source, verdict);
    const name = request.name ?? verdict.bundle.manifest.name;
    const target = join(catalog, name);
    checkName(name);
    await restoreReplaced(target);
    if (!request.replace && (await pathExists(target))) {
      throw new BangerError('conflict', `There is a bundle "${name}" already.`, {
        hint: 'Import it under another name with --name, or replace it with --force.',
      });
    }
    await putInPlace(unpacked, target, removeTree);
    return await readBundle(target);
  } finally {
    await releaseWorkDir(work.path, removeTree);
  }
}

/** What belongs to a bundle; a file that is a link brings what it leads to. */
async function membersOf({ dir, manifest }: Bundle): Promise<string[]> {
  const base = await realpath(dir);
  const files: string[] = [];
  for (const path of Object.keys(manifest.files)) files.push(path, relative(base, await realpath(join(dir, path))));
  return [...new Set([MANIFEST_FILE, ...files, ...Object.keys(manifest.trees)])];
}

async function isSourceDirectory(source: string): Promise<boolean> {
  try {
    return (await stat(source)).isDirectory();
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new BangerError('not_found', `There is no file ${source}.`, {
      cause: error,
      hint: 'Name a .tar.zst file, or the directory of a bundle.',
    });
  }
}

async function copyDirectory(deps: TransferDeps, source: string, target: string): Promise<string> {
  const members = await membersOf(await readBundle(source));
  const argv: Argv = [
    deps.programs.cp,
    ...['--recursive', '--no-dereference', '--sparse=always', '--reflink=auto', '--parents', '--'],
    ...members,
    target,
  ];
  await deps.runner.run(argv, {
    cwd: source,
    timeoutMs: TRANSFER_TIMEOUT_MS,
    ...(deps.signal ? { signal: deps.signal } : {}),
  });
  return target;
}

function checkName(name: string): void {
  if (/^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/.test(name) && name !== DEFAULT_LINK) return;
  throw new BangerError('invalid_input', `"${name}" cannot be a bundle's name.`, {
    hint: 'Use lower-case letters, digits, dots and dashes.',
  });
}

function refused(source: string, verdict: BundleVerdict): BangerError {
  const wrong = verdict.checks.filter((check) => !check.ok);
  const list = wrong.map((check) => `field "${check.field}": ${check.detail}`).join(' ');
  return new BangerError('corrupt', `${source} was not imported. ${list}`, {
    hint: 'Get it again from where it was made.',
    details: { checks: wrong },
  });
}
