/** What `banger run` copies into a VM before its command and out of it afterwards. */
import { link, lstat, mkdtemp, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, posix, resolve } from 'node:path';
import { loadConfig } from '../../config/load.ts';
import { asBangerError, BangerError, systemCode } from '../../errors.ts';
import type { OptionSpecs } from '../command-shape.ts';
import type { Context } from '../context.ts';
import { guestSide, localSide } from './copy-sides.ts';
import { packFormat, streamTar, unpackOptions } from './copy-stream.ts';
import { watchInterrupts } from './interrupts.ts';

export const COPY_OPTIONS = {
  copyIn: {
    type: 'list',
    placeholder: 'dir[:guest]',
    completes: ['directory'],
    help: 'copy a directory into it first, to /root/NAME or where told; the command runs there',
  },
  copyOut: {
    type: 'list',
    placeholder: 'path[:here]',
    help: 'copy a file or directory out of it at the end, also when the command failed',
  },
  overwrite: { type: 'flag', help: 'let --copy-out write over files that are here already' },
} as const satisfies OptionSpecs;

/** Home of the user whose commands run in VMs, where relative paths begin. */
const GUEST_HOME = '/root';

/** Begins the name of a directory that holds what is on its way out of a VM. */
const WORK_PREFIX = '.banger-copy-';

export interface CopyIn {
  /** directory of this machine */
  from: string;
  /** directory in the guest */
  to: string;
}

export interface CopyOut {
  /** path in the guest */
  from: string;
  /** path on this machine */
  to: string;
}

export interface Copies {
  ins: readonly CopyIn[];
  outs: readonly CopyOut[];
  overwrite: boolean;
  /** directory the command runs in, undefined for the guest's own choice */
  cwd: string | undefined;
}

/**
 * Reads the options, and looks whether this machine has what is to go in and room for the names of what comes back.
 * @throws BangerError `invalid_input`, `not_found`, or `conflict` when something is in the way
 */
export async function planCopies(
  cwd: string,
  options: { copyIn: readonly string[]; copyOut: readonly string[]; overwrite: boolean; cwd: string | undefined },
): Promise<Copies> {
  const ins = options.copyIn.map((text) => parseCopyIn(text, cwd));
  for (const { from } of ins) await requireDirectory(from);
  const runsIn = options.cwd ?? ins[0]?.to;
  const outs = options.copyOut.map((text) => parseCopyOut(text, cwd, posix.resolve(GUEST_HOME, runsIn ?? '')));
  const taken = new Set<string>();
  for (const { to } of outs) {
    if (taken.has(to)) {
      throw new BangerError('invalid_input', `--copy-out: two of them go to ${to}.`, {
        hint: 'Give each its own place: --copy-out PATH:HERE',
      });
    }
    taken.add(to);
    await requirePlace(to, options.overwrite);
  }
  return { ins, outs, overwrite: options.overwrite, cwd: runsIn };
}

/** `DIR[:GUEST]`; the last colon counts, so a directory with one in its name needs its place in the guest named. */
function parseCopyIn(text: string, cwd: string): CopyIn {
  const colon = text.lastIndexOf(':');
  const from = resolve(cwd, colon < 0 ? text : text.slice(0, colon));
  const to = colon < 0 ? basename(from) : text.slice(colon + 1);
  if (colon !== 0 && text !== '' && to !== '') return { from, to: posix.resolve(GUEST_HOME, to) };
  throw new BangerError('invalid_input', `--copy-in: "${text}" names no directory, or no place in the guest for it.`, {
    hint: 'Write it as --copy-in DIR or --copy-in DIR:/path/in/the/guest',
  });
}

/** `PATH[:HERE]`; the first colon counts. @param base directory in the guest that a relative path begins at */
function parseCopyOut(text: string, cwd: string, base: string): CopyOut {
  const colon = text.indexOf(':');
  const from = posix.resolve(base, colon < 0 ? text : text.slice(0, colon));
  const here = colon < 0 ? posix.basename(from) : text.slice(colon + 1);
  if (colon !== 0 && text !== '' && here !== '' && from !== '/') return { from, to: resolve(cwd, here) };
  throw new BangerError('invalid_input', `--copy-out: "${text}" names no path in the guest, or no place here for it.`, {
    hint: 'Write it as --copy-out PATH or --copy-out PATH:HERE',
  });
}

async function requireDirectory(path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return undefined;
    throw error;
  });
  if (found?.isDirectory()) return;
  if (!found)
    throw new BangerError('not_found', `There is no directory ${path} to copy in.`, {
      hint: `ls -ld ${dirname(path)}`,
    });
  throw new BangerError('invalid_input', `${path} is no directory, and --copy-in takes directories.`, {
    hint: `Copy the one it is in: --copy-in ${dirname(path)}`,
  });
}

async function requirePlace(path: string, overwrite: boolean): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (!found) {
    const parent = await stat(dirname(path)).catch(() => undefined);
    if (parent?.isDirectory()) return;
    throw new BangerError('not_found', `There is no directory ${dirname(path)} to copy into.`, {
      hint: `Make it first: mkdir -p ${dirname(path)}`,
    });
  }
  if (overwrite || (found.isDirectory() && (await readdir(path)).length === 0)) return;
  throw exists(path);
}

function exists(path: string): BangerError {
  return new BangerError('conflict', `${path} exists already, and nothing is written over it.`, {
    hint: 'Choose another place with --copy-out PATH:HERE, or allow it with --overwrite',
  });
}

