/** `banger exec`: one command in a VM, with this terminal's or pipe's input and output. */
import type { ExecRequest } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { withoutSeparator } from '../../shared/pass-through.ts';
import { UNTIL, untilRequest } from '../../shared/start-options.ts';
import type { Terminal } from '../../terminal.ts';

export default defineCommand({
  positionals: ['name', 'command...'],
  options: {
    tty: {
      type: 'switch',
      short: 't',
      help: 'give it a terminal, even when this is none',
      offShort: 'T',
      offHelp: 'give it no terminal, even when this is one',
    },
    stdin: { type: 'off', short: 'n', help: 'give it no input' },
    env: { type: 'list', short: 'e', placeholder: 'name=value', help: 'set a variable for it; may be repeated' },
    until: UNTIL,
    cwd: { type: 'text', short: 'C', placeholder: 'dir', help: 'directory to run it in' },
  },
  completes: { name: ['vm'] },
  passThrough: true,
  data: false,
  description:
    'Options come before the name. It gets a terminal when input and output are one.\n' +
    'The exit status is that of the command, 128 + number when a signal ended it.',
  examples: [
    'exec web -- uname -a',
    'exec web sh -c \'echo "$HOME"\'',
    'exec db -- psql < dump.sql',
    'exec -t web htop',
  ],
  async run(ctx, { args: { name, command }, options }) {
    const argv = withoutSeparator(command);
    if (command[0]?.startsWith('-') && command[0] !== '--') {
      throw new BangerError('invalid_input', `The option ${command[0]} comes after the name.`, {
        hint: `banger exec ${command[0]} ${name} -- COMMAND`,
      });
    }
    if (argv.length === 0) {
      throw new BangerError('invalid_input', 'There is no command to run.', {
        hint: `banger exec ${name} -- uname -a`,
      });
    }
    const { runExec } = await import('../../shared/exec-session.ts');
    const tty = options.tty ?? (!options.stdin && onTerminal(ctx.terminal));
    const request: ExecRequest = {
      argv,
      tty,
      ...(tty ? terminalOf(ctx.terminal) : {}),
      env: Object.fromEntries(options.env.map(variable)),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...untilRequest(options.until),
    };
    ctx.terminal.endWithReader?.();
    const connection = await ctx.api.exec(name, request);
    ctx.status = await runExec(ctx.terminal, connection, { tty, input: !options.stdin });
  },
});

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

function variable(text: string): [string, string] {
  const [, name, value] = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) {
    throw new BangerError('invalid_input', `--env: "${text}" sets no variable.`, {
      hint: 'Write it as --env NAME=value.',
    });
  }
  return [name, value];
}
