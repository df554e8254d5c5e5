/** The two ends of a copy: a directory of this machine or of a VM, out of which and into which tar works. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { realpath, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { BangerError, systemCode } from '../../errors.ts';
import type { Argv } from '../../system/runner.ts';
import type { Context } from '../context.ts';
import { runExec } from './exec-session.ts';

/** What may stand at a path; `unreachable` when the directory it would be in is not there. */
const PATH_KINDS = ['directory', 'file', 'missing', 'unreachable'] as const;
export type PathKind = (typeof PATH_KINDS)[number];

export interface SeenPath {
  kind: PathKind;
  /** the path behind links, of what is there; a guest says what it likes, so that of one is for that guest alone */
  path: string;
}

export interface CopyStreams {
  input?: Readable;
  output?: Writable;
  /** ends the program when aborted */
  signal?: AbortSignal;
}

/** One end of a copy. */
export interface CopySide {
  /** for messages: nothing for this machine, `web:` for a VM */
  prefix: string;
  /** whether its tar is GNU's, which keeps holes and fractions of seconds */
  gnuTar: boolean;
  /** What stands at these paths, links followed. */
  look(paths: readonly string[], signal?: AbortSignal): Promise<SeenPath[]>;
  /** Runs a program with this input, its output going there. Throws `guest_failed` or `command_failed` with its words. */
  run(argv: Argv, streams: CopyStreams): Promise<void>;
}

/**
 * This machine. What a guest packs is not trusted: root makes no devices of it, and it is unpacked where no earlier copy has
 * left a link, which tar would go through (`landing.ts`).
 */
export function localSide(ctx: Context, programs: { tar: string; cp: string }): CopySide {
  const asRoot = ctx.terminal.uid === 0 ? ['setpriv', '--bounding-set=-mknod'] : [];
  const configured = new Map([
    ['tar', [...asRoot, programs.tar]],
    ['cp', [programs.cp]],
  ]);
  return {
    prefix: '',
    gnuTar: true,
    look: async (paths) => await Promise.all(paths.map(lookHere)),
    async run([program, ...args], streams) {
      await runHere([...(configured.get(program) ?? [program]), ...args], ctx.terminal.env, streams);
    },
  };
}

async function lookHere(path: string): Promise<SeenPath> {
  try {
    const [found, real] = await Promise.all([stat(path), realpath(path)]);
    return { kind: found.isDirectory() ? 'directory' : 'file', path: real };
  } catch (error) {
    // links that lead in a circle lead nowhere, too
    if (!['ENOENT', 'ENOTDIR', 'ELOOP'].includes(systemCode(error) ?? '')) throw error;
    const parent = await stat(dirname(path)).catch(() => undefined);
    return { kind: parent?.isDirectory() ? 'missing' : 'unreachable', path };
  }
}

async function runHere(
  [program = '', ...args]: readonly string[],
  env: NodeJS.ProcessEnv,
  { input, output, signal }: CopyStreams,
): Promise<void> {
  signal?.throwIfAborted();
  const child = spawn(program, args, { env, stdio: [input ? 'pipe' : 'ignore', output ? 'pipe' : 'ignore', 'pipe'] });
  signal?.addEventListener('abort', () => child.kill('SIGKILL'), { once: true });
  const failed = once(child, 'error').then(([error]) => Promise.reject(notStarted(program, error)));
  if (input && child.stdin) {
    child.stdin.on('error', () => {}); // how it ended says why
    input.pipe(child.stdin);
  }
  if (output) child.stdout?.pipe(output);
  const said = child.stderr ? buffer(child.stderr) : Promise.resolve(Buffer.alloc(0));
  const ended = once(child, 'close').then(async ([code]) => {
    if (code !== 0)
      throw new BangerError('command_failed', lastWords(await said) ?? `\`${program}\` ended with ${code}.`);
  });
  try {
    await Promise.race([ended, failed]);
  } finally {
    failed.catch(() => {});
    input?.unpipe();
  }
}