/** Copies what goes in; Ctrl-C ends it. */
export async function copyIn(ctx: Context, name: string, copies: Copies): Promise<void> {
  for (const { from, to } of copies.ins) {
    await interruptible(ctx, async (signal) => {
      const { here, there } = await sides(ctx, name);
      await there.look([to]);
      await there.run(['mkdir', '-p', '--', to], { signal });
      const unpack = unpackOptions(here, there, { times: true, modes: true });
      const pack = ['tar', '-c', '-C', from, ...packFormat(here, there), '-f', '-', '.'] as const;
      const ends = [
        { side: here, written: from },
        { side: there, written: `${name}:${to}` },
      ] as const;
      await streamTar(ctx, ...ends, pack, ['tar', '-x', '-C', to, ...unpack, '-f', '-'], signal);
    });
  }
}

/**
 * Copies what comes back; one that fails is shown and keeps none of the others. Each appears whole, and what was interrupted not at all. With `overwrite` files of equal names
 * are replaced one by one, and what else is in a directory stays.
 */
export async function copyOut(ctx: Context, name: string, copies: Copies): Promise<void> {
  for (const out of copies.outs) {
    try {
      await copyOneOut(ctx, name, out, copies.overwrite);
    } catch (error) {
      const failure = asBangerError(error);
      if (failure.code === 'cancelled') throw failure;
      ctx.fail(failure);
    }
  }
}

async function copyOneOut(ctx: Context, name: string, { from, to }: CopyOut, overwrite: boolean): Promise<void> {
  await interruptible(ctx, async (signal) => {
    const { here, there } = await sides(ctx, name);
    const [seen] = await there.look([from]);
    if (seen?.kind !== 'directory' && seen?.kind !== 'file') {
      throw new BangerError('not_found', `There is no ${name}:${from} to copy out.`, {
        hint: `banger exec ${name} -- ls -l ${posix.dirname(from)}`,
      });
    }
    const packed = posix.basename(seen.path);
    if (packed === '')
      throw new BangerError('invalid_input', `${name}:${from} is the whole guest.`, {
        hint: 'Name a directory in it.',
      });
    await requirePlace(to, overwrite);
    const work = await mkdtemp(join(dirname(to), WORK_PREFIX));
    try {
      const format = packFormat(there, here);
      const pack = ['tar', '-c', '-C', posix.dirname(seen.path), ...format, '-f', '-', `./${packed}`] as const;
      const unpack = unpackOptions(there, here, { times: true, modes: false });
      const ends = [
        { side: there, written: `${name}:${from}` },
        { side: here, written: to },
      ] as const;
      await streamTar(ctx, ...ends, pack, ['tar', '-x', '-C', work, ...unpack, '-f', '-'], signal);
      signal.throwIfAborted();
      await requireUnpacked(join(work, packed), `${name}:${from}`);
      await put(join(work, packed), to, overwrite);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  });
}

/** A guest sends what it likes. */
async function requireUnpacked(path: string, written: string): Promise<void> {
  if (await lstat(path).catch(() => undefined)) return;
  throw new BangerError('guest_failed', `The guest did not send ${written}.`);
}

async function sides(ctx: Context, name: string) {
  const { config } = await loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid });
  return { here: localSide(ctx, config.programs), there: guestSide(ctx, name) };
}

/** Ends the work at the first Ctrl-C or SIGTERM and waits until it has cleared up. */
async function interruptible(ctx: Context, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  using interrupts = watchInterrupts(ctx.terminal);
  const stop = new AbortController();
  const cancelled = new BangerError('cancelled', 'The copy was interrupted; nothing half-made is left here.');
  void interrupts.first.then(() => stop.abort(cancelled));
  try {
    await work(stop.signal);
  } catch (error) {
    throw stop.signal.aborted ? cancelled : error;
  }
}

/** Puts what came out of a guest in its place; links are never followed, so nothing is written elsewhere. */
async function put(from: string, to: string, overwrite: boolean): Promise<void> {
  const [source, target] = [await lstat(from), await lstat(to).catch(() => undefined)];
  if (!target) {
    // neither takes the place of what somebody made just now
    if (source.isDirectory()) await rename(from, to).catch((error) => Promise.reject(inTheWay(error, to)));
    else await link(from, to).catch((error) => Promise.reject(inTheWay(error, to)));
    return;
  }
  if (!overwrite) {
    await rmdir(to).catch((error) => Promise.reject(inTheWay(error, to)));
    return await put(from, to, false);
  }
  await merge(from, to);
}

async function merge(from: string, to: string): Promise<void> {
  const [source, target] = [await lstat(from), await lstat(to).catch(() => undefined)];
  if (source.isDirectory() && target?.isDirectory()) {
    for (const entry of await readdir(from, { encoding: 'buffer' })) {
      await mergeEntry(from, to, entry);
    }
    return;
  }
  if (target && source.isDirectory() !== target.isDirectory()) {
    throw new BangerError(
      'conflict',
      `${to} is ${target.isDirectory() ? 'a directory' : 'no directory'} and cannot be replaced.`,
      {
        hint: 'Move it away, or choose another place with --copy-out PATH:HERE',
      },
    );
  }
  await rename(from, to);
}

/** Names are bytes: one that is no text is carried over as it is. */
async function mergeEntry(from: string, to: string, entry: Buffer): Promise<void> {
  const text = entry.toString('utf8');
  if (Buffer.from(text).equals(entry)) return await merge(join(from, text), join(to, text));
  const [source, target] = [from, to].map((directory) => Buffer.concat([Buffer.from(`${directory}/`), entry]));
  if (source && target) await rename(source, target);
}

function inTheWay(error: unknown, path: string): unknown {
  const code = systemCode(error);
  return code === 'EEXIST' || code === 'ENOTEMPTY' || code === 'ENOTDIR' ? exists(path) : error;
}
