/** `banger exec`: one command in a VM, with this terminal's or pipe's input and output. */
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { EXEC_OPTIONS, execHere } from '../../shared/exec-options.ts';
import { withoutSeparator } from '../../shared/pass-through.ts';
import { UNTIL } from '../../shared/start-options.ts';

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
    stdin: EXEC_OPTIONS.stdin,
    env: EXEC_OPTIONS.env,
    until: UNTIL,
    cwd: EXEC_OPTIONS.cwd,
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
    ctx.terminal.endWithReader?.();
    ctx.status = await execHere(ctx, name, argv, options);
  },
});
