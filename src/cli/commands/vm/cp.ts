/** `banger cp`: copies between this machine and VMs as a tar stream, over the connection the daemon keeps. */
import { lstat, stat } from 'node:fs/promises';
import { basename, dirname, posix, resolve } from 'node:path';
import { loadConfig } from '../../../config/load.ts';
import { asBangerError, BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { type CopySide, guestSide, localSide, type SeenPath } from '../../shared/copy-sides.ts';
import { packed, streamTar, unpackOptions } from '../../shared/copy-stream.ts';
import { interruptible } from '../../shared/interrupts.ts';
import { merge, nearest, receive } from '../../shared/landing.ts';
import { vmOfWord } from '../../shared/vm-names.ts';

export default defineCommand({
  positionals: ['paths...'],
  options: {
    recursive: { type: 'flag', short: 'r', help: 'copy directories with all that is in them' },
    preserve: { type: 'flag', short: 'p', help: 'keep times and modes' },
  },
  completes: { paths: ['vm-path'] },
  data: false,
  description:
    'The last path is where to: a directory that is there gets what is copied into it, anything else is its new name.\n' +
    'A path in a VM is written NAME:PATH; relative ones begin at /root.\n' +
    'A local path with a colon in it is written with a slash before the colon, e.g. ./a:b.\n' +
    'Links in directories stay links, one that is named itself is followed; holes stay holes. In a VM all belongs to root.\n' +
    'What comes out of a VM goes through no link that is here, unless the last path names it.',
  examples: ['cp notes.txt web:', 'cp -r web:/var/log ./logs', 'cp web:dump.sql db:/tmp/'],
  async run(ctx, { args: { paths }, options }) {
    const target = paths.at(-1);
    if (target === undefined || paths.length < 2) {
      throw new BangerError('invalid_input', 'There is no path to copy to.', { hint: 'banger cp notes.txt web:' });
    }
    if (!paths.some((path) => vmOfPath(path) !== undefined)) {
      throw new BangerError('invalid_input', 'None of these paths is in a VM.', { hint: 'banger cp notes.txt web:' });
    }
    const { config } = await loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid });
    const sides = new Map<string | undefined, CopySide>([[undefined, localSide(ctx, config.programs)]]);
    const places = await Promise.all(paths.map((path) => placeOf(ctx, path, sides)));
    const to = places.pop();
    if (!to) return;
    const [into] = await to.side.look([to.path]);
    if (!into) return;
    if (places.length > 1 && into.kind !== 'directory') {
      throw new BangerError('invalid_input', `${target} is no directory, so it cannot take ${places.length} copies.`, {
        hint: `Make it first: ${on(to.side, `mkdir ${to.path}`)}`,
      });
    }
    await interruptible(ctx.terminal, isHere(to.side) ? INTERRUPTED_HERE : INTERRUPTED, async (signal) => {
      for (const from of places) {
        signal.throwIfAborted();
        try {
          await copy(ctx, from, to, into, { ...options, signal });
        } catch (error) {
          signal.throwIfAborted();
          ctx.fail(asBangerError(error)); // the others are copied all the same
        }
      }
    });
  },
});

const ELSEWHERE = 'Name another place, or move away what is there.';
const INTERRUPTED_HERE = 'The copy was interrupted; nothing half-made is left here.';
const INTERRUPTED = 'The copy was interrupted; of a directory there may be a part.';

/** The VM a path is in, by scp's rule: what stands before a colon, when no slash comes first. */
export function vmOfPath(path: string): string | undefined {
  return /^([^/:]+):/.exec(path)?.[1];
}

interface Place {
  side: CopySide;
  path: string;
  /** as the person wrote it */
  written: string;
}

async function placeOf(ctx: Context, word: string, sides: Map<string | undefined, CopySide>): Promise<Place> {
  const written = vmOfPath(word);
  const vm = written === undefined ? undefined : await vmOfWord(written, ctx.terminal);
  const path = written === undefined ? word : word.slice(written.length + 1) || '.';
  let side = sides.get(vm);
  if (!side) {
    side = guestSide(ctx, vm ?? '');
    sides.set(vm, side);
  }
  return { side, path: vm === undefined ? resolve(ctx.terminal.cwd, path) : path, written: word };
}

/** What a copy in a directory is called; `.` for what a path that ends in `.` holds, and for all of a home directory. */
function lastName({ written, path }: Place): string {
  return /(?:^|[/:])\.{0,2}\/{0,64}$/.test(written) ? '.' : basename(path);
}

/** A command line of whoever copies, for one of the two sides. */
function on({ prefix }: CopySide, command: string): string {
  return prefix === '' ? command : `banger exec ${prefix.slice(0, -1)} -- ${command}`;
}

