/** `banger run`: from a name to a running VM, whatever is there already, and one command in it. */
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { bringUp, sayWhatItIs } from '../../shared/bring-up.ts';
import { EXEC_OPTIONS } from '../../shared/exec-options.ts';
import { runCommand } from '../../shared/run-command.ts';
import { COPY_OPTIONS } from '../../shared/run-copies.ts';
import { START_OPTIONS } from '../../shared/start-options.ts';
import { VM_OPTIONS } from '../../shared/vm-options.ts';

export default defineCommand({
  positionals: ['[name]', '[command...]'],
  behindDashes: 'command',
  completes: { name: ['vm'] },
  options: {
    ...VM_OPTIONS,
    ...START_OPTIONS,
    build: { type: 'off', help: 'make no bundle where there is none yet' },
    cold: { type: 'flag', help: 'boot a new VM, also where it could start from a template' },
    rm: { type: 'flag', help: 'run the command in a VM of its own, which is deleted for good afterwards' },
    ...COPY_OPTIONS,
    ...EXEC_OPTIONS,
    tty: {
      type: 'switch',
      help: 'give the command a terminal, even when this is none',
      offShort: 'T',
      offHelp: 'give the command no terminal, even when this is one',
    },
  },
  description:
    'Options that describe the VM count only when it is created. Where there is no bundle yet, the first one is made before, ' +
    'from Debian packages.\n' +
    'A command behind two dashes runs as with `banger exec`: standard output is its own, and the exit status is that of the ' +
    'command, 128 + number when a signal ended it.',
  examples: [
    'run web',
    'run db --memory 4G --work-disk 50G',
    'run web -- uname -a',
    'run --rm -- uname -a',
    'run --rm --image node --copy-in . --copy-out dist -- npm run build',
  ],
  async run(ctx, { args: { name, command }, options }) {
    if (options.rm || command.length > 0) {
      if (ctx.json)
        throw misplaced(
          '--json',
          'prints what a command of banger says',
          'Leave it out: output is that of the command.',
        );
      return await runCommand(ctx, name, command, options);
    }
    if (name === undefined) {
      throw new BangerError('invalid_input', 'There is no name of a VM to run.', {
        hint: 'banger run NAME   or one command in a VM of its own: banger run --rm -- COMMAND',
      });
    }
    for (const [flag, given] of [
      ['--copy-in', options.copyIn.length > 0],
      ['--copy-out', options.copyOut.length > 0],
      ['--overwrite', options.overwrite],
      ['--cwd', options.cwd !== undefined],
      ['--tty', options.tty !== undefined],
      ['--no-stdin', options.stdin],
    ] as const) {
      if (given) throw misplaced(flag, 'goes with a command', `banger run ${name} ${flag} ... -- COMMAND`);
    }
    const run = await bringUp(ctx, name, { ...options, processEnv: options.env });
    sayWhatItIs(ctx, run, options);
    return run.vm;
  },
});

function misplaced(flag: string, why: string, hint: string): BangerError {
  return new BangerError('invalid_input', `${flag} ${why}.`, { hint });
}
