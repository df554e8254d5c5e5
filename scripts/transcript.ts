/** Runs `dist/banger` as a person would: the command is printed, its output follows, and a failure is an error. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { commandLine } from '../src/system/runner.ts';

export const BANGER = join(import.meta.dirname, '../dist/banger');

export interface CommandOptions {
  env: NodeJS.ProcessEnv;
  /** limit in `ms` before the command is told to undo what it does and end */
  limitMs: number;
  /** ends the command as Ctrl-C would */
  signal?: AbortSignal;
  /**
   * `show` (default) gives it our stdout, `both` shows and returns what it prints there, `silent` only returns it; a function is
   * given all that it prints
   */
  output?: 'show' | 'both' | 'silent' | ((text: string) => void);
}

/** A command that did not do what it was asked; what it said about it has been printed. */
export class CommandFailure extends Error {
  override name = 'CommandFailure';
}

/** How long an interrupted command gets to undo what it did. */
const UNDO_MS = 60_000;

export function requireBuild(): void {
  if (!existsSync(BANGER)) throw new CommandFailure(`There is no ${BANGER}. Build it first: make build`);
}

/**
 * Runs `banger ARGS` and returns its stdout, which is empty when it went to ours.
 * @throws CommandFailure when it ends with anything but 0, or after `limitMs`
 */
export async function banger(args: readonly string[], options: CommandOptions): Promise<string> {
  const line = commandLine(['banger', ...args]);
  const { output = 'show' } = options;
  options.signal?.throwIfAborted();
  if (typeof output === 'function') output(`$ ${line}\n`);
  else if (output !== 'silent') process.stdout.write(`\n$ ${line}\n`);
  // a session of its own: Ctrl-C reaches it through us, once, and not a second time from the terminal
  const child = spawn(BANGER, args, {
    env: options.env,
    detached: true,
    stdio: [
      'ignore',
      output === 'show' ? 'inherit' : 'pipe',
      output === 'show' || output === 'both' ? 'inherit' : 'pipe',
    ],
  });
  const limit = AbortSignal.timeout(options.limitMs);
  const stop = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  let killer: NodeJS.Timeout | undefined;
  const interrupt = () => {
    child.kill('SIGINT');
    killer = setTimeout(() => child.kill('SIGKILL'), UNDO_MS);
  };
  stop.addEventListener('abort', interrupt, { once: true });
  if (typeof output === 'function') {
    for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', output);
  }
  if (output === 'both') child.stdout?.on('data', (chunk: Buffer) => process.stdout.write(chunk));
  const ended = new Promise<string>((resolve, reject) => {
    child.once('error', (error) => reject(new CommandFailure(`${BANGER} cannot be started: ${error.message}`)));
    child.once('exit', (code, signal) => resolve(signal ? `was killed by ${signal}` : `ended with ${code}`));
  });
  try {
    const [said, complaint, how] = await Promise.all([
      child.stdout ? text(child.stdout) : '',
      child.stderr ? text(child.stderr) : '',
      ended,
    ]);
    options.signal?.throwIfAborted();
    if (limit.aborted) throw new CommandFailure(`\`${line}\` did not end within ${options.limitMs / 1000} s.`);
    if (how !== 'ended with 0') {
      throw new CommandFailure(`\`${line}\` ${how}.${complaint === '' ? '' : `\n${complaint.trimEnd()}`}`);
    }
    return said;
  } finally {
    clearTimeout(killer);
    stop.removeEventListener('abort', interrupt);
  }
}
