/**
 * What comes out of a guest lands in a directory of its own, and is moved to its place from there. What a guest sends is not
 * trusted, and tar goes through links that an earlier copy has left: what is moved goes through none.
 */
import { chmod, lstat, mkdir, mkdtemp, open, readdir, rename, rm, rmdir, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { asBangerError, BangerError, messageOf, systemCode } from '../../errors.ts';
import { reasonOf } from '../../system/files.ts';
import type { Context } from '../context.ts';
import type { CopySide } from './copy-sides.ts';
import { type Kept, packed, type StreamEnd, streamTar, unpackOptions } from './copy-stream.ts';

/** Begins the name of a directory that holds what is on its way out of a VM. */
const WORK_PREFIX = '.banger-copy-';

/** Something in a guest that is to come here. */
export interface Arrival {
  from: StreamEnd;
  /** this machine */
  to: StreamEnd;
  kind: 'directory' | 'file';
  /** its path in the guest, as the person named it */
  path: string;
  kept: Kept;
  /** directory of this machine in which it is unpacked */
  near: string;
  signal: AbortSignal;
}

/**
 * Unpacks what a guest packs, and hands over the path it then has, from which it is to be moved. Of what is not moved
 * nothing is left, whatever happens.
 * @throws BangerError `guest_failed` when something else came than what was asked for
 * @throws BangerError `host_unprepared` when it cannot be written here
 */
export async function receive(
  ctx: Context,
  { from, to, kind, path, kept, near, signal }: Arrival,
  settle: (arrived: string) => Promise<void>,
): Promise<void> {
  const { pack, member } = packed(from.side, to.side, kind, path);
  const unpack = unpackOptions(from.side, to.side, kept);
  try {
    await inWorkDirectory(ctx, near, async (work) => {
      const content = join(work, 'content');
      await mkdir(content);
      await streamTar(ctx, from, to, pack, ['tar', '-x', '-C', content, ...unpack, '-f', '-'], signal);
      signal.throwIfAborted();
      const arrived = join(content, member);
      await requireKind(arrived, kind, from.written);
      await settle(arrived);
    });
  } catch (error) {
    throw refusal(error);
  }
}

/** A guest sends what it likes. */
async function requireKind(path: string, kind: 'directory' | 'file', written: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (!found) throw new BangerError('guest_failed', `The guest did not send ${written}.`);
  if (kind === 'directory' ? found.isDirectory() : found.isFile()) return;
  const wanted = kind === 'directory' ? 'directory' : 'regular file';
  throw new BangerError('guest_failed', `What the guest sent as ${written} is no ${wanted}.`, {
    hint: 'Copy a regular file, or a directory with what is in it.',
  });
}

/**
 * Where to unpack what goes to a path: in the directory that is there, which may be all that this user may write to and a
 * file system of its own; else in the one above it.
 */
export async function nearest(path: string): Promise<string> {
  return (await lstat(path).catch(() => undefined))?.isDirectory() ? path : dirname(path);
}

/** How what has come is put in its place. */
export interface Settling {
  side: CopySide;
  /** whether a directory takes the place of a file or a link, and a file that of an empty directory */
  swap: boolean;
  /** what a person can do about something in the way */
  hint: string;
}

/**
 * Moves what has come to its place: directories become one with those that are there, files and links take the place of
 * others.
 * @throws BangerError `conflict` for what cannot take the place of what is there; what was moved before stays
 */
export async function merge(
  ctx: Context,
  from: string | Buffer,
  to: string | Buffer,
  settling: Settling,
): Promise<void> {
  const [source, target] = [await lstat(from), await seen(to)];
  if (source.isDirectory() && target?.isDirectory()) {
    await chmod(from, 0o700); // the guest may have closed it
    // names are bytes: one that is no text is carried over as it is
    for (const name of await readdir(from, { encoding: 'buffer' })) {
      await merge(ctx, within(from, name), within(to, name), settling);
    }
    return;
  }
  if (target && source.isDirectory() !== target.isDirectory()) await makeWay(to, target.isDirectory(), settling);
  try {
    await move(from, to);
  } catch (error) {
    if (systemCode(error) !== 'EXDEV') throw error;
    await moveAcross(ctx, String(from), String(to), settling.side);
  }
}

function within(directory: string | Buffer, name: Buffer): Buffer {
  return Buffer.concat([Buffer.from(directory), Buffer.from('/'), name]);
}

/** What stands at a path, a link being one. */
async function seen(path: string | Buffer) {
  return await lstat(path).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  });
}

async function makeWay(path: string | Buffer, isDirectory: boolean, { swap, hint }: Settling): Promise<void> {
  const inTheWay = new BangerError(
    'conflict',
    `${path} is ${isDirectory ? 'a directory' : 'no directory'} and cannot be replaced.`,
    { hint },
  );
  if (!swap) throw inTheWay;
  if (!isDirectory) return await unlink(path);
  await rmdir(path).catch((error: unknown) => {
    throw systemCode(error) === 'ENOTEMPTY' || systemCode(error) === 'EEXIST' ? inTheWay : error;
  });
}

/**
 * Renames over whatever is no directory. Who moves a directory writes to it, to the entry for the one above, so one that is
 * read-only is not for that moment.
 */
export async function move(from: string | Buffer, to: string | Buffer): Promise<void> {
  const source = await lstat(from);
  const mode = source.mode & 0o7777;
  if (!source.isDirectory() || (mode & 0o200) !== 0) return await rename(from, to);
  await chmod(from, mode | 0o700);
  await using directory = await open(from);
  try {
    await rename(from, to);
  } finally {
    await directory.chmod(mode);
  }
}

/** Into a file system that is mounted within the target; there too it is whole before it has its name. */
async function moveAcross(ctx: Context, from: string, to: string, side: CopySide): Promise<void> {
  await inWorkDirectory(ctx, dirname(to), async (work) => {
    await side.run(['cp', '-a', '-T', '--', from, join(work, 'content')], {});
    await move(join(work, 'content'), to);
  });
}

/** Lends a directory for this user alone; that it cannot be removed is said, and hides no failure before it. */
async function inWorkDirectory(ctx: Context, near: string, use: (work: string) => Promise<void>): Promise<void> {
  const work = await mkdtemp(join(near, WORK_PREFIX));
  try {
    await use(work);
  } finally {
    await remove(ctx, work).catch((error) => ctx.warn(`${work} is left: ${messageOf(error)}`));
  }
}

/** Far more than a disk full of small files takes. */
const REMOVE_LIMIT_MS = 600_000;

/** Opens what a guest has closed. The programs know no longest path, and Ctrl-C, which all of a terminal get, is not for them. */
async function remove(ctx: Context, work: string): Promise<void> {
  try {
    await rm(work, { recursive: true, force: true });
  } catch {
    const { createRunner } = await import('../../system/runner.ts');
    const { run } = createRunner(ctx.terminal.env);
    await run(['chmod', '-R', 'u+rwX', '--', work], { timeoutMs: REMOVE_LIMIT_MS }).catch(() => {});
    await run(['rm', '-rf', '--', work], { timeoutMs: REMOVE_LIMIT_MS });
  }
}

/** That the file system refuses something is no fault of banger. */
function refusal(error: unknown): unknown {
  const { path, dest } = error as NodeJS.ErrnoException & { dest?: string };
  const at = dest ?? path;
  if (at === undefined || asBangerError(error).code !== 'internal') return error;
  const directory = dirname(at);
  return new BangerError('host_unprepared', `Nothing can be put into ${directory}: ${reasonOf(error)}.`, {
    cause: error,
    hint: `See who may write there: ls -ld ${directory}`,
  });
}
