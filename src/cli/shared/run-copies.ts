/** What `banger run` copies into a VM before its command and out of it afterwards. */
import { link, lstat, readdir, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, posix, resolve } from 'node:path';
import { loadConfig } from '../../config/load.ts';
import { asBangerError, BangerError, systemCode } from '../../errors.ts';
import type { OptionSpecs } from '../command-shape.ts';
import type { Context } from '../context.ts';
import { type CopySide, guestSide, localSide } from './copy-sides.ts';
import { packed, streamTar, unpackOptions } from './copy-stream.ts';
import { interruptible } from './interrupts.ts';
import { merge, move, nearest, receive } from './landing.ts';

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

const INTERRUPTED = 'The copy was interrupted; nothing half-made is left here.';

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
    await interruptible(ctx.terminal, INTERRUPTED, async (signal) => {
      const { here, there } = await sides(ctx, name);
      await there.look([to], signal);
      await there.run(['mkdir', '-p', '--', to], { signal });
      const unpack = unpackOptions(here, there, { times: true, modes: true });
      const { pack } = packed(here, there, 'directory', from);
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
  await interruptible(ctx.terminal, INTERRUPTED, async (signal) => {
    const { here, there } = await sides(ctx, name);
    const [seen] = await there.look([from], signal);
    if (seen?.kind !== 'directory' && seen?.kind !== 'file') {
      throw new BangerError('not_found', `There is no ${name}:${from} to copy out.`, {
        hint: `banger exec ${name} -- ls -l ${posix.dirname(from)}`,
      });
    }
    if (seen.path === '/')
      throw new BangerError('invalid_input', `${name}:${from} is the whole guest.`, {
        hint: 'Name a directory in it.',
      });
    await requirePlace(to, overwrite);
    const arrival = {
      from: { side: there, written: `${name}:${from}` },
      to: { side: here, written: to },
      kind: seen.kind,
      path: from,
      kept: { times: true, modes: false, top: true },
      // one that is free makes room for what comes, so that this appears whole
      near: overwrite ? await nearest(to) : dirname(to),
      signal,
    };
    await receive(ctx, arrival, async (arrived) => await put(ctx, here, arrived, to, overwrite));
  });
}

async function sides(ctx: Context, name: string) {
  const { config } = await loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid });
  return { here: localSide(ctx, config.programs), there: guestSide(ctx, name) };
}

/** Puts what came out of a guest in its place; links are never followed, so nothing is written elsewhere. */
async function put(ctx: Context, here: CopySide, from: string, to: string, overwrite: boolean): Promise<void> {
  const [source, target] = [await lstat(from), await lstat(to).catch(() => undefined)];
  if (!target) {
    // neither takes the place of what somebody made just now
    if (source.isDirectory()) await move(from, to).catch((error) => Promise.reject(inTheWay(error, to)));
    else await link(from, to).catch((error) => Promise.reject(inTheWay(error, to)));
    return;
  }
  if (!overwrite) {
    await rmdir(to).catch((error) => Promise.reject(inTheWay(error, to)));
    return await put(ctx, here, from, to, false);
  }
  const hint = 'Move it away, or choose another place with --copy-out PATH:HERE';
  await merge(ctx, from, to, { side: here, swap: false, hint });
}

function inTheWay(error: unknown, path: string): unknown {
  const code = systemCode(error);
  return code === 'EEXIST' || code === 'ENOTEMPTY' || code === 'ENOTDIR' ? exists(path) : error;
}