function isHere({ prefix }: CopySide): boolean {
  return prefix === '';
}

interface CopyOptions {
  recursive: boolean;
  preserve: boolean;
  signal: AbortSignal;
}

async function copy(ctx: Context, from: Place, to: Place, into: SeenPath, options: CopyOptions): Promise<void> {
  const [source] = await from.side.look([from.path], options.signal);
  if (!source || source.kind === 'missing' || source.kind === 'unreachable') {
    throw new BangerError('not_found', `There is no ${from.written}.`, {
      hint: on(from.side, `ls -l ${posix.dirname(from.path)}`),
    });
  }
  if (source.kind === 'directory' && !options.recursive) {
    throw new BangerError('invalid_input', `${from.written} is a directory.`, {
      hint: 'Copy it with all that is in it: banger cp -r ...',
    });
  }
  if (into.kind === 'unreachable') {
    throw new BangerError(
      'not_found',
      `There is no directory ${to.side.prefix}${posix.dirname(to.path)} to copy into.`,
      { hint: `Make it first: ${on(to.side, `mkdir -p ${posix.dirname(to.path)}`)}` },
    );
  }
  const inside = into.kind === 'directory';
  const name = lastName(from);
  const target = inside ? (name === '.' ? into.path : posix.join(into.path, name)) : into.path;
  if (!inside && source.kind === 'file' && to.written.endsWith('/')) {
    throw new BangerError('not_found', `There is no directory ${to.written} to copy into.`, {
      hint: `Make it first: ${on(to.side, `mkdir -p ${to.path}`)}`,
    });
  }
  if (source.kind === 'directory' && into.kind === 'file') {
    throw new BangerError('conflict', `${to.written} is a file; a directory cannot take its place.`, {
      hint: ELSEWHERE,
    });
  }
  if (source.kind === 'directory' && from.side === to.side && `${target}/`.startsWith(`${source.path}/`)) {
    throw new BangerError('invalid_input', `${from.written} cannot be copied into itself.`, {
      hint: 'Name a place outside of it.',
    });
  }
  const put = isHere(to.side) ? putHere : putInGuest;
  await put(ctx, { from, to, kind: source.kind, target }, options);
}

interface Copy {
  from: Place;
  to: Place;
  kind: 'directory' | 'file';
  /** path on the side it goes to, behind the links that the person named */
  target: string;
}

async function putHere(ctx: Context, { from, to, kind, target }: Copy, { preserve, signal }: CopyOptions) {
  await requireRoom(from, kind, target);
  const kept = { times: preserve, modes: preserve };
  const arrival = { ...{ from, to, kind, kept, signal }, path: from.path, near: await nearest(target) };
  const settling = { side: to.side, swap: true, hint: ELSEWHERE };
  await receive(ctx, arrival, async (arrived) => await merge(ctx, arrived, target, settling));
}

/** A directory goes through no link but one that a person names: one that stands there may be of an earlier copy. */
async function requireRoom(from: Place, kind: 'directory' | 'file', target: string): Promise<void> {
  const found = await lstat(target).catch(() => undefined);
  if (!found || (kind === 'directory') === found.isDirectory()) return;
  if (kind === 'file') {
    throw new BangerError('conflict', `${target} is a directory; a file cannot take its place.`, { hint: ELSEWHERE });
  }
  const leads = (await stat(target).catch(() => undefined))?.isDirectory();
  throw new BangerError('conflict', `${target} is no directory; a directory cannot take its place.`, {
    hint: leads ? `To go through the link, name it: banger cp -r ${from.written}/. ${target}` : ELSEWHERE,
  });
}

async function putInGuest(ctx: Context, { from, to, kind, target }: Copy, { preserve, signal }: CopyOptions) {
  const { pack, member } = packed(from.side, to.side, kind, from.path);
  const unpack = unpackOptions(from.side, to.side, { times: preserve, modes: preserve });
  if (kind === 'directory') {
    await to.side.run(['mkdir', '-p', '--', target], { signal });
    await streamTar(ctx, from, to, pack, ['tar', '-x', '-C', target, ...unpack, '-f', '-'], signal);
    return;
  }
  // into a directory of its own first: the file may get another name, and half of one must not get that name
  const work = posix.join(dirname(target), `.banger-cp-${process.pid}-${Date.now().toString(36)}`);
  await to.side.run(['mkdir', '-m', '0700', '--', work], {});
  try {
    await streamTar(ctx, from, to, pack, ['tar', '-x', '-C', work, ...unpack, '-f', '-'], signal);
    await to.side.run(['mv', '-f', '--', posix.join(work, member), target], {});
  } finally {
    await to.side.run(['rm', '-rf', '--', work], {}).catch(() => {});
  }
}
