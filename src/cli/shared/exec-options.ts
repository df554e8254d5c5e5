/** How a command in a VM is to run, as `exec` and `run` ask for it. */
import type { ExecRequest } from '../../api/vm.ts';
import type { OptionSpecs } from '../command-shape.ts';
import type { Context } from '../context.ts';
import type { Terminal } from '../terminal.ts';
import { untilRequest } from './start-options.ts';
import { parseVariable } from './words.ts';

export const EXEC_OPTIONS = {
  stdin: { type: 'off', short: 'n', help: 'give it no input' },
  env: { type: 'list', short: 'e', placeholder: 'name=value', help: 'set a variable for it; may be repeated' },
  cwd: { type: 'text', short: 'C', placeholder: 'dir', help: 'directory to run it in' },
} as const satisfies OptionSpecs;

export interface ExecChoices {
  /** undefined: it gets one when input and output are one */
  tty: boolean | undefined;
  /** true for no input */
  stdin: boolean;
  env: readonly string[];
  cwd: string | undefined;
  until: string | undefined;
}

function execRequest(
  { terminal }: Pick<Context, 'terminal'>,
  argv: string[],
  choices: ExecChoices,
): ExecRequest & { tty: boolean } {
  const tty = choices.tty ?? (!choices.stdin && onTerminal(terminal));
  return {
    argv,
    tty,
    ...(tty ? terminalOf(terminal) : {}),
    env: Object.fromEntries(choices.env.map(parseVariable)),
    ...(choices.cwd === undefined ? {} : { cwd: choices.cwd }),
    ...untilRequest(choices.until),
  };
}

/**
 * Runs it with this process's input and output.
 * @returns its exit status, 128 + number when a signal ended it
 */
export async function execHere(ctx: Context, name: string, argv: string[], choices: ExecChoices): Promise<number> {
  const { runExec } = await import('./exec-session.ts');
  const request = execRequest(ctx, argv, choices);
  const connection = await ctx.api.exec(name, request);
  return await runExec(ctx.terminal, connection, { tty: request.tty, input: !choices.stdin });
}

function onTerminal({ stdin, stdout }: Terminal): boolean {
  return stdin.isTTY === true && stdout.isTTY === true;
}

function terminalOf({ stdout, env }: Terminal): Pick<ExecRequest, 'columns' | 'rows' | 'term'> {
  return {
    // a terminal that does not tell its size says 0
    ...(stdout.columns ? { columns: stdout.columns } : {}),
    ...(stdout.rows ? { rows: stdout.rows } : {}),
    term: env.TERM ?? 'xterm-256color',
  };
}
