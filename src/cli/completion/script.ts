/**
 * Completion scripts made from the registry. What is fixed (commands, options, their values) stands in
 * the script, so that a key press costs no process; names of what the daemon has are asked for.
 */
import type { Entry } from '../entry.ts';
import { bashScript } from './bash.ts';
import { fishScript } from './fish.ts';
import { describeCommands } from './known.ts';
import { zshScript } from './zsh.ts';

export type Shell = 'bash' | 'zsh' | 'fish';

export async function completionScript(shell: Shell, commands: readonly Entry[]): Promise<string> {
  const known = await describeCommands(commands);
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](known);
}
