/** Bundles as one file: `.tar.zst`, with disk images kept sparse, and nothing visible before its sums were compared. */
import { createReadStream } from 'node:fs';
import { mkdir, open, realpath, rename, rm, stat, statfs } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { pipeline, type Readable, Transform } from 'node:stream';
import { createZstdDecompress } from 'node:zlib';

import { BangerError, systemCode } from '../errors.ts';
import { pathExists } from '../system/files.ts';
import type { Argv, Runner } from '../system/runner.ts';
import { formatSize } from '../units.ts';
import { checkEntries, parseListing } from './archive.ts';
import { DEFAULT_LINK } from './catalog.ts';
import type { SumOptions } from './checksum.ts';
import type { KernelArch } from './kernel.ts';
import { type Bundle, MANIFEST_FILE, readBundle } from './manifest.ts';
import type { BundlePrograms } from './programs.ts';
import { type BundleVerdict, verifyBundle } from './verify.ts';
import { claimWorkDir, putInPlace, releaseWorkDir, restoreReplaced } from './work-dir.ts';

export interface TransferDeps {
  runner: Runner;
  programs: Pick<BundlePrograms, 'tar' | 'zstd' | 'cp'>;
  signal?: AbortSignal;
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

const TRANSFER_TIMEOUT_MS = 30 * 60_000;

/** Left free on the file system bundles live on, so that an import cannot stop everything else. */
const RESERVED_BYTES = 64 * 1024 * 1024;

const ZSTD_MAGIC = 0xfd2fb528;

/**
 * Writes a bundle as a `.tar.zst`: what its bundle.json names, in a directory of its name, and nothing else.
 * @throws BangerError `conflict` when the file exists
 */
export async function exportBundle(deps: TransferDeps, dir: string, file: string): Promise<void> {
  const bundle = await readBundle(dir);
  const target = resolve(file);
  if (await pathExists(target)) {
    throw new BangerError('conflict', `${target} exists already.`, {
      hint: 'Choose another name, or remove it first.',
    });
  }
  // asked first: tar reports a missing compressor as a broken pipe
  await deps.runner.run([deps.programs.zstd, '--version']);
  const temporary = `${target}.${process.pid}.part`;
  const { manifest } = bundle;
  try {
    await deps.runner.run(
      [
        deps.programs.tar,
        ...['--create', '--sparse', '--format=gnu', '--sort=name', '--hard-dereference'],
        ...['--owner=0', '--group=0', '--numeric-owner', `--use-compress-program=${deps.programs.zstd}`],
        ...[`--transform=s,^,${manifest.name}/,S`, '--file', temporary, '--directory', dir, '--'],
        ...(await membersOf(bundle)),
      ],
      { timeoutMs: TRANSFER_TIMEOUT_MS, ...(deps.signal ? { signal: deps.signal } : {}) },
    );
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
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
      : await unpackArchive(deps, source, work.result);
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

/** @returns the unpacked directory that holds bundle.json */
async function unpackArchive(deps: TransferDeps, file: string, into: string): Promise<string> {
  const { bavail, bsize } = await statfs(into);
  const roomBytes = Math.max(0, bavail * bsize - RESERVED_BYTES);
  const limits = { roomBytes, signal: deps.signal };
  const { tar } = deps.programs;
  const listed = await withArchive(file, limits, (input, signal) =>
    deps.runner.run(
      [tar, ...['--list', '--verbose', '--numeric-owner', '--full-time', '--quoting-style=escape', '--file=-']],
      { timeoutMs: TRANSFER_TIMEOUT_MS, signal, input },
    ),
  );
  const top = checkEntries(parseListing(listed.stdout), file);
  await withArchive(file, limits, (input, signal) =>
    deps.runner.run(
      [
        tar,
        ...['--extract', '--no-same-owner', '--no-same-permissions', '--keep-old-files'],
        ...['--directory', into, '--file=-'],
      ],
      { timeoutMs: TRANSFER_TIMEOUT_MS, signal, input },
    ),
  );
  return join(into, top);
}

/**
 * Runs tar on the archive's plain bytes, and stops it when there are more of them than fit: what tar writes is never
 * more than what it reads, since holes take no room in either.
 */
async function withArchive<T>(
  file: string,
  { roomBytes, signal }: { roomBytes: number; signal: AbortSignal | undefined },
  run: (input: Readable, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  let failure: BangerError | undefined;
  // tar waits for its input for ever when that fails, so it has to be stopped
  const stop = new AbortController();
  const limit = byteLimit(roomBytes, () => tooLarge(file, roomBytes));
  const source = createReadStream(file);
  const stages = (await isZstd(file)) ? [source, createZstdDecompress(), limit] : [source, limit];
  const finished = new Promise<void>((settle) => {
    pipeline(stages, (error) => {
      if (error && systemCode(error) !== 'ERR_STREAM_PREMATURE_CLOSE') {
        failure = error instanceof BangerError ? error : damaged(file, error);
        stop.abort();
      }
      settle();
    });
  });
  try {
    return await run(limit, signal ? AbortSignal.any([signal, stop.signal]) : stop.signal);
  } catch (error) {
    if (error instanceof BangerError && error.code === 'command_failed') failure ??= damaged(file, error);
    else if (failure === undefined) throw error;
  } finally {
    limit.destroy();
    await finished;
  }
  throw failure;
}

function byteLimit(bytes: number, error: () => BangerError): Transform {
  let left = bytes;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      left -= chunk.length;
      if (left >= 0) done(null, chunk);
      else done(error());
    },
  });
}

function tooLarge(file: string, roomBytes: number): BangerError {
  const message = `${file} does not fit: it unpacks to more than the ${formatSize(roomBytes)} that are free.`;
  return new BangerError('host_unprepared', message, {
    hint: 'Free some space, or move the bundles with the setting paths.bundles.',
  });
}

function damaged(file: string, cause: Error): BangerError {
  return new BangerError('corrupt', `${file} cannot be unpacked: ${ownWords(cause)}`, {
    cause,
    hint: 'Get the file again: it is damaged, cut short, or no .tar.zst archive.',
  });
}

/** What tar or zstd said first; its last line only says that it gives up. */
function ownWords(cause: Error): string {
  const stderr = cause instanceof BangerError ? cause.details?.stderr : undefined;
  const [first = ''] = typeof stderr === 'string' ? stderr.trim().split('\n') : [];
  return first.replace(/^\S+: /, '') || cause.message;
}

async function isZstd(file: string): Promise<boolean> {
  await using handle = await open(file);
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, 0);
  return bytesRead === 4 && buffer.readUInt32LE(0) === ZSTD_MAGIC;
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
