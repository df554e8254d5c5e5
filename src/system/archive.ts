/**
 * `.tar.zst` archives of what banger keeps: packed with sparse files kept sparse, unpacked without trusting what is
 * in them. GNU tar does both, because no library keeps holes.
 */
import { createReadStream } from 'node:fs';
import { open, rename, rm, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { pipeline, type Readable, Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { BangerError, systemCode } from '../errors.ts';
import { formatSize } from '../units.ts';
import { type ArchiveKind, checkEntries, LISTING_OPTIONS, MAX_LISTING_BYTES, parseListing } from './archive-entries.ts';
import { pathExists } from './files.ts';
import type { Runner } from './runner.ts';

export interface ArchiveDeps {
  runner: Runner;
  programs: { tar: string; zstd: string };
  signal?: AbortSignal;
}

export interface PackRequest {
  /** archive to write; it must not exist */
  file: string;
  /** directory the members are in */
  directory: string;
  members: readonly string[];
  /** directory they get in the archive */
  top: string;
  /** packs what links lead to in their place */
  followLinks?: boolean;
}

export const TRANSFER_TIMEOUT_MS = 30 * 60_000;

/** Left free on the file system that is unpacked to, so that an import cannot stop everything else. */
const RESERVED_BYTES = 64 * 1024 * 1024;

const ZSTD_MAGIC = 0xfd2fb528;
const GZIP_MAGIC = 0x8b1f;

/**
 * Writes an archive that appears whole or not at all.
 * @throws BangerError `conflict` when the file exists
 */
export async function packArchive(deps: ArchiveDeps, request: PackRequest): Promise<void> {
  const target = resolve(request.file);
  if (await pathExists(target)) {
    throw new BangerError('conflict', `${target} exists already.`, {
      hint: 'Choose another name, or remove it first.',
    });
  }
  // asked first: tar reports a missing compressor as a broken pipe
  await deps.runner.run([deps.programs.zstd, '--version']);
  const temporary = `${target}.${process.pid}.part`;
  try {
    await deps.runner.run(
      [
        deps.programs.tar,
        ...['--create', '--sparse', '--format=gnu', '--sort=name', '--hard-dereference'],
        ...(request.followLinks ? ['--dereference'] : []),
        ...['--owner=0', '--group=0', '--numeric-owner', `--use-compress-program=${deps.programs.zstd}`],
        ...[`--transform=s,^,${request.top}/,S`, '--file', temporary, '--directory', request.directory, '--'],
        ...request.members,
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
 * Unpacks an archive after a look at its list of entries; compressed or not.
 * @param into an empty directory; what is left there after a failure is the caller's to remove
 * @returns the directory in it that holds the manifest
 * @throws BangerError `corrupt` when the archive holds what it may not, or is damaged
 * @throws BangerError `host_unprepared` when it does not fit on the disk
 */
export async function unpackArchive(deps: ArchiveDeps, file: string, into: string, kind: ArchiveKind): Promise<string> {
  const { bavail, bsize } = await statfs(into);
  const roomBytes = Math.max(0, bavail * bsize - RESERVED_BYTES);
  const limits = { roomBytes, signal: deps.signal, kind };
  const { tar } = deps.programs;
  const listed = await withArchive(file, limits, (input, signal) =>
    deps.runner.run([tar, ...LISTING_OPTIONS, '--file=-'], { timeoutMs: TRANSFER_TIMEOUT_MS, signal, input }),
  );
  // the runner keeps no more, and what it does not keep is not looked at
  if (Buffer.byteLength(listed.stdout) >= MAX_LISTING_BYTES) {
    throw new BangerError('corrupt', `${file} has too many entries: this is no ${kind.noun}.`, {
      hint: `Import only archives made by: ${kind.madeBy}`,
    });
  }
  const top = checkEntries(parseListing(listed.stdout), file, kind);
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
  { roomBytes, signal, kind }: { roomBytes: number; signal: AbortSignal | undefined; kind: ArchiveKind },
  run: (input: Readable, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  let failure: BangerError | undefined;
  // tar waits for its input for ever when that fails, so it has to be stopped
  const stop = new AbortController();
  const limit = byteLimit(roomBytes, () => tooLarge(file, roomBytes, kind));
  const source = createReadStream(file);
  const unpack = await decompressor(file);
  const stages = unpack ? [source, unpack, limit] : [source, limit];
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

function tooLarge(file: string, roomBytes: number, { noun, setting }: ArchiveKind): BangerError {
  const message = `${file} does not fit: it unpacks to more than the ${formatSize(roomBytes)} that are free.`;
  return new BangerError('host_unprepared', message, {
    hint: `Free some space, or move the ${noun}s with the setting ${setting}.`,
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

/** What makes a tar of it, by how it begins; undefined for a file that is not compressed. */
async function decompressor(file: string): Promise<Transform | undefined> {
  await using handle = await open(file);
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, 0);
  if (bytesRead < 4) return undefined;
  if (buffer.readUInt32LE(0) === ZSTD_MAGIC) return createZstdDecompress();
  return buffer.readUInt16LE(0) === GZIP_MAGIC ? createGunzip() : undefined;
}