function notStarted(program: string, error: Error): BangerError {
  return new BangerError('host_unprepared', `\`${program}\` cannot be run: ${error.message}`, {
    cause: error,
    hint: 'See what installs it here: banger doctor',
  });
}

/** Tells kind and path behind links of each path, NUL after each, then what tar this is. Small guests have no `dirname`. */
const LOOK = `for p do
  d=$p
  while :; do case $d in ?*/) d=\${d%/};; *) break;; esac; done
  case $d in */*) d=\${d%/*}/;; *) d=.;; esac
  if [ -d "$p" ]; then k=directory; elif [ -e "$p" ]; then k=file
  elif [ -d "$d" ]; then k=missing; else k=unreachable; fi
  case $k in directory|file) r=$(readlink -f -- "$p"; echo x); r=\${r%?x};; *) r=$p;; esac
  printf '%s\\0%s\\0' "$k" "\${r:-$p}"
done
command -v tar > /dev/null || { printf none; exit; }
case $(tar --version 2>/dev/null) in *GNU*) printf gnu;; *) printf other;; esac`;

/** A VM, over the connection the daemon keeps. */
export function guestSide(ctx: Context, name: string): CopySide {
  const side: CopySide = {
    prefix: `${name}:`,
    gnuTar: false,
    async look(paths, signal) {
      const output = new PassThrough();
      const said = buffer(output);
      const input = Readable.from([Buffer.from(LOOK)]);
      await side.run(['sh', '-s', '--', ...paths], { input, output, ...(signal ? { signal } : {}) });
      const fields = (await said).toString('utf8').split('\0');
      const tar = fields.pop();
      if (tar === 'none') {
        throw new BangerError('guest_failed', `${name} has no tar, which copies go through.`, {
          hint: `Install it there, or copy a single file: banger exec ${name} -- sh -c 'cat > FILE' < FILE`,
        });
      }
      side.gnuTar = tar === 'gnu';
      return paths.map((path, index) => ({
        kind: PATH_KINDS.find((kind) => kind === fields[2 * index]) ?? 'unreachable',
        path: fields[2 * index + 1] || path,
      }));
    },
    async run(argv, { input, output, signal }) {
      const request = { argv: [...argv], tty: false, env: { LC_ALL: 'C.UTF-8' } };
      const connection = await ctx.api.exec(name, request, signal);
      const leave = () => connection.destroy();
      signal?.addEventListener('abort', leave, { once: true });
      if (signal?.aborted) leave(); // while the daemon was asked
      const said: Buffer[] = [];
      const stderr = new Writable({
        write(chunk: Buffer, _encoding, done) {
          said.push(chunk);
          if (said.length > MAX_WORDS) said.shift();
          done();
        },
      });
      const stdout = output ?? new Writable({ write: (_chunk, _encoding, done) => done() });
      const { onSignal } = ctx.terminal;
      const streams = { stdin: input ?? new PassThrough().end(), stdout, stderr, onSignal };
      const status = await runExec(streams, connection, { tty: false, input: input !== undefined });
      output?.end();
      if (status === 0) return;
      throw new BangerError(
        'guest_failed',
        lastWords(Buffer.concat(said)) ?? `\`${argv[0]}\` in ${name} ended with ${status}.`,
      );
    },
  };
  return side;
}

/** Pieces of what a program complained about that are kept. */
const MAX_WORDS = 100;

/** The last complaints, one a line. */
function lastWords(said: Buffer): string | undefined {
  const lines = said
    .toString('utf8')
    .split('\n')
    .filter((line) => line.trim() !== '' && !/Exiting with failure status/.test(line));
  // GNU tar's words for a disk that filled up within a block
  const told = lines.map((line) => line.replace(/Wrote only \d+ of \d+ bytes/, '$&: No space left on device'));
  return told.length === 0 ? undefined : told.slice(-5).join('\n  ');
}
