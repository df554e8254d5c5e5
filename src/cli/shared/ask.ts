/** A question to whoever types, where somebody does. */
import { createInterface } from 'node:readline/promises';
import type { Context } from '../context.ts';

/** @returns whether the answer was yes; no where nobody can be asked */
export async function askYes({ terminal }: Pick<Context, 'terminal'>, question: string): Promise<boolean> {
  if (terminal.stdin.isTTY !== true || terminal.stderr.isTTY !== true) return false;
  const lines = createInterface({ input: terminal.stdin, output: terminal.stderr });
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim());
  } finally {
    lines.close();
  }
}
