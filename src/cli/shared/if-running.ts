/** Questions that are not worth a daemon: whoever completes a word or asks for a version starts none. */
import type { Client } from '../../client/client.ts';
import { BangerError } from '../../errors.ts';
import type { OptionSpecs } from '../command-shape.ts';
import type { Context } from '../context.ts';

/** What the daemon answered; undefined when none runs. */
export async function ifRunning<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof BangerError && error.code === 'daemon_unreachable') return undefined;
    throw error;
  }
}

/** The option of listings that completion asks by. */
export const NAMES = {
  names: { type: 'flag', help: 'print only names, one a line, and start no daemon' },
} as const satisfies OptionSpecs;

/** What a listing shows; asked for its names alone it shows nothing where no daemon runs. */
export async function listed<T>(ctx: Context, names: boolean, ask: (api: Client) => Promise<T[]>): Promise<T[]> {
  return names ? ((await ifRunning(ask(ctx.runningApi))) ?? []) : await ask(ctx.api);
}

/** Each name once, one a line. */
export function nameLines(names: readonly (string | null)[]): string {
  return [...new Set(names.filter((name) => name !== null))].join('\n');
}
