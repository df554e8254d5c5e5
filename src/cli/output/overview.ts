/** `banger --help`, `banger vm --help`, and what to say to a word that is no command. */
import { Command as CommanderCommand, CommanderError } from 'commander';
import { BangerError } from '../../errors.ts';
import { NOUNS, namesOf } from '../entry.ts';
import { helpWidth, usageError } from '../parse.ts';
import { REGISTRY } from '../registry.ts';
import type { Output } from '../terminal.ts';

const EXAMPLES = `
Examples:
  banger run web                 create a VM named web and start it
  banger ssh web                 log in
  banger exec web -- uname -a    run one command
  banger rm --force web          delete it; for a day it can be had back

\`banger COMMAND --help\` says more about each of them.`;

export interface Overview {
  text: string;
  /** false when the help was not asked for, but nothing else was either */
  asked: boolean;
}

/**
 * Help above single commands.
 * @param words what was typed; no command begins with them
 * @throws BangerError `invalid_input` for a word that is neither command nor noun, or a flag nobody knows
 */
export function overview(words: readonly string[], output: Output): Overview {
  let text = '';
  const root = commandTree();
  const noun = words.find((word) => !word.startsWith('-'));
  configure(root);
  try {
    root.parse(words, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { text, asked: true };
    if (error.code === 'commander.help') return { text, asked: false };
    throw unknown(error, noun);
  }
  throw new BangerError('internal', `Nothing was made of: banger ${words.join(' ')}`);

  function configure(command: CommanderCommand): void {
    const write = (chunk: string) => {
      text += chunk;
    };
    command
      .exitOverride()
      .helpCommand(false)
      .helpOption('-h, --help', 'show this help')
      .configureOutput({
        writeOut: write,
        writeErr: write,
        outputError: () => {},
        getOutHelpWidth: () => helpWidth(output),
        getErrHelpWidth: () => helpWidth(output),
        getOutHasColors: () => false,
        getErrHasColors: () => false,
      });
    for (const child of command.commands) configure(child);
  }
}

/** Every command by name and summary only: enough to list them and to guess what was meant. */
function commandTree(): CommanderCommand {
  const root = new CommanderCommand('banger')
    .description('A separate computer per project, with a name.')
    .usage('COMMAND [options]')
    .option('--version', 'show the version')
    .addHelpText('after', EXAMPLES);
  const nouns = new Map<string, CommanderCommand>();
  for (const entry of REGISTRY) {
    let shown = entry.group === undefined;
    for (const name of namesOf(entry)) {
      const [noun = '', verb] = name.split(' ');
      if (verb === undefined) {
        const command = root.command(noun, { hidden: shown }).summary(entry.summary).description(entry.summary);
        if (entry.group !== undefined) command.helpGroup(`${entry.group}:`);
        shown = true;
      } else {
        const parent = nouns.get(noun) ?? new CommanderCommand(noun);
        nouns.set(noun, parent);
        parent.command(verb, { hidden: name !== entry.path }).description(entry.summary);
      }
    }
  }
  for (const [noun, about] of Object.entries(NOUNS)) {
    const command = nouns.get(noun);
    if (!command) throw new BangerError('internal', `No command begins with the noun ${noun}.`);
    command.description(about).usage('COMMAND [options]').helpGroup('By subject:');
    root.addCommand(command);
  }
  return root;
}

function unknown(error: CommanderError, noun: string | undefined): BangerError {
  const prefix = noun !== undefined && Object.hasOwn(NOUNS, noun) ? `banger ${noun}` : 'banger';
  if (error.code !== 'commander.unknownCommand') return usageError(error, `${prefix} --help`);
  const meant = /Did you mean (?:one of )?(.{1,500})\?\)/.exec(error.message)?.[1];
  const word = /unknown command '(.*)'/.exec(error.message)?.[1] ?? '';
  return new BangerError('invalid_input', `\`${prefix} ${word}\` is no command.`, {
    hint: meant === undefined ? `${prefix} --help` : guesses(prefix, meant),
  });
}

function guesses(prefix: string, meant: string): string {
  return `Did you mean ${meant
    .split(', ')
    .map((word) => `\`${prefix} ${word}\``)
    .join(' or ')}?`;
}
