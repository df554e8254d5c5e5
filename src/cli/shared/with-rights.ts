/** Commands for root, as this user can run them. */
import type { Argv } from '../../system/runner.ts';
import type { Terminal } from '../terminal.ts';

/** The command itself for root, else with sudo in front; without a terminal nobody could type a password. */
export function withRights(terminal: Pick<Terminal, 'uid' | 'stdin'>, argv: Argv): Argv {
  if (terminal.uid === 0) return argv;
  return ['sudo', ...(terminal.stdin.isTTY ? [] : ['-n']), '--', ...argv];
}
