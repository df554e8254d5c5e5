/** Bundles as they are named on the command line. */
import { resolve } from 'node:path';
import type { Context } from '../context.ts';

/** A word with a slash, `.` and `..` are directories seen from here; every other word is a name. */
export function bundleRef(ctx: Context, word: string): string {
  return word.includes('/') || word === '.' || word === '..' ? resolve(ctx.terminal.cwd, word) : word;
}
