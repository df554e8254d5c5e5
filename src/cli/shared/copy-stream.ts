/** What tar at one end of a copy packs, tar at the other unpacks; a person sees how much has come. */
import { posix } from 'node:path';
import { PassThrough, type Readable, Transform } from 'node:stream';
import { BangerError } from '../../errors.ts';
import type { Argv } from '../../system/runner.ts';
import { formatSize } from '../../units.ts';
import type { Context } from '../context.ts';
import type { CopySide } from './copy-sides.ts';

/** One end of a stream, with what it is called. */
export interface StreamEnd {
  side: CopySide;
  /** as the person wrote it */
  written: string;
}

/** What is taken over besides names and content. */
export interface Kept {
  times: boolean;
  /** modes with setuid bits, whatever the umask says */
  modes: boolean;
  /** the directory that is unpacked into gets those of the one that was packed */
  top?: boolean;
}

/** What tar is to pack, and what that is called where it is unpacked. */
export interface Packed {
  pack: Argv;
  /** a name of one part, or `.` for what is in a directory */
  member: string;
}

/**
 * A directory is packed as what is in it, a file under the last part of the path that the person named, also if that is a
 * link. What a guest says where a link leads is no name for anything elsewhere.
 * @throws BangerError `guest_failed` for a path that cannot be that of a file
 */
export function packed(from: CopySide, to: CopySide, kind: 'directory' | 'file', path: string): Packed {
  const format = packFormat(from, to);
  if (kind === 'directory') return { pack: ['tar', '-c', '-C', path, ...format, '-f', '-', '.'], member: '.' };
  const member = posix.basename(path);
  if (['', '.', '..'].includes(member)) {
    throw new BangerError('guest_failed', `${from.prefix}${path} is said to be a file, which cannot be.`);
  }
  return { pack: ['tar', '-c', '-h', '-C', posix.dirname(path), ...format, '-f', '-', `./${member}`], member };
}

/** How tar packs: what one end alone understands would be lost or refused at the other. */
function packFormat(from: CopySide, to: CopySide): string[] {
  return from.gnuTar && to.gnuTar ? ['--format=posix', '--sparse'] : [];
}

/** Whatever is packed belongs to who unpacks it; a guest's setuid bits are not taken over unless that is asked for. */
export function unpackOptions(from: CopySide, to: CopySide, kept: Kept): string[] {
  const own = ['-o', ...(kept.times ? [] : ['-m']), ...(kept.modes ? ['-p'] : [])];
  if (!to.gnuTar) return own;
  const modes = !kept.modes && to.prefix === '' ? ['--no-same-permissions'] : [];
  const top = from.gnuTar && !kept.top ? ['--no-overwrite-dir'] : [];
  return [...own, ...modes, ...top, '--warning=no-timestamp'];
}

/**
 * One tar packs, the other unpacks.
 * @param signal ends both when aborted
 * @throws BangerError the words of the one that failed first
 */
export async function streamTar(
  ctx: Context,
  from: StreamEnd,
  to: StreamEnd,
  pack: Argv,
  unpack: Argv,
  signal?: AbortSignal,
): Promise<void> {
  const counted = countBytes(ctx, from.written);
  const through = new PassThrough();
  for (const each of [through, counted]) each.on('error', () => {}); // how both programs ended says why
  const failures: unknown[] = [];
  const failed = new AbortController();
  const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  const packed = from.side.run(pack, { output: through, signal: stop });
  const unpacked = to.side.run(unpack, { input: through.pipe(counted), ...(signal ? { signal } : {}) });
  await Promise.all([
    packed.catch((error) => failures.push(error)).finally(() => through.end()),
    unpacked.catch((error) => {
      failures.push(error);
      failed.abort(); // nobody takes what is packed any more
    }),
  ]);
  counted.clear();
  if (failures.length > 0) throw failures[0];
}

/** How often a person sees how much has come. */
const SHOW_EVERY_MS = 500;

function countBytes(ctx: Context, what: string): Readable & Transform & { clear(): void } {
  const { stderr } = ctx.terminal;
  let bytes = 0;
  let shown = false;
  const draw = () => {
    shown = true;
    stderr.write(`\r${what}  ${formatSize(bytes)}\x1b[K`);
  };
  const timer = stderr.isTTY && !ctx.quiet ? setInterval(draw, SHOW_EVERY_MS) : undefined;
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      done(null, chunk);
    },
  });
  return Object.assign(counter, {
    clear() {
      clearInterval(timer);
      if (shown) stderr.write('\r\x1b[K');
    },
  });
}
