/** What `banger setup` consists of: parts that each say what they would do, do it, and remember how to take it back. */
import { createHash } from 'node:crypto';
import type { Runner } from '../../system/runner.ts';
import type { Context } from '../context.ts';
import type { Journal } from './journal.ts';

export interface SetupContext {
  ctx: Context;
  runner: Pick<Runner, 'run'>;
  journal: Journal;
}

/** One thing to set up, as it is now. */
export interface Part {
  /** noun phrase, e.g. `completion of bash` */
  title: string;
  /** why there is nothing to do: it is so already, or this machine has no place for it */
  settled?: string;
  /** what will be done, each command as it could be typed and each file whole */
  plan: readonly string[];
  /**
   * Does it; what it changes is in the journal before it is changed.
   * @throws BangerError when it cannot be done
   */
  apply(): Promise<void>;
}

export function settled(title: string, why: string): Part {
  return { title, settled: why, plan: [], apply: async () => {} };
}

export function digestOf(content: string): string {
  return createHash('sha256').update(content).digest('hex');
}

/** A file as plans show it. */
export function showFile(path: string, content: string): string[] {
  return [
    `write ${path}`,
    ...content
      .trimEnd()
      .split('\n')
      .map((line) => `    | ${line}`),
  ];
}
